// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/internal/utils/podutil"
)

// observed is what one reconcile goes by. It is read once, and nothing later asks the API again.
type observed struct {
	sb  *v1alpha1.BatchSandbox
	now time.Time

	// problem is a mistake in the object that keeps anything new from being made; nil if there is none.
	problem *problem

	// pool is the batch's Pool, shared with the cache; nil if there is none of that name, or the batch has no poolRef.
	pool *v1alpha1.Pool

	// counts are those of the pool.
	counts scheduler.Counts

	// sandboxes are by index: at least spec.replicas entries, more while higher ones are still held.
	sandboxes []sandbox

	// unseenUntil is when the first of the pods that the cache doesn't show yet counts as there no more; zero for none.
	unseenUntil time.Time

	// surplus are pods of a batch without pool that stand for no index.
	surplus []*corev1.Pod

	// ends are the tasks that have ended, by index.
	ends map[int]taskEnd

	// inherits: some of the ends are an older controller's, and stand in no list of the status yet.
	inherits bool

	// endpoints are the addresses that a batch with tasks and without pool tells, by index.
	endpoints []string

	// restarts is what status.restarts should be.
	restarts int32

	// tasks are the states of the tasks that have not, as far as they are known. One of a try before the current one is past.
	tasks map[int]taskState

	// retries are the tries that were decided on and are not dispatched, by index.
	retries retryMemory

	// withdrawn is what the status is to have of tries of indexes beyond replicas.
	withdrawn map[int]tries
}

// sandbox is one index of a batch.
type sandbox struct {
	podName string // "" for none
	podUID  types.UID
	ip      string
	node    string
	ready   bool
	// lost: there is a name, but the pod is gone, ended, or going, or its node is lost.
	lost bool
	// ended: lost since it ended, and nobody deletes it yet.
	ended bool
	// stranded: lost with its node alone. It may still run there, and come back with its node.
	stranded bool
	// gone: lost, and no object of it is left.
	gone bool
	// recycling: the pod carries the mark of a release that landed, and is no sandbox any more: lost too.
	recycling bool
	// givenBack: an older controller gave the pod back and did not get to the end with it: lost too.
	givenBack bool
	// why it is lost, in one or two words; "" if it isn't, or if there is nothing to say.
	why string
	// restarts are those of the sandbox's containers since the pod was made.
	restarts int32
	// disobeys: the pod's executor believes another root than the controller's, and refuses every call.
	disobeys bool
	// unseen: the batch made the pod a moment ago, and the cache has not shown it yet.
	unseen bool
	// labelled: the pod carries the batch's labels.
	labelled bool
	// pod is the pod itself, where the batch made it.
	pod *corev1.Pod
}

// usable says that the index has a pod that can serve as its sandbox, now or soon.
func (s sandbox) usable() bool { return s.podName != "" && !s.lost }

// leaving says that the batch made the pod itself and its deletion has begun: nothing is left to be done about it.
func (s sandbox) leaving() bool { return s.pod != nil && s.pod.DeletionTimestamp != nil }

// problem is a user's mistake, told in a condition and an event.
type problem struct {
	condition string // ConditionAllocated or ConditionReady
	reason    string
	message   string
}

func (o *observed) pooled() bool { return o.sb.Spec.PoolRef != "" }

func (o *observed) hasTasks() bool { return o.sb.Spec.TaskTemplate != nil }

// replicas is spec.replicas between 0 and what fits into one batch: validate tells of others, and no list here grows
// with a number that nobody can serve.
func (o *observed) replicas() int {
	if o.sb.Spec.Replicas == nil {
		return 1
	}
	return min(max(0, int(*o.sb.Spec.Replicas)), replicasThatFit(o.sb))
}

func (o *observed) releases() bool {
	p := o.sb.Spec.TaskResourcePolicyWhenCompleted
	return p != nil && *p == v1alpha1.TaskResourcePolicyRelease
}

// wanted says whether an index should have a sandbox: it is below replicas, and was not given back because its task
// ended.
func (o *observed) wanted(index int) bool {
	if index >= o.replicas() {
		return false
	}
	end, ended := o.ends[index]
	return !ended || !o.releases() || !end.recorded
}

func (r *Reconciler) observe(ctx context.Context, sb *v1alpha1.BatchSandbox, m *memory) (*observed, error) {
	obs := &observed{sb: sb, now: r.clock.Now()}
	obs.problem = validate(sb)
	if obs.hasTasks() {
		obs.ends = recordedEnds(&sb.Status)
		obs.tasks = r.runner.states(sb.UID)
		obs.endpoints = ownEndpoints(sb)
	}
	var err error
	if obs.pooled() {
		err = r.observePooled(ctx, obs)
	} else {
		err = r.observeOwn(ctx, obs, m)
	}
	if err != nil {
		return nil, err
	}
	inheritEnds(obs)
	return obs, nil
}

// observePooled reads the pool and, from the ledger, the pods the batch holds. An alloc-status that differs from the
// ledger's was edited by somebody else, since the cache is never behind our own writes here: it is the truth.
func (r *Reconciler) observePooled(ctx context.Context, obs *observed) error {
	sb := obs.sb
	name := client.ObjectKeyFromObject(sb)
	pool := &v1alpha1.Pool{}
	switch err := r.client.Get(ctx, poolKey(sb), pool, client.UnsafeDisableDeepCopy); {
	case err == nil:
		obs.pool = pool
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("get pool %s: %w", poolKey(sb), err)
	}
	holdings := r.ledger.Holdings(name, sb.UID)
	pods, err := parseAllocStatus(sb)
	if err != nil {
		obs.problem = &problem{v1alpha1.ConditionAllocated, v1alpha1.ReasonInvalidAnnotation, err.Error()}
	} else if !slices.Equal(trim(pods), trim(holdingNames(holdings))) {
		r.settle(ctx, sb, pods)
		holdings = r.ledger.Holdings(name, sb.UID)
	}
	obs.counts = r.ledger.Counts(poolKey(sb))
	obs.sandboxes = make([]sandbox, obs.replicas())
	for i, h := range holdings {
		if i >= len(obs.sandboxes) {
			obs.sandboxes = append(obs.sandboxes, sandbox{})
		}
		obs.sandboxes[i] = sandboxOf(h, sb.Name)
		obs.sandboxes[i].disobeys = h.Pod != nil && h.Pod.Disobeys(r.root())
	}
	observeGivenBack(obs)
	return nil
}

func poolKey(sb *v1alpha1.BatchSandbox) types.NamespacedName {
	return types.NamespacedName{Namespace: sb.Namespace, Name: sb.Spec.PoolRef}
}

// trim drops the empty entries at the end.
func trim(pods []string) []string {
	for len(pods) > 0 && pods[len(pods)-1] == "" {
		pods = pods[:len(pods)-1]
	}
	return pods
}

func holdingNames(holdings []scheduler.Holding) []string {
	names := make([]string, len(holdings))
	for i, h := range holdings {
		names[i] = h.PodName
	}
	return names
}

func sandboxOf(h scheduler.Holding, batch string) sandbox {
	if h.PodName == "" {
		return sandbox{}
	}
	if h.Pod == nil {
		return sandbox{podName: h.PodName, lost: true, gone: true, why: cmp.Or(h.Loss, podutil.LossDeleted)}
	}
	return sandbox{
		podName:   h.PodName,
		podUID:    h.Pod.UID,
		ip:        h.Pod.IP,
		node:      h.Pod.Node,
		ready:     h.Pod.Ready && !h.Pod.Ended,
		lost:      h.Pod.Lost() || h.Pod.Recycling,
		ended:     h.Pod.Ended && h.Pod.State != scheduler.PodTerminating,
		stranded:  h.Pod.OnLostNode && !h.Pod.Ended && h.Pod.State != scheduler.PodTerminating,
		recycling: h.Pod.Recycling && !h.Pod.Lost(),
		labelled:  h.Pod.BatchLabel == batch,
		why:       lossOf(h.Pod),
		restarts:  h.Pod.Restarts,
	}
}

// observeOwn reads the pods that the batch made. Those it made a moment ago, which the cache may not have yet, are added to
// what the cache shows.
func (r *Reconciler) observeOwn(ctx context.Context, obs *observed, m *memory) error {
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, client.InNamespace(obs.sb.Namespace),
		client.MatchingFields{ownerIndex: string(obs.sb.UID)}, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list pods of %s: %w", client.ObjectKeyFromObject(obs.sb), err)
	}
	m.made = m.made.unseen(pods.Items, obs.now)
	obs.unseenUntil = m.made.until()
	for _, made := range m.made {
		pods.Items = append(pods.Items, *made.pod)
	}
	obs.sandboxes, obs.surplus = sortOwnPods(pods.Items, obs.replicas(), r.lostNodes(pods.Items))
	for i := range obs.sandboxes {
		if s := &obs.sandboxes[i]; s.pod != nil {
			s.disobeys = podtemplate.Disobeys(podtemplate.RootOf(&s.pod.Spec), r.root())
			_, s.unseen = m.made[s.podUID]
		}
	}
	return nil
}

// sortOwnPods gives every index its best pod: one on a node that is not lost before others, then a living one before a lost one, then a Ready one, then the oldest, then
// by name. Other pods are surplus, except those on their way out.
func sortOwnPods(pods []corev1.Pod, replicas int, lostNodes map[string]bool) (sandboxes []sandbox, surplus []*corev1.Pod) {
	sandboxes = make([]sandbox, replicas)
	sorted := make([]*corev1.Pod, len(pods))
	for i := range pods {
		sorted[i] = &pods[i]
	}
	slices.SortFunc(sorted, func(a, b *corev1.Pod) int {
		return cmp.Or(compareBools(lostNodes[a.Spec.NodeName], lostNodes[b.Spec.NodeName]), compareOwnPods(a, b))
	})
	for _, pod := range sorted {
		index, err := strconv.Atoi(pod.Labels[v1alpha1.PodIndexLabel])
		if err != nil || index < 0 {
			surplus = append(surplus, pod)
			continue
		}
		for len(sandboxes) <= index && len(sandboxes) < replicas+len(pods) {
			sandboxes = append(sandboxes, sandbox{})
		}
		switch {
		case index >= len(sandboxes):
			surplus = append(surplus, pod)
		case sandboxes[index].podName == "":
			sandboxes[index] = sandboxOfPod(pod)
			if lostNodes[pod.Spec.NodeName] && !podutil.HasEnded(pod) {
				sandboxes[index].lost = true
				sandboxes[index].why = cmp.Or(sandboxes[index].why, podutil.LossNodeLost)
			}
		case pod.DeletionTimestamp == nil:
			surplus = append(surplus, pod)
		}
	}
	return sandboxes, surplus
}

func sandboxOfPod(pod *corev1.Pod) sandbox {
	return sandbox{
		podName:  pod.Name,
		podUID:   pod.UID,
		ip:       pod.Status.PodIP,
		node:     pod.Spec.NodeName,
		ready:    podutil.IsReady(pod),
		lost:     isLost(pod),
		labelled: true,
		why:      podutil.Loss(pod),
		restarts: podutil.SandboxRestarts(pod),
		pod:      pod,
	}
}

// isLost says that a pod of the batch's own is no sandbox any more. One that ran to its end in success is kept: that
// is what its template asked for.
func isLost(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed
}
