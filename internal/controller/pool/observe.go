// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/podtemplate"
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

	// activity is what batches and pods did so far; forecast is what follows for the near future.
	activity scheduler.Activity
	forecast scheduler.Forecast

	// yield says whether deliveries go first.
	yield yield

	// owed is the number of pods that were deleted to be replaced and that are not made again yet; owedFor says what for.
	owed    int
	owedFor string

	// replaced says that this reconcile deleted pods to replace them.
	replaced bool

	// unusable pods were taken out of the ledger's hands and are to be deleted.
	unusable []scheduler.Pod

	// creates, endings and deletes say how long to wait after failures.
	creates, endings, deletes hold

	// crashes is how long to wait with an update after a pod of the current revision crashed again and again; 0 if none did.
	crashes time.Duration

	// failing is what keeps a starting pod from becoming ready; nil if nothing is known to.
	failing *problem

	// overdueWait is how long until a pod that is starting without a word of trouble will have done so for too long; 0 for
	// never, or if one has.
	overdueWait time.Duration

	// candidate is the pod to repair next. repairing says that the last repair is still under way; repairWait is when to
	// look again for the sake of either, 0 for never.
	candidate  candidate
	repairing  bool
	repairWait time.Duration

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
		r.ledger.ObserveRoot(key, rootFor(template, r.root()))
	} else if obs.invalid == nil {
		obs.invalid = &problem{v1alpha1.ReasonInvalidTemplate, err.Error()}
	}

	obs.unusable = r.observeUnusable(key, obs.deletes)
	if mem.rules.learn(&pool.Status, obs.now); unplaced(obs.unusable) {
		mem.rules.lack(notPlaced, obs.now)
	}
	if obs.template != nil {
		obs.recycleObstacle = recycleObstacle(pool, obs.template, mem.rules)
	}
	if err := r.observeEndings(ctx, key, mem, obs); err != nil {
		r.unretire(key, obs.unusable)
		return observed{}, err
	}
	obs.counts = r.ledger.Counts(key)
	mem.owed = obs.counts.Owed(pool.Spec.CapacitySpec, mem.owed)
	obs.owed, obs.owedFor = mem.owed, mem.owedFor
	obs.activity = r.ledger.Activity(key)
	mem.claims.Observe(obs.activity.Claimed, obs.now)
	mem.refill.observe(obs.activity.Claimed, obs.now)
	obs.forecast = scheduler.Forecast{ClaimRate: mem.claims.At(obs.now), StartTime: obs.activity.StartTime}
	obs.yield = mem.refill.yield(obs.now, pool.Spec.CapacitySpec, obs.counts, obs.forecast)
	obs.creates, obs.endings = mem.creates.at(obs.now), mem.endings.at(obs.now)
	r.observeFailing(key, mem, &obs)
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
				mem.owed, mem.owedFor = mem.owed+1, "pods that ended soon after their start"
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
