// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/internal/utils/podutil"
)

// problem is the reason and message of a condition that is not as the user wants it.
type problem struct {
	reason  string
	message string
}

// observed is all that one reconcile knows. Later code reads it and not the API.
type observed struct {
	now time.Time

	// template is nil if it can't be read; revision is then the last one that could.
	template *corev1.PodTemplateSpec
	revision string

	// invalid is what is wrong with the spec; nil if nothing is.
	invalid *problem

	counts scheduler.Counts

	// owed is the number of pods that an update deleted and that are not made again yet.
	owed int

	// unusable pods were taken out of the ledger's hands and are to be deleted.
	unusable []scheduler.Pod

	// creates, endings and deletes say how long to wait after failures.
	creates, endings, deletes hold

	// crashes is how long to wait with an update after a pod of the current revision crashed again and again; 0 if none did.
	crashes time.Duration

	// failing is what keeps a starting pod from becoming ready; nil if nothing is known to.
	failing *problem

	// released is what became of released pods, ever.
	released scheduler.Released

	// recycleObstacle is why released pods are deleted though the pool would have them restarted; "" if they are not.
	recycleObstacle string
}

// hold is a back-off as one reconcile sees it.
type hold struct {
	failing bool          // there was a failure, and no success since
	wait    time.Duration // until the next try
}

func (r *Reconciler) observe(ctx context.Context, pool *v1alpha1.Pool, mem *memory) (observed, error) {
	key := client.ObjectKeyFromObject(pool)
	obs := observed{now: r.clock.Now(), revision: pool.Status.Revision, invalid: validate(pool)}
	obs.deletes = mem.deletes.at(obs.now)
	obs.released = mem.countReleased(pool, r.ledger.TakeReleased(key))

	template, err := podtemplate.Decode(pool.Spec.Template)
	if err == nil {
		obs.template, obs.revision = template, revisionOf(pool, mem)
		r.ledger.ObservePool(key, obs.revision)
		obs.recycleObstacle = recycleObstacle(pool, template, mem.rules)
	} else if obs.invalid == nil {
		obs.invalid = &problem{v1alpha1.ReasonInvalidTemplate, err.Error()}
	}

	obs.unusable = r.observeUnusable(key, obs.deletes)
	if err := r.observeEndings(ctx, key, mem, obs); err != nil {
		r.unretire(key, obs.unusable)
		return observed{}, err
	}
	obs.counts = r.ledger.Counts(key)
	mem.owed = obs.counts.Owed(pool.Spec.CapacitySpec, mem.owed)
	obs.owed = mem.owed
	if err := r.observeStarting(ctx, key, mem, obs); err != nil {
		r.unretire(key, obs.unusable)
		return observed{}, err
	}
	obs.creates, obs.endings, obs.failing = mem.creates.at(obs.now), mem.endings.at(obs.now), mem.failing
	obs.crashes = mem.crashes(obs.now)
	return obs, nil
}

// observeDeletion is what a pool that is being deleted still has to know.
func (r *Reconciler) observeDeletion(pool *v1alpha1.Pool, mem *memory) observed {
	key := client.ObjectKeyFromObject(pool)
	obs := observed{now: r.clock.Now(), revision: pool.Status.Revision}
	obs.deletes = mem.deletes.at(obs.now)
	obs.released = mem.countReleased(pool, r.ledger.TakeReleased(key))
	obs.unusable = r.observeUnusable(key, obs.deletes)
	obs.counts = r.ledger.Counts(key)
	return obs
}

// observeUnusable takes the pods that must not be handed out, unless deletes fail just now.
func (r *Reconciler) observeUnusable(key client.ObjectKey, deletes hold) []scheduler.Pod {
	if deletes.wait > 0 {
		return nil
	}
	return r.ledger.RetireUnusable(key)
}

// observeEndings notes pods of the current revision that ended soon after their start, and forgets about them when a pod
// made since has stayed Ready.
func (r *Reconciler) observeEndings(ctx context.Context, key client.ObjectKey, mem *memory, obs observed) error {
	if err := r.noteEndings(ctx, key, mem, obs); err != nil {
		return err
	}
	if !mem.endings.failing() {
		return nil
	}
	if mem.probe == "" {
		if !obs.now.Before(mem.endings.until.Add(quietAfter)) {
			mem.forgetEndings()
		}
		return nil
	}
	probe, err := r.cachedPod(ctx, key.Namespace, mem.probe)
	if err != nil {
		return err
	}
	mem.observeProbe(probe, obs.now)
	return nil
}

// noteEndings looks at the pods that ended. During an update the pool owes those of a template that didn't last: it must
// not use up the old pods one by one.
func (r *Reconciler) noteEndings(ctx context.Context, key client.ObjectKey, mem *memory, obs observed) error {
	n := r.ledger.Counts(key)
	updating := n.StaleIdle+n.StaleStarting > 0
	for _, p := range obs.unusable {
		if !tellsOfTemplate(p, obs.revision) {
			continue
		}
		pod, err := r.cachedPod(ctx, key.Namespace, p.Name)
		if err != nil {
			return err
		}
		if pod != nil && endedEarly(pod, obs.now) {
			mem.podEnded(pod, obs.now)
			if updating {
				mem.owed++
			}
		}
	}
	return nil
}

// tellsOfTemplate says whether a pod ended that says something about the template: what a batch did to its sandbox doesn't,
// nor does a pod of an older template.
func tellsOfTemplate(p scheduler.Pod, revision string) bool {
	return p.Ended && !p.Dirty && p.BatchLabel == "" && p.Revision == revision
}

// observeStarting looks for what keeps starting pods from becoming ready: at most once a second, and less often
// the longer they take.
func (r *Reconciler) observeStarting(ctx context.Context, key client.ObjectKey, mem *memory, obs observed) error {
	if obs.counts.Starting == 0 {
		mem.scanned(obs.now, nil, false)
		return nil
	}
	if obs.now.Before(mem.scanAt) {
		return nil
	}
	pods := &corev1.PodList{}
	err := r.client.List(ctx, pods, client.InNamespace(key.Namespace),
		client.MatchingLabels{v1alpha1.PoolNameLabel: key.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return fmt.Errorf("list pods of pool %s: %w", key, err)
	}
	mem.scanned(obs.now, failureOf(pods.Items, mem.failing), true)
	if anyCrashes(pods.Items, obs.revision) {
		mem.crashedAt = obs.now
	}
	return nil
}

// cachedPod reads a pod from the cache; nil if it isn't there.
func (r *Reconciler) cachedPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get pod %s/%s: %w", namespace, name, err)
	}
	return pod, nil
}

// earlyEnd is the run time below which the end of a pool pod counts as a failure of its template.
const earlyEnd = time.Minute

// endedEarly says whether an ended pod ran for less than earlyEnd. A pod whose containers never ran is judged by
// its age: a node that refuses a pod does so at once.
func endedEarly(pod *corev1.Pod, now time.Time) bool {
	longest := time.Duration(-1)
	for i := range pod.Status.ContainerStatuses {
		if t := pod.Status.ContainerStatuses[i].State.Terminated; t != nil && !t.StartedAt.IsZero() {
			longest = max(longest, t.FinishedAt.Sub(t.StartedAt.Time))
		}
	}
	if longest < 0 {
		longest = now.Sub(pod.CreationTimestamp.Time)
	}
	return longest < earlyEnd
}

// endingOf tells how a pod ended.
func endingOf(pod *corev1.Pod) problem {
	how := fmt.Sprintf("pod %s ended as %s", pod.Name, pod.Status.Phase)
	if pod.Status.Reason != "" {
		how += fmt.Sprintf(" (%s: %s)", pod.Status.Reason, pod.Status.Message)
	}
	for i := range pod.Status.ContainerStatuses {
		status := &pod.Status.ContainerStatuses[i]
		if t := status.State.Terminated; t != nil {
			how += fmt.Sprintf("; container %s: %s, exit code %d", status.Name, t.Reason, t.ExitCode)
		}
	}
	return problem{v1alpha1.ReasonPodsEnded, how + "; give the template commands that keep running"}
}

// failureOf names the first pod, by name, that can't become ready, and why. What was reported before stays while
// the same pod has the same trouble in other words (an image that can't be pulled alternates between two).
func failureOf(pods []corev1.Pod, before *problem) *problem {
	var first *corev1.Pod
	var failure *problem
	for i := range pods {
		pod := &pods[i]
		if first != nil && cmp.Compare(pod.Name, first.Name) > 0 {
			continue
		}
		if f := startFailure(pod); f != nil {
			first, failure = pod, f
		}
	}
	if failure != nil && before != nil && sameTrouble(*before, *failure, first.Name) {
		return before
	}
	return failure
}

func sameTrouble(before, now problem, pod string) bool {
	pull := []string{"ErrImagePull", "ImagePullBackOff"}
	return slices.Contains(pull, before.reason) && slices.Contains(pull, now.reason) &&
		len(before.message) > len(podPrefix(pod)) && before.message[:len(podPrefix(pod))] == podPrefix(pod)
}

// anyCrashes says whether a pod of this revision that nobody holds crashes again and again.
func anyCrashes(pods []corev1.Pod, revision string) bool {
	return slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
		if pod.Labels[v1alpha1.PoolRevisionLabel] != revision {
			return false
		}
		f := startFailure(&pod)
		return f != nil && f.reason == crashLoop
	})
}

func podPrefix(pod string) string { return "pod " + pod + ": " }

// startFailure says why a pod of the pool that nobody holds is not becoming ready; nil if it may yet.
func startFailure(pod *corev1.Pod) *problem {
	_, held := pod.Labels[v1alpha1.BatchNameLabel]
	_, recycled := pod.Annotations[v1alpha1.RecyclingAnnotation] // its containers end for our sake
	if held || recycled || pod.DeletionTimestamp != nil || podutil.HasEnded(pod) || podutil.IsReady(pod) {
		return nil
	}
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return &problem{c.Reason, podPrefix(pod.Name) + c.Message}
		}
	}
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if reason, message := containerFailure(&statuses[i]); reason != "" {
				return &problem{reason, fmt.Sprintf("%scontainer %s: %s", podPrefix(pod.Name), statuses[i].Name, message)}
			}
		}
	}
	return nil
}

// crashLoop is the kubelet's word for a container that crashes again and again.
const crashLoop = "CrashLoopBackOff"

// containerFailure says why a container doesn't run, in the kubelet's word; "" if nothing is wrong.
func containerFailure(status *corev1.ContainerStatus) (reason, message string) {
	if w := status.State.Waiting; w != nil {
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError",
			"CreateContainerError", "RunContainerError":
			return w.Reason, cmp.Or(w.Message, w.Reason)
		case crashLoop:
			return crashLoop, crashMessage(status)
		}
	}
	if t := status.State.Terminated; t != nil && t.ExitCode != 0 && status.RestartCount > 0 {
		return crashLoop, crashMessage(status)
	}
	return "", ""
}

// crashMessage doesn't count restarts nor name the back-off, so that it stays the same while the container does.
func crashMessage(status *corev1.ContainerStatus) string {
	for _, t := range []*corev1.ContainerStateTerminated{status.State.Terminated, status.LastTerminationState.Terminated} {
		if t != nil {
			return fmt.Sprintf("ends again and again, last with exit code %d (%s)", t.ExitCode, t.Reason)
		}
	}
	return "ends again and again"
}
