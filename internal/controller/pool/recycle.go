// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/recycling"
	"opensandbox.io/controller/internal/utils/slowstart"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

const (
	// recycleLimit is how long a marked pod may take to be proven clean, from the time in its mark.
	recycleLimit = time.Minute

	// askFirst and askLast bound the time between two calls of one executor that was no help; it doubles from one to the
	// other. askAgain is when one that agreed to exit, and did not, is asked again.
	askFirst = 50 * time.Millisecond
	askLast  = 5 * time.Second
	askAgain = 10 * time.Second

	// maxRecyclingAtOnce bounds the pods that one reconcile unmarks or deletes; the next one goes on.
	maxRecyclingAtOnce = 256
)

// recycleMemory is what is remembered of one marked pod. It may be lost: the mark and the kubelet's word are the facts.
type recycleMemory struct {
	seen    time.Time     // when the mark was first seen
	askAt   time.Time     // when the executor may be asked to exit again
	checkAt time.Time     // when the next one may be asked again whether it is clean
	pause   time.Duration // after a call that was no help
	refused bool          // the executor doesn't know how to recycle

	// report is what the executor said, and reported the resourceVersion of the pod that it said it of.
	report   *taskexecutor.RecycleState
	reported string

	// version is the resourceVersion of the pod that was looked at last, and lookAt when it is due again without news.
	version string
	lookAt  time.Time
}

// afterFailure is when to call again after a call that was no help.
func (m *recycleMemory) afterFailure(now time.Time) time.Time {
	m.pause = min(askLast, max(askFirst, 2*m.pause))
	return now.Add(m.pause)
}

// heard takes over what came of a call.
func (m *recycleMemory) heard(a answer, now time.Time) {
	m.lookAt = time.Time{}
	var status *taskexecutor.StatusError
	switch {
	case a.recycling == "" && a.err == nil:
		m.report, m.reported = &a.report, a.version
	case a.recycling == "":
		m.checkAt = m.afterFailure(now)
	case a.err == nil: // whether the restart comes is seen from the pod's containers alone
		m.askAt, m.pause = now.Add(askAgain), 0
	case errors.As(a.err, &status) && (status.Status == http.StatusNotFound || status.Status == http.StatusMethodNotAllowed):
		m.refused = true
	default: // it has tasks still, or can't be reached, or exits already
		m.askAt = m.afterFailure(now)
	}
}

// recycleAction is the next step for a marked pod.
type recycleAction int

const (
	// recycleWait: for news of the pod, or until the executor may be called.
	recycleWait recycleAction = iota

	// recycleAsk the executor to have all containers restarted.
	recycleAsk

	// recycleCheck with the new executor whether the pod is clean.
	recycleCheck

	// recycleUnmark the pod: it is as new.
	recycleUnmark

	// recycleDelete the pod: it can't be proven clean.
	recycleDelete
)

// recycleFacts are what the next step depends on.
type recycleFacts struct {
	mark     recycling.Mark
	markErr  error
	progress recycling.Progress
	disobeys bool // the pod's executor believes another root, and refuses every call
	memory   recycleMemory
	report   *taskexecutor.RecycleState // what the executor said of the pod as it is; nil for nothing yet
	now      time.Time
}

// recycleStep is an action and why, or how long to wait.
type recycleStep struct {
	action recycleAction
	reason string
	wait   time.Duration
}

// planRecycle is the first row that matches:
//
//	| mark       | time is over | executor can do it | containers | call is due | report                  | step   |
//	| unreadable | -            | -                  | -          | -           | -                       | delete |
//	| readable   | yes          | -                  | -          | -           | -                       | delete |
//	| readable   | no           | no                 | -          | -           | -                       | delete |
//	| readable   | no           | yes                | untouched  | yes         | -                       | ask    |
//	| readable   | no           | yes                | untouched  | no          | -                       | wait   |
//	| readable   | no           | yes                | restarting | -           | -                       | wait   |
//	| readable   | no           | yes                | alone      | -           | -                       | delete |
//	| readable   | no           | yes                | restarted  | -           | clean, of this mark     | unmark |
//	| readable   | no           | yes                | restarted  | -           | unclean, or of another  | delete |
//	| readable   | no           | yes                | restarted  | yes         | none                    | check  |
//	| readable   | no           | yes                | restarted  | no          | none                    | wait   |
func planRecycle(f recycleFacts) recycleStep {
	left := f.mark.Left(f.memory.seen, f.now, recycleLimit)
	switch {
	case f.markErr != nil:
		return recycleStep{action: recycleDelete, reason: f.markErr.Error()}
	case left <= 0:
		return recycleStep{action: recycleDelete, reason: fmt.Sprintf("not proven clean within %s", recycleLimit)}
	case f.disobeys:
		return recycleStep{action: recycleDelete, reason: "its executor obeys another root than the controller's present one"}
	case f.memory.refused:
		return recycleStep{action: recycleDelete, reason: "its executor doesn't know how to recycle"}
	case f.progress == recycling.Alone:
		return recycleStep{action: recycleDelete, reason: "its node restarted the container " + v1alpha1.TaskExecutorContainer +
			" alone: the kubelet doesn't know the rule to restart all containers"}
	case f.progress == recycling.Restarting:
		return recycleStep{wait: left}
	case f.progress == recycling.Restarted && f.report != nil:
		return judge(f.mark, *f.report)
	case f.progress == recycling.Restarted:
		return whenDue(recycleCheck, f.memory.checkAt.Sub(f.now), left)
	default:
		return whenDue(recycleAsk, f.memory.askAt.Sub(f.now), left)
	}
}

// whenDue is a call, or the wait for it.
func whenDue(action recycleAction, due, left time.Duration) recycleStep {
	if due > 0 {
		return recycleStep{wait: min(left, due)}
	}
	return recycleStep{action: action, wait: left} // the answer brings the pool back
}

// judge is the part of planRecycle about the executor's report.
func judge(mark recycling.Mark, report taskexecutor.RecycleState) recycleStep {
	switch {
	case report.Clean && report.ID == string(mark.Batch) && len(report.Reasons) == 0:
		return recycleStep{action: recycleUnmark}
	case len(report.Reasons) > 0:
		return recycleStep{action: recycleDelete, reason: strings.Join(report.Reasons, "; ")}
	default:
		return recycleStep{action: recycleDelete, reason: "its executor did not come back from this recycling"}
	}
}

// ending is the write that ends the recycling of a pod: it is unmarked, or deleted for a reason.
type ending struct {
	known  scheduler.Pod
	pod    *corev1.Pod
	reason string        // "" to unmark it
	took   time.Duration // since it was first seen
	done   bool
}

// recycle takes every marked pod of the pool that nobody holds a step further: calls of executors are handed to Calls, which
// brings the pool back with their answers. It returns when to look again, 0 if only news can help.
func (r *Reconciler) recycle(ctx context.Context, pool *v1alpha1.Pool, mem *memory) (time.Duration, error) {
	key := client.ObjectKeyFromObject(pool)
	marked := r.ledger.Recycling(key)
	mem.keepRecycling(marked, r.clock.Now())
	for uid, a := range r.calls.take(key) {
		if m := mem.recycling[uid]; m != nil {
			m.heard(a, r.clock.Now())
		}
	}
	wait := time.Duration(0)
	var endings []*ending
	var errs []error
	for _, p := range marked {
		again, end, err := r.stepRecycling(ctx, key, p, mem.recycling[p.UID])
		wait = soonest(wait, again)
		errs = append(errs, err)
		if end != nil {
			endings = append(endings, end)
		}
	}
	if len(endings) > maxRecyclingAtOnce {
		endings, wait = endings[:maxRecyclingAtOnce], time.Millisecond
	}
	errs = append(errs, r.endRecyclings(ctx, key, endings))
	for _, e := range endings {
		switch {
		case e.done && e.reason == "":
			mem.unmarked++
		case e.done:
			logf.FromContext(ctx).Info("deleted a pod that could not be recycled",
				"pool", klog.KObj(pool), "pod", e.known.Name, "reason", e.reason)
			r.send(pool, notRecycled(pool, e.known.Name, e.reason))
		case e.reason == "": // it changed
			wait = soonest(wait, askFirst)
		}
	}
	return wait, errors.Join(errs...)
}

// keepRecycling starts the time of pods newly marked, and forgets those that are done with.
func (m *memory) keepRecycling(marked []scheduler.Pod, now time.Time) {
	kept := make(map[types.UID]*recycleMemory, len(marked))
	for _, p := range marked {
		if kept[p.UID] = m.recycling[p.UID]; kept[p.UID] == nil {
			kept[p.UID] = &recycleMemory{seen: now}
		}
	}
	m.recycling = kept
}

// countReleased adds what became of released pods since it was last called to what the status tells. The sums only grow: a
// cache that shows an older status, or a write that landed though its reply was lost, counts nothing twice.
func (m *memory) countReleased(pool *v1alpha1.Pool, since scheduler.Released) scheduler.Released {
	m.released = scheduler.Released{
		Recycled: max(m.released.Recycled, pool.Status.Recycled) + since.Recycled + m.unmarked,
		Replaced: max(m.released.Replaced, pool.Status.Replaced) + since.Replaced,
	}
	m.unmarked = 0
	return m.released
}

// stepRecycling takes one pod a step further. It returns when to look again, or the write that is due.
func (r *Reconciler) stepRecycling(
	ctx context.Context, pool client.ObjectKey, p scheduler.Pod, mem *recycleMemory,
) (again time.Duration, end *ending, err error) {
	now := r.clock.Now()
	if left := mem.lookAt.Sub(now); left > 0 && mem.version == p.ResourceVersion {
		return left, nil, nil
	}
	pod, err := r.cachedPod(ctx, pool.Namespace, p.Name)
	if err != nil || pod == nil || pod.UID != p.UID || scheduler.OlderVersion(pod.ResourceVersion, p.ResourceVersion) {
		return askFirst, nil, err // the cache is behind the ledger, or the other way round
	}
	if _, still := pod.Annotations[v1alpha1.RecyclingAnnotation]; !still {
		return askFirst, nil, nil
	}
	facts := recycleFacts{memory: *mem, disobeys: p.Disobeys(r.root()), now: now}
	if facts.mark, facts.markErr = recycling.Parse(pod); facts.markErr == nil {
		facts.progress = recycling.ProgressOf(facts.mark, pod)
	}
	if mem.reported == pod.ResourceVersion {
		facts.report = mem.report
	}
	step := planRecycle(facts)
	question := call{pool: pool, pod: p.UID, ip: pod.Status.PodIP, version: pod.ResourceVersion}
	switch step.action {
	case recycleUnmark, recycleDelete:
		return 0, &ending{known: p, pod: pod, reason: step.reason, took: now.Sub(mem.seen)}, nil
	case recycleAsk:
		question.recycling = string(facts.mark.Batch)
		r.calls.make(question)
	case recycleCheck:
		r.calls.make(question)
	default: // recycleWait
	}
	again = max(askFirst, step.wait)
	mem.version, mem.lookAt = p.ResourceVersion, now.Add(again)
	return again, nil, nil
}

// endRecyclings unmarks and deletes pods.
func (r *Reconciler) endRecyclings(ctx context.Context, pool client.ObjectKey, endings []*ending) error {
	errs := make([]error, len(endings))
	_, _ = slowstart.Do(ctx, len(endings), func(ctx context.Context, i int) error { // errs has the errors
		e := endings[i]
		if e.reason == "" {
			e.done, errs[i] = r.unmark(ctx, pool, e.pod, e.took)
			return nil
		}
		errs[i] = r.discard(ctx, pool, e.known)
		e.done = errs[i] == nil
		return nil
	})
	return errors.Join(errs...)
}

// unmark makes the pod idle, if it is still what was looked at.
func (r *Reconciler) unmark(ctx context.Context, pool client.ObjectKey, pod *corev1.Pod, took time.Duration) (done bool, err error) {
	body := fmt.Sprintf(`{"metadata":{"uid":%q,"resourceVersion":%q,"annotations":{%q:null}}}`,
		pod.UID, pod.ResourceVersion, v1alpha1.RecyclingAnnotation)
	patched := pod.DeepCopy()
	err = r.client.Patch(ctx, patched, client.RawPatch(types.MergePatchType, []byte(body)))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return false, nil // its news brings the pool back here
	}
	if err != nil {
		return false, fmt.Errorf("unmark pod %s: %w", klog.KObj(pod), err)
	}
	r.ledger.RefreshPod(pool, patched)
	logf.FromContext(ctx).Info("recycled pod", "pod", klog.KObj(pod), "took", took.Round(time.Millisecond).String())
	return true, nil
}

// discard deletes a pod. Until that has landed it is still marked, and never idle.
func (r *Reconciler) discard(ctx context.Context, pool client.ObjectKey, p scheduler.Pod) error {
	if err := r.deleteUID(ctx, pool, p); err != nil {
		return err
	}
	r.ledger.Replace(pool, p.Name)
	return nil
}
