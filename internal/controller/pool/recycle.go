// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	// recycleLimit is how long a marked pod may take to be proven clean, from when it was first seen marked.
	recycleLimit = time.Minute

	// executorTimeout bounds one call of an executor; a reconcile waits for it.
	executorTimeout = time.Second

	// askFirst and askLast bound the time between two calls of one executor that was no help; it doubles from one to the
	// other. askAgain is when one that agreed to exit, and did not, is asked again.
	askFirst = 50 * time.Millisecond
	askLast  = 5 * time.Second
	askAgain = 10 * time.Second

	// maxRecyclingAtOnce bounds the pods one reconcile looks at; their order changes as they are done with.
	maxRecyclingAtOnce = 256
)

// Executor is what recycling needs of a task-executor.
type Executor interface {
	Recycle(ctx context.Context, id string) error
	Recycled(ctx context.Context) (taskexecutor.RecycleState, error)
}

// Dialer returns what connects to the executor at an address.
func Dialer() func(ip string) Executor {
	transport := taskexecutor.NewTransport()
	transport.DisableKeepAlives = true // the executor exits
	return func(ip string) Executor {
		return taskexecutor.New(taskexecutor.BaseURL(ip), taskexecutor.WithTransport(transport), taskexecutor.WithTimeout(executorTimeout))
	}
}

// recycleMemory is what is remembered of one marked pod. It may be lost: the mark and the kubelet's word are the facts.
type recycleMemory struct {
	since   time.Time     // when the mark was first seen
	askAt   time.Time     // when the executor may be asked to exit again
	checkAt time.Time     // when the next one may be asked again whether it is clean
	pause   time.Duration // after a call that was no help
	refused bool          // the executor doesn't know how to recycle
}

// afterFailure is when to call again after a call that was no help.
func (m *recycleMemory) afterFailure(now time.Time) time.Time {
	m.pause = min(askLast, max(askFirst, 2*m.pause))
	return now.Add(m.pause)
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
	memory   recycleMemory
	report   *taskexecutor.RecycleState // the executor's answer just now; nil if it wasn't asked
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
//	| mark       | time is over | executor knows how | containers | call is due | report                  | step   |
//	| unreadable | -            | -                  | -          | -           | -                       | delete |
//	| readable   | yes          | -                  | -          | -           | -                       | delete |
//	| readable   | no           | no                 | -          | -           | -                       | delete |
//	| readable   | no           | yes                | untouched  | yes         | -                       | ask    |
//	| readable   | no           | yes                | untouched  | no          | -                       | wait   |
//	| readable   | no           | yes                | restarting | -           | -                       | wait   |
//	| readable   | no           | yes                | restarted  | -           | clean, of this mark     | unmark |
//	| readable   | no           | yes                | restarted  | -           | unclean, or of another  | delete |
//	| readable   | no           | yes                | restarted  | yes         | none                    | check  |
//	| readable   | no           | yes                | restarted  | no          | none                    | wait   |
func planRecycle(f recycleFacts) recycleStep {
	left := f.memory.since.Add(recycleLimit).Sub(f.now)
	switch {
	case f.markErr != nil:
		return recycleStep{action: recycleDelete, reason: f.markErr.Error()}
	case left <= 0:
		return recycleStep{action: recycleDelete, reason: fmt.Sprintf("not proven clean within %s", recycleLimit)}
	case f.memory.refused:
		return recycleStep{action: recycleDelete, reason: "its executor doesn't know how to recycle"}
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
	return recycleStep{action: action}
}

// judge is the part of planRecycle about the executor's report.
func judge(mark recycling.Mark, report taskexecutor.RecycleState) recycleStep {
	switch {
	case report.Clean && report.ID == string(mark.Batch):
		return recycleStep{action: recycleUnmark}
	case len(report.Reasons) > 0:
		return recycleStep{action: recycleDelete, reason: strings.Join(report.Reasons, "; ")}
	default:
		return recycleStep{action: recycleDelete, reason: "its executor did not come back from this recycling"}
	}
}

// recycle takes every marked pod of the pool that nobody holds a step further. It returns when to look again, 0 if only
// news can help.
func (r *Reconciler) recycle(ctx context.Context, pool *v1alpha1.Pool, mem *memory) (time.Duration, error) {
	key := client.ObjectKeyFromObject(pool)
	marked := r.ledger.Recycling(key)
	mem.keepRecycling(marked, r.clock.Now())
	if len(marked) == 0 {
		return 0, nil
	}
	marked = marked[:min(len(marked), maxRecyclingAtOnce)]
	waits := make([]time.Duration, len(marked))
	errs := make([]error, len(marked))
	var unclean sync.Map                                                           // name -> reason
	_, _ = slowstart.Do(ctx, len(marked), func(ctx context.Context, i int) error { // errs has the errors
		var reason string
		waits[i], reason, errs[i] = r.recyclePod(ctx, key, marked[i], mem.recycling[marked[i].UID])
		if reason != "" && errs[i] == nil {
			unclean.Store(marked[i].Name, reason)
		}
		return nil
	})
	unclean.Range(func(name, reason any) bool {
		logf.FromContext(ctx).Info("deleted a pod that could not be recycled", "pool", klog.KObj(pool), "pod", name, "reason", reason)
		r.send(pool, notRecycled(fmt.Sprint(name), fmt.Sprint(reason)))
		return true
	})
	return soonest(waits...), errors.Join(errs...)
}

// keepRecycling starts the time of pods newly marked, and forgets those that are done with.
func (m *memory) keepRecycling(marked []scheduler.Pod, now time.Time) {
	kept := make(map[types.UID]*recycleMemory, len(marked))
	for _, p := range marked {
		if kept[p.UID] = m.recycling[p.UID]; kept[p.UID] == nil {
			kept[p.UID] = &recycleMemory{since: now}
		}
	}
	m.recycling = kept
}

// recyclePod takes one pod a step further. A reason says why the pod was deleted, if there is no error.
func (r *Reconciler) recyclePod(
	ctx context.Context, pool client.ObjectKey, p scheduler.Pod, mem *recycleMemory,
) (wait time.Duration, reason string, err error) {
	pod, err := r.cachedPod(ctx, pool.Namespace, p.Name)
	if err != nil || pod == nil || pod.UID != p.UID || scheduler.OlderVersion(pod.ResourceVersion, p.ResourceVersion) {
		return askFirst, "", err // the cache is behind the ledger, or the other way round
	}
	if _, still := pod.Annotations[v1alpha1.RecyclingAnnotation]; !still {
		return askFirst, "", nil
	}
	facts := recycleFacts{memory: *mem, now: r.clock.Now()}
	if facts.mark, facts.markErr = recycling.Parse(pod); facts.markErr == nil {
		facts.progress = recycling.ProgressOf(facts.mark, pod)
	}
	step := planRecycle(facts)
	if step.action == recycleCheck {
		facts.report = r.checkClean(ctx, pod.Status.PodIP, mem)
		facts.memory, facts.now = *mem, r.clock.Now()
		step = planRecycle(facts)
	}
	switch step.action {
	case recycleAsk:
		r.askExecutor(ctx, pod.Status.PodIP, facts.mark, mem)
		return max(askFirst, mem.askAt.Sub(r.clock.Now())), "", nil
	case recycleUnmark:
		return 0, "", r.unmark(ctx, pool, pod, r.clock.Since(mem.since))
	case recycleDelete:
		return 0, step.reason, r.discard(ctx, pool, p)
	default:
		return max(askFirst, step.wait), "", nil
	}
}

// askExecutor asks for the restart. Whether it comes is seen from the pod's containers alone.
func (r *Reconciler) askExecutor(ctx context.Context, ip string, mark recycling.Mark, mem *recycleMemory) {
	err := r.dial(ip).Recycle(ctx, string(mark.Batch))
	now := r.clock.Now()
	var status *taskexecutor.StatusError
	switch {
	case err == nil:
		mem.askAt, mem.pause = now.Add(askAgain), 0
	case errors.As(err, &status) && (status.Status == http.StatusNotFound || status.Status == http.StatusMethodNotAllowed):
		mem.refused = true
	default: // it has tasks still, or can't be reached, or exits already
		mem.askAt = mem.afterFailure(now)
	}
}

// checkClean returns the executor's report, nil if there is none yet.
func (r *Reconciler) checkClean(ctx context.Context, ip string, mem *recycleMemory) *taskexecutor.RecycleState {
	report, err := r.dial(ip).Recycled(ctx)
	if err != nil {
		mem.checkAt = mem.afterFailure(r.clock.Now())
		return nil
	}
	return &report
}

// unmark makes the pod idle, if it is still what was looked at.
func (r *Reconciler) unmark(ctx context.Context, pool client.ObjectKey, pod *corev1.Pod, took time.Duration) error {
	body := fmt.Sprintf(`{"metadata":{"uid":%q,"resourceVersion":%q,"annotations":{%q:null}}}`,
		pod.UID, pod.ResourceVersion, v1alpha1.RecyclingAnnotation)
	patched := pod.DeepCopy()
	err := r.client.Patch(ctx, patched, client.RawPatch(types.MergePatchType, []byte(body)))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // its news brings the pool back here
	}
	if err != nil {
		return fmt.Errorf("unmark pod %s: %w", klog.KObj(pod), err)
	}
	r.ledger.RefreshPod(pool, patched)
	logf.FromContext(ctx).Info("recycled pod", "pod", klog.KObj(pod), "took", took.Round(time.Millisecond).String())
	return nil
}

// discard deletes a pod. Until that has landed it is still marked, and never idle.
func (r *Reconciler) discard(ctx context.Context, pool client.ObjectKey, p scheduler.Pod) error {
	if err := r.deleteUID(ctx, pool, p); err != nil {
		return err
	}
	r.ledger.Discard(pool, p.Name)
	return nil
}

// refusesRestartRules says whether the API server knows restart rules but not the one to restart all containers, or not
// beside what the template has.
func refusesRestartRules(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(status.Status().Details.Causes, func(c metav1.StatusCause) bool {
		return strings.Contains(c.Field, "restartPolicy")
	})
}
