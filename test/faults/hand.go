// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/faults/internal/executors"
)

const (
	// handPause is the mean time between two things that the hand does.
	handPause = 600 * time.Millisecond
	// shortOutage and longOutage bound how long an executor can't be reached; beyond 30 s its sandbox can't be stopped in an
	// orderly way.
	shortOutage = 3 * time.Second
	longOutage  = 35 * time.Second
	// longAway bounds how long a node is cordoned or gone.
	longAway = 12 * time.Second
)

// restartable is what nodes declare that can restart all containers of a pod.
const restartable = "RestartAllContainersOnContainerExits"

// hand does to objects what users, nodes and drains do.
type hand struct {
	client    client.Client
	random    *rand.Rand
	executors *executors.Executors
	done      *tally
	nodes     []*corev1.Node // as they were

	later  []later
	ending bool // nothing is begun any more
}

// later is what ends something that the hand began.
type later struct {
	at time.Time
	do func(context.Context) error
}

// deed is one thing that the hand does, and how often in proportion. It says whether it found something to do it to.
type deed struct {
	name   string
	weight int
	do     func(context.Context) (bool, error)
}

func (h *hand) deeds() []deed {
	return []deed{
		{"deletePod", 18, h.deletePod},
		{"evictPod", 12, h.evictPod},
		{"failPod", 12, h.failPod},
		{"labelPod", 6, h.labelPod},
		{"cordonNode", 6, h.cordonNode},
		{"removeNode", 3, h.removeNode},
		{"boundPool", 12, h.boundPool},
		{"updatePool", 3, h.updatePool},
		{"deletePool", 1, h.deletePool},
		{"scaleBatch", 15, h.scaleBatch},
		{"expireBatch", 9, h.expireBatch},
		{"deleteBatch", 12, h.deleteBatch},
		{string(executors.Restarted), 9, h.breaks(executors.Restarted, shortOutage)},
		{string(executors.SandboxRestarted), 9, h.breaks(executors.SandboxRestarted, 0)},
		{string(executors.Unreachable), 9, h.breaks(executors.Unreachable, shortOutage)},
		{"executorLongUnreachable", 3, h.breaks(executors.Unreachable, longOutage)},
	}
}

// run does one thing after the other until ctx is done, and then ends what it began. An error of one thing is none of the run:
// what it was to be done to may be gone.
func (h *hand) run(ctx context.Context) error {
	deeds := h.deeds()
	total := 0
	for _, d := range deeds {
		total += d.weight
	}
	for ctx.Err() == nil {
		wait(ctx, exponential(h.random, handPause))
		h.endDue(ctx)
		pick := h.random.IntN(total)
		for _, d := range deeds {
			if pick -= d.weight; pick < 0 {
				if did, err := d.do(ctx); did && err == nil {
					h.done.add(d.name)
				}
				break
			}
		}
	}
	return h.end(context.WithoutCancel(ctx))
}

// endDue ends what has lasted long enough. What could not be ended is tried again at the end.
func (h *hand) endDue(ctx context.Context) {
	now := time.Now()
	h.later = slices.DeleteFunc(h.later, func(l later) bool { return now.After(l.at) && l.do(ctx) == nil })
}

// end ends everything that was begun.
func (h *hand) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	h.ending = true
	for len(h.later) > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("end what the hand began: %w", ctx.Err())
		}
		h.later = slices.DeleteFunc(h.later, func(l later) bool { return l.do(ctx) == nil })
		wait(ctx, lookPause)
	}
	return nil
}

func (h *hand) after(d time.Duration, do func(context.Context) error) {
	h.later = append(h.later, later{time.Now().Add(d), do})
}

// --- pods -------------------------------------------------------------------------------------------------

// pod draws one of those that are not being deleted; nil if there is none.
func (h *hand) pod(ctx context.Context) (*corev1.Pod, error) {
	pods := &corev1.PodList{}
	if err := h.client.List(ctx, pods, client.InNamespace(faultsNamespace)); err != nil {
		return nil, err
	}
	return draw(h.random, pods.Items, func(p *corev1.Pod) bool { return p.DeletionTimestamp == nil }), nil
}

// draw draws one of the items that fit, nil if none does.
func draw[T any](random *rand.Rand, items []T, fits func(*T) bool) *T {
	var all []*T
	for i := range items {
		if fits(&items[i]) {
			all = append(all, &items[i])
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[random.IntN(len(all))]
}

// withPod does something to a pod.
func (h *hand) withPod(ctx context.Context, do func(*corev1.Pod) error) (bool, error) {
	pod, err := h.pod(ctx)
	if err != nil || pod == nil {
		return false, err
	}
	return true, do(pod)
}

func (h *hand) deletePod(ctx context.Context) (bool, error) {
	return h.withPod(ctx, func(pod *corev1.Pod) error { return h.client.Delete(ctx, pod, client.Preconditions{UID: &pod.UID}) })
}

func (h *hand) evictPod(ctx context.Context) (bool, error) {
	return h.withPod(ctx, func(pod *corev1.Pod) error {
		return h.client.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}})
	})
}

// failPod has a pod end as a kubelet tells it.
func (h *hand) failPod(ctx context.Context) (bool, error) {
	return h.withPod(ctx, func(pod *corev1.Pod) error { return h.fail(ctx, pod) })
}

func (h *hand) fail(ctx context.Context, pod *corev1.Pod) error {
	pod.Status.Phase = corev1.PodFailed
	pod.Status.Reason, pod.Status.Message = "Evicted", "the node was low on memory"
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady || c.Type == corev1.ContainersReady {
			c.Status, c.Reason, c.LastTransitionTime = corev1.ConditionFalse, "PodFailed", metav1.Now()
		}
	}
	return h.client.Status().Update(ctx, pod)
}

// labelPod marks a pod for eviction, as a user does.
func (h *hand) labelPod(ctx context.Context) (bool, error) {
	return h.withPod(ctx, func(pod *corev1.Pod) error {
		return h.patch(ctx, pod, map[string]any{"metadata": map[string]any{"labels": map[string]any{v1alpha1.EvictLabel: ""}}})
	})
}

// --- nodes ------------------------------------------------------------------------------------------------

// node draws one that nothing was done to yet; nil if only few are left.
func (h *hand) node(ctx context.Context) (*corev1.Node, error) {
	nodes := &corev1.NodeList{}
	if err := h.client.List(ctx, nodes); err != nil {
		return nil, err
	}
	whole := slices.DeleteFunc(nodes.Items, func(n corev1.Node) bool { return n.Spec.Unschedulable })
	if len(whole) <= len(h.nodes)*2/3 {
		return nil, nil
	}
	return draw(h.random, whole, func(*corev1.Node) bool { return true }), nil
}

func (h *hand) cordonNode(ctx context.Context) (bool, error) {
	node, err := h.node(ctx)
	if err != nil || node == nil {
		return false, err
	}
	cordon := func(ctx context.Context, is any) error {
		return client.IgnoreNotFound(h.patch(ctx, node, map[string]any{"spec": map[string]any{"unschedulable": is}}))
	}
	h.after(between(h.random, 0, longAway), func(ctx context.Context) error { return cordon(ctx, nil) })
	return true, cordon(ctx, true)
}

// removeNode deletes a node object, and makes it again later.
func (h *hand) removeNode(ctx context.Context) (bool, error) {
	node, err := h.node(ctx)
	if err != nil || node == nil {
		return false, err
	}
	at := slices.IndexFunc(h.nodes, func(n *corev1.Node) bool { return n.Name == node.Name })
	if at < 0 {
		return false, nil
	}
	h.after(between(h.random, 0, longAway), func(ctx context.Context) error {
		again := h.nodes[at].DeepCopy()
		if err := h.client.Create(ctx, again); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		return declareRestarts(ctx, h.client, again.Name)
	})
	return true, h.client.Delete(ctx, node)
}

// declareRestarts has a simulated node say that it can restart all containers of a pod: else the scheduler binds no pod to it
// that wants to be recycled so. The kubelet's part is the executors'.
func declareRestarts(ctx context.Context, c client.Client, name string) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	body := fmt.Sprintf(`{"status":{"declaredFeatures":[%q]}}`, restartable)
	return c.Status().Patch(ctx, node, client.RawPatch(types.MergePatchType, []byte(body)))
}

// nodesAsTheyAre are all nodes, fit to be made again.
func nodesAsTheyAre(ctx context.Context, c client.Client) ([]*corev1.Node, error) {
	list := &corev1.NodeList{}
	if err := c.List(ctx, list); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	nodes := make([]*corev1.Node, 0, len(list.Items))
	for i := range list.Items {
		n := &list.Items[i]
		nodes = append(nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels},
			Status:     corev1.NodeStatus{Capacity: n.Status.Capacity, Allocatable: n.Status.Allocatable},
		})
	}
	return nodes, nil
}

// --- pools and batches --------------------------------------------------------------------------------------

func (h *hand) drawPool() *v1alpha1.Pool {
	return &v1alpha1.Pool{ObjectMeta: metav1.ObjectMeta{Namespace: faultsNamespace, Name: poolNames[h.random.IntN(len(poolNames))]}}
}

func (h *hand) patch(ctx context.Context, obj client.Object, merge map[string]any) error {
	body, err := json.Marshal(merge)
	if err != nil {
		return err
	}
	return h.client.Patch(ctx, obj, client.RawPatch(types.MergePatchType, body))
}

// boundPool gives a pool other bounds, now and then such that batches have to wait for each other.
func (h *hand) boundPool(ctx context.Context) (bool, error) {
	capacity := bounds(h.random)
	if h.random.Float64() < 0.15 {
		capacity = v1alpha1.CapacitySpec{BufferMin: 1, BufferMax: 2, PoolMax: 6}
	}
	return true, h.patch(ctx, h.drawPool(), map[string]any{"spec": map[string]any{"capacitySpec": capacity}})
}

func (h *hand) updatePool(ctx context.Context) (bool, error) {
	return true, h.patchTemplate(ctx, h.drawPool())
}

func (h *hand) patchTemplate(ctx context.Context, pool *v1alpha1.Pool) error {
	image := fmt.Sprintf("image-%d", h.random.IntN(1000))
	return h.patch(ctx, pool, map[string]any{"spec": map[string]any{"template": template(pool.Name, image)}})
}

// deletePool deletes a pool, and makes it again once it is gone.
func (h *hand) deletePool(ctx context.Context) (bool, error) {
	pool := h.drawPool()
	again := poolOf(pool.Name, bounds(h.random))
	h.after(between(h.random, 0, 2*time.Second), func(ctx context.Context) error {
		err := h.client.Create(ctx, again.DeepCopy())
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		now := &v1alpha1.Pool{}
		if h.client.Get(ctx, client.ObjectKeyFromObject(again), now) == nil && (now.DeletionTimestamp == nil || h.ending) {
			return nil // it was never deleted, has been made again, or stays for what is held still
		}
		return err
	})
	return true, h.client.Delete(ctx, pool)
}

// withBatch does something to a batch that is not being deleted.
func (h *hand) withBatch(ctx context.Context, do func(*v1alpha1.BatchSandbox) error) (bool, error) {
	batches := &v1alpha1.BatchSandboxList{}
	if err := h.client.List(ctx, batches, client.InNamespace(faultsNamespace)); err != nil {
		return false, err
	}
	sb := draw(h.random, batches.Items, func(sb *v1alpha1.BatchSandbox) bool {
		return sb.DeletionTimestamp == nil && strings.HasPrefix(sb.Name, "b-")
	})
	if sb == nil {
		return false, nil
	}
	return true, do(sb)
}

func (h *hand) scaleBatch(ctx context.Context) (bool, error) {
	return h.withBatch(ctx, func(sb *v1alpha1.BatchSandbox) error {
		return h.patch(ctx, sb, map[string]any{"spec": map[string]any{"replicas": h.random.IntN(6)}})
	})
}

func (h *hand) expireBatch(ctx context.Context) (bool, error) {
	return h.withBatch(ctx, func(sb *v1alpha1.BatchSandbox) error {
		when := time.Now().Add(between(h.random, -time.Second, 5*time.Second)).UTC().Format(time.RFC3339Nano)
		return h.patch(ctx, sb, map[string]any{"spec": map[string]any{"expireTime": when}})
	})
}

func (h *hand) deleteBatch(ctx context.Context) (bool, error) {
	return h.withBatch(ctx, func(sb *v1alpha1.BatchSandbox) error {
		var options []client.DeleteOption
		if h.random.Float64() < 0.3 {
			options = append(options, client.PropagationPolicy(metav1.DeletePropagationForeground))
		}
		return h.client.Delete(ctx, sb, options...)
	})
}

// farewell gives pools another template, and does to batches that stay, and to what they hold, what else would hardly be met by one
// of them: most live for a moment. What becomes of that is seen when all is at rest.
func (h *hand) farewell(ctx context.Context) error {
	last := &v1alpha1.Pool{ObjectMeta: metav1.ObjectMeta{Namespace: faultsNamespace, Name: lastPool}}
	if err := client.IgnoreNotFound(h.client.Delete(ctx, last)); err != nil {
		return fmt.Errorf("delete pool %s: %w", lastPool, err)
	}
	for _, name := range poolNames { // nobody takes old pods any more, so that they have to be replaced
		pool := &v1alpha1.Pool{ObjectMeta: metav1.ObjectMeta{Namespace: faultsNamespace, Name: name}}
		if err := client.IgnoreNotFound(h.patchTemplate(ctx, pool)); err != nil { // one that was deleted comes again with the first template
			return fmt.Errorf("update pool %s: %w", name, err)
		}
	}
	batches := &v1alpha1.BatchSandboxList{}
	if err := h.client.List(ctx, batches, client.InNamespace(faultsNamespace)); err != nil {
		return fmt.Errorf("list batches: %w", err)
	}
	acts := []func(*v1alpha1.BatchSandbox, *corev1.Pod) error{
		func(_ *v1alpha1.BatchSandbox, pod *corev1.Pod) error { return h.fail(ctx, pod) },
		func(_ *v1alpha1.BatchSandbox, pod *corev1.Pod) error { return h.client.Delete(ctx, pod) },
		func(sb *v1alpha1.BatchSandbox, _ *corev1.Pod) error {
			return h.patch(ctx, sb, map[string]any{"spec": map[string]any{"replicas": 0}})
		},
		func(sb *v1alpha1.BatchSandbox, _ *corev1.Pod) error {
			return h.patch(ctx, sb, map[string]any{"spec": map[string]any{"expireTime": metav1.Now()}})
		},
	}
	for i := range batches.Items {
		if len(acts) == 0 {
			return nil
		}
		sb := &batches.Items[i]
		pod := h.firstOf(ctx, sb)
		if sb.DeletionTimestamp != nil || sb.Spec.ExpireTime != nil || pod == nil {
			continue
		}
		if acts[0](sb, pod) == nil {
			acts = acts[1:]
		}
	}
	return nil
}

// firstOf is the first pod that a batch names, nil if there is none.
func (h *hand) firstOf(ctx context.Context, sb *v1alpha1.BatchSandbox) *corev1.Pod {
	var named struct {
		Pods []string `json:"pods"`
	}
	if json.Unmarshal([]byte(sb.Annotations[v1alpha1.AllocStatusAnnotation]), &named) != nil || len(named.Pods) == 0 {
		return nil
	}
	pod := &corev1.Pod{}
	if h.client.Get(ctx, client.ObjectKey{Namespace: sb.Namespace, Name: named.Pods[0]}, pod) != nil {
		return nil
	}
	return pod
}

// --- executors ----------------------------------------------------------------------------------------------

// breaks returns what breaks an executor for a time up to most.
func (h *hand) breaks(kind executors.Kind, most time.Duration) func(context.Context) (bool, error) {
	return func(context.Context) (bool, error) {
		h.executors.Break(kind, between(h.random, most/10, most))
		return true, nil
	}
}
