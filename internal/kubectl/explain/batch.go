// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/queue"
)

func batchChecks() []check {
	return []check{goneCauses, batchEnding, controllerCauses, batchMistakes, executorCauses, batchPods, waitingCauses, taskCauses}
}

func (f *Facts) pooled() bool { return f.Batch != nil && f.Batch.Spec.PoolRef != "" }

// template names what the batch's pods are made from, as kubectl edit takes it.
func (f *Facts) template() string {
	if f.Kind == KindPool {
		return "pool/" + f.Name
	}
	if f.pooled() {
		return "pool/" + f.Batch.Spec.PoolRef
	}
	return "batchsandbox/" + f.Name
}

// batchEnding tells of a batch that is being deleted, or should be.
//
//	| being deleted | expireTime     | cause       |
//	| yes           | before that    | Expired     |
//	| yes           | later, or none | Terminating |
//	| no            | over           | Expired, and the check of the controller says why it is still there |
//	| no            | later, or none | none        |
func batchEnding(f *Facts) ([]Cause, bool) {
	sb := f.Batch
	expire := sb.Spec.ExpireTime
	if sb.DeletionTimestamp == nil {
		if expire == nil || f.Now.Before(expire.Time) {
			return nil, false
		}
		causes, _ := controllerCauses(f)
		return append(one(expired(f, "the controller is to delete it since "+at(expire.Time), "spec.expireTime")), causes...), true
	}
	waits := "its pods are gone"
	if len(sb.Finalizers) > 0 {
		waits = "its tasks have stopped and its sandboxes are given back (finalizers " + strings.Join(sb.Finalizers, ", ") + ")"
	}
	since := fmt.Sprintf("it is being deleted since %s (%s) and goes when %s", at(sb.DeletionTimestamp.Time), ago(f.Now, sb.DeletionTimestamp.Time), waits)
	e := f.lastEvent(KindBatch, f.Name, "Expired")
	if e != nil || expire != nil && !sb.DeletionTimestamp.Time.Before(expire.Time) {
		return one(expired(f, since, "metadata.deletionTimestamp")), true
	}
	c := Cause{
		Reason: ReasonTerminating, Sentence: f.Name + ": " + since,
		Remedy:   "wait; a task-executor that can't be reached holds it up for 30 s, after which the pod is deleted instead of reused",
		Commands: []string{f.kubectl("get", "pods", "-l", v1alpha1.BatchNameLabel+"="+f.Name)},
		Evidence: []string{"metadata.deletionTimestamp"},
	}
	if lease, stale := f.leaseCause(); stale {
		return []Cause{lease, c}, true
	}
	return one(c), true
}

// batchMistakes tells what the controller calls wrong with the batch, in its words: a reason of Allocated or Ready that
// waiting alone doesn't mend.
func batchMistakes(f *Facts) ([]Cause, bool) {
	for _, kind := range []string{v1alpha1.ConditionAllocated, v1alpha1.ConditionReady} {
		c := condition(f.Batch.Status.Conditions, kind)
		if c.Status != metav1.ConditionFalse {
			continue
		}
		if cause, found := f.quotaCause(c, "batch"); found {
			return one(cause), false
		}
		if remedy, commands, known := f.mistake(c.Reason); known {
			return one(Cause{
				Reason: c.Reason, Sentence: f.mistakeSentence(c), Remedy: remedy, Commands: commands, Evidence: []string{from("batch", c)},
			}), false
		}
	}
	return nil, false
}

func (f *Facts) mistakeSentence(c metav1.Condition) string {
	sentence := tidy(c.Message)
	if c.Reason == v1alpha1.ReasonPoolNotFound && f.Pool == nil && len(f.Hidden) == 0 {
		sentence = fmt.Sprintf("there is no Pool %s in namespace %s, which %s takes its sandboxes from (spec.poolRef)", f.Batch.Spec.PoolRef, f.Namespace, f.Name)
	}
	return sentence
}

// mistake says what to do about a reason of Allocated=False or Ready=False that is a mistake.
func (f *Facts) mistake(reason string) (remedy string, commands []string, known bool) {
	edit := f.kubectl("edit", "batchsandbox/"+f.Name)
	pool := f.kubectl("edit", "pool/"+f.Batch.Spec.PoolRef)
	switch reason {
	case v1alpha1.ReasonPoolNotFound:
		return "make a Pool of that name in this namespace, and the batch is served; poolRef can't be changed, so a name that is misspelt needs a new batch",
			[]string{f.kubectl("get", "pools")}, true
	case v1alpha1.ReasonPoolTerminating:
		return "wait until the Pool is gone and make it anew, or make the batch of another one", []string{f.kubectl("get", "pool/"+f.Batch.Spec.PoolRef)}, true
	case v1alpha1.ReasonExceedsPoolMax:
		return "raise capacitySpec.poolMax of the Pool, or lower replicas (or minAvailable) of the batch", []string{pool, edit}, true
	case v1alpha1.ReasonAllocationTimedOut:
		return "enlarge the Pool and make a new batch, raise allocationTimeoutSeconds, or remove it to wait for as long as it takes", []string{pool, edit}, true
	case v1alpha1.ReasonTooManyReplicas:
		return "lower replicas, and use several batches", []string{edit}, true
	case v1alpha1.ReasonNameTooLong:
		return "make a batch with a shorter name", nil, true
	case v1alpha1.ReasonInvalidTask:
		return "make a new batch with a task that is right: tasks can't be edited", []string{f.kubectl("explain", "batchsandbox.spec.taskTemplate", "--recursive")}, true
	case v1alpha1.ReasonInvalidAnnotation:
		return "repair the annotation, or remove it: an annotation of the controller was edited", []string{edit}, true
	case v1alpha1.ReasonPodsForbidden:
		return "ask who runs the cluster for what the message names (a Pod Security level, a quota, a service account), or change the template", []string{edit}, true
	case v1alpha1.ReasonPodNameTaken:
		return "delete that pod if nobody needs it, or make a batch of another name", nil, true
	case v1alpha1.ReasonNoTemplate, v1alpha1.ReasonInvalidTemplate, v1alpha1.ReasonInvalidShardPatch, v1alpha1.ReasonInvalidSpec:
		return "correct what the message names", []string{edit}, true
	default:
		return "", nil, false
	}
}

// batchPods tells what keeps the batch's own or held pods from being Ready. A task-executor that has ended is told of already
// where a task depends on it.
func batchPods(f *Facts) ([]Cause, bool) {
	var causes []Cause
	executor := fmt.Sprintf("container %s of ", v1alpha1.TaskExecutorContainer)
	for _, g := range f.groupTroubles(f.Pods, indexesOf(f)) {
		if !g.mild && (f.Batch.Status.TaskUnknown == 0 || !strings.HasPrefix(g.evidence, executor)) {
			causes = append(causes, f.causeOf(g, f.template()))
		}
	}
	return causes, false
}

// batchRest tells of a batch that is not Ready though nothing is known to be wrong.
func batchRest(f *Facts) []Cause {
	groups := f.groupTroubles(f.Pods, indexesOf(f))
	if len(groups) > 0 {
		return one(f.causeOf(groups[0], f.template()))
	}
	for _, kind := range []string{v1alpha1.ConditionAllocated, v1alpha1.ConditionReady} {
		if c := condition(f.Batch.Status.Conditions, kind); c.Status == metav1.ConditionFalse {
			return one(Cause{
				Reason: c.Reason, Sentence: fmt.Sprintf("%s for %s", tidy(c.Message), ago(f.Now, c.LastTransitionTime.Time)),
				Remedy: "wait; if it takes long, look at its events", Commands: []string{f.kubectl("describe", "batchsandbox/"+f.Name)}, Evidence: []string{from("batch", c)},
			})
		}
	}
	if len(f.Batch.Status.Conditions) == 0 {
		return one(Cause{
			Reason: ReasonControllerBehind, Sentence: fmt.Sprintf("%s was made %s ago, and the controller has not answered yet", f.Name, ago(f.Now, f.Batch.CreationTimestamp.Time)),
			Remedy: "ask again in a few seconds", Evidence: []string{"status has no conditions"},
		})
	}
	return nil
}

// --- waiting for a pool -----------------------------------------------------------------------------------

// waitingCauses say why a batch doesn't get the sandboxes that it wants from its pool. The first row that matches is told,
// and of a gang that it is one before it:
//
//	| pool is known | its pods     | it is limited by poolMax    | ahead in the queue | pods are available | starting | cause                       |
//	| no            | -            | -                           | -                  | -                  | -        | none: the condition tells   |
//	| yes           | don't start  | -                           | -                  | -                  | -        | what is wrong with them     |
//	| yes           | start        | yes                         | -                  | -                  | -        | PoolExhausted               |
//	| yes           | start        | no                          | -                  | -                  | some     | PodsStarting                |
//	| yes           | start        | no                          | some               | -                  | none     | WaitingInQueue              |
//	| yes           | start        | no                          | none               | some               | none     | none, but for a gang        |
//	| yes           | start        | no                          | none               | none               | none     | PoolNotGrowing              |
func waitingCauses(f *Facts) ([]Cause, bool) {
	allocated := condition(f.Batch.Status.Conditions, v1alpha1.ConditionAllocated)
	if !f.pooled() || f.Pool == nil || allocated.Status != metav1.ConditionFalse ||
		allocated.Reason != v1alpha1.ReasonWaitingForPool && f.Batch.Status.Queue == nil {
		return nil, false
	}
	causes := poolMistakes(f)
	causes = append(causes, f.failingPool()...)
	failing := len(causes) > 0
	if gang, waits := f.gangCause(); waits {
		causes = append(causes, gang)
	}
	if failing {
		return causes, false
	}
	return append(causes, f.supplyCause()...), false
}

// ahead are the batches that are served before the one asked about.
func (f *Facts) ahead() []queue.Entry {
	var before []queue.Entry
	for _, e := range queue.Entries(f.Batches, f.Batch.Spec.PoolRef) {
		if e.Batch == f.Batch.Name {
			return before
		}
		before = append(before, e)
	}
	return nil // it is not in the list: nothing is known of the others
}

func (f *Facts) gangCause() (Cause, bool) {
	gang, held := queue.Gang(f.Batch), queue.Held(f.Batch)
	if gang <= 1 || held >= gang {
		return Cause{}, false
	}
	pool, spec := f.Pool.Name, f.Pool.Spec.CapacitySpec
	status := f.Pool.Status
	return Cause{
		Reason: ReasonGangWaiting,
		Sentence: fmt.Sprintf("%s takes no sandbox before it can have %d together (minAvailable), and Pool %s has %d available and %d starting; batches hold %d, and poolMax is %d",
			f.Name, gang, pool, status.Available, status.Starting, status.Allocated, spec.PoolMax) + f.holders(),
		Remedy:   "wait until other batches give sandboxes back, raise poolMax, or lower minAvailable",
		Commands: []string{"kubectl sandbox -n " + f.Namespace + " queue " + pool, f.kubectl("edit", "pool/"+pool), f.kubectl("edit", "batchsandbox/"+f.Name)},
		Evidence: []string{"spec.minAvailable of the batch", fmt.Sprintf("status of Pool %s: available %d, starting %d, allocated %d", pool, status.Available, status.Starting, status.Allocated)},
	}, true
}

// holders tells which batches hold the pool's pods, the largest first.
func (f *Facts) holders() string {
	type holder struct {
		name string
		n    int
	}
	var all []holder
	for i := range f.Batches {
		if n := queue.Held(&f.Batches[i]); n > 0 {
			all = append(all, holder{f.Batches[i].Name, n})
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.SortStableFunc(all, func(a, b holder) int { return b.n - a.n })
	names := make([]string, 0, len(all))
	for _, h := range all {
		names = append(names, fmt.Sprintf("%s %d", h.name, h.n))
	}
	return "; held by " + list(names)
}

// supplyCause says why the pool hands out no more, where nothing is wrong with its pods.
func (f *Facts) supplyCause() []Cause {
	pool, status, spec := f.Pool.Name, f.Pool.Status, f.Pool.Spec.CapacitySpec
	limited := condition(status.Conditions, v1alpha1.ConditionScalingLimited)
	ahead := f.ahead()
	place := f.place(len(ahead))
	full := limited.Status == metav1.ConditionTrue && limited.Reason == v1alpha1.ReasonPoolMaxReached
	switch {
	case full || status.Total >= spec.PoolMax && status.Available == 0 && status.Starting == 0:
		evidence := []string{fmt.Sprintf("status of Pool %s: total %d, allocated %d, available %d, waiting %d", pool, status.Total, status.Allocated, status.Available, status.Waiting)}
		if full {
			evidence = append(evidence, from("pool", limited))
		}
		return one(Cause{
			Reason: ReasonPoolExhausted,
			Sentence: fmt.Sprintf("Pool %s is exhausted: it has %d of at most %d pods (poolMax), of which batches hold %d, and %s %s waited for%s%s",
				pool, status.Total, spec.PoolMax, status.Allocated, count(int(status.Waiting), "sandbox"), is(int(status.Waiting)), place, f.holders()),
			Remedy:   "raise poolMax, or wait until other batches give sandboxes back (delete those that nobody needs; a higher priority comes first in the queue)",
			Commands: []string{"kubectl sandbox -n " + f.Namespace + " queue " + pool, f.kubectl("edit", "pool/"+pool)},
			Evidence: evidence,
		})
	case status.Starting > 0:
		return one(f.startingCause(limited, place))
	case len(ahead) > 0:
		return one(Cause{
			Reason:   ReasonWaitingInQueue,
			Sentence: fmt.Sprintf("%s of Pool %s %s served first: %s%s", count(len(ahead), "batch"), pool, is(len(ahead)), list(names(ahead)), place),
			Remedy:   "wait, or give the batch a higher priority: higher ones come first, then older ones",
			Commands: []string{"kubectl sandbox -n " + f.Namespace + " queue " + pool},
			Evidence: []string{"status.queue of the batches of the pool"},
		})
	case status.Available > 0:
		return nil
	default:
		return one(f.notGrowing(place))
	}
}

func names(entries []queue.Entry) []string {
	all := make([]string, 0, len(entries))
	for _, e := range entries {
		all = append(all, fmt.Sprintf("%s (wants %d, priority %d)", e.Batch, e.Wants, e.Priority))
	}
	return all
}

// place tells where in the queue the batch stands, and until when it may.
func (f *Facts) place(ahead int) string {
	position := ahead + 1
	if q := f.Batch.Status.Queue; q != nil {
		position = int(q.Position)
	}
	text := fmt.Sprintf("; %s is at position %d of the queue and wants %d", f.Name, position, queue.Wants(f.Batch))
	allocated := condition(f.Batch.Status.Conditions, v1alpha1.ConditionAllocated)
	if timeout := f.Batch.Spec.AllocationTimeoutSeconds; timeout != nil {
		end := allocated.LastTransitionTime.Add(time.Duration(*timeout) * time.Second)
		text += fmt.Sprintf(" (it gives up at %s: allocationTimeoutSeconds)", at(end))
	}
	return text
}

func (f *Facts) startingCause(limited metav1.Condition, place string) Cause {
	pool, status := f.Pool.Name, f.Pool.Status
	c := Cause{
		Reason: ReasonPodsStarting,
		Sentence: fmt.Sprintf("%s of Pool %s %s starting, and %s %s waited for%s", count(int(status.Starting), "pod"), pool, is(int(status.Starting)),
			count(int(status.Waiting), "sandbox"), is(int(status.Waiting)), place),
		Remedy:   "wait; keep more pods warm (bufferMin) if this takes too long",
		Commands: []string{f.kubectl("get", "pods", "-l", v1alpha1.PoolNameLabel+"="+pool)},
		Evidence: []string{fmt.Sprintf("status of Pool %s: starting %d, waiting %d", pool, status.Starting, status.Waiting)},
	}
	if limited.Status == metav1.ConditionTrue && limited.Reason == v1alpha1.ReasonStartingLimit {
		c.Sentence += "; no more may start at once (scaleStrategy.maxUnavailable)"
		c.Evidence = append(c.Evidence, from("pool", limited))
	}
	return c
}

func (f *Facts) notGrowing(place string) Cause {
	pool, status := f.Pool.Name, f.Pool.Status
	ready := condition(status.Conditions, v1alpha1.ConditionReady)
	why := ""
	if status.LastScaleReason != "" {
		why = fmt.Sprintf("; its last decision was %q", status.LastScaleReason)
	}
	c := Cause{
		Reason: ReasonPoolNotGrowing,
		Sentence: fmt.Sprintf("Pool %s has no pod to hand out and none is starting: it has %d pods, batches hold %d, and poolMax is %d%s%s",
			pool, status.Total, status.Allocated, f.Pool.Spec.CapacitySpec.PoolMax, why, place),
		Remedy:   "look at the pool",
		Commands: []string{"kubectl sandbox -n " + f.Namespace + " explain pool/" + pool},
		Evidence: []string{fmt.Sprintf("status.lastScaleReason of Pool %s", pool)},
	}
	if ready.Status == metav1.ConditionFalse {
		c.Evidence = append(c.Evidence, from("pool", ready))
		if strings.Contains(ready.Message, "the nodes of") {
			c.Sentence += "; " + ready.Message[strings.Index(ready.Message, "the nodes of"):]
			c.Remedy = "uncordon or repair the nodes, or add others"
			c.Commands = append([]string{"kubectl get nodes"}, c.Commands...)
		}
	}
	return c
}
