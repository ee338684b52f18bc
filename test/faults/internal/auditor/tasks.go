// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
)

// task is a task of a batch: that of one index.
type task struct {
	batch types.UID
	index int
}

func compareTasks(a, b task) int {
	return cmp.Or(cmp.Compare(a.batch, b.batch), cmp.Compare(a.index, b.index))
}

// runs are the runs of each task, by try and then by beginning.
type runs map[task][]Mark

func sortRuns(marks []Mark) runs {
	all := runs{}
	for _, m := range marks {
		t := task{m.Batch, m.Index}
		all[t] = append(all[t], m)
	}
	for _, of := range all {
		slices.SortFunc(of, func(a, b Mark) int {
			return cmp.Or(cmp.Compare(a.Try, b.Try), a.Begin.Compare(b.Begin), cmp.Compare(a.Pod, b.Pod))
		})
	}
	return all
}

// try is the first run of a try, nil for none.
func (r runs) try(t task, n int) *Mark {
	for i := range r[t] {
		if r[t][i].Try == n {
			return &r[t][i]
		}
	}
	return nil
}

// told is what the status of a batch has told of its tasks.
type told struct {
	ends map[int]string // "" for success, else the reason
	// tries are the numbers of the tries of each index, with when they were first told.
	tries map[int][]triesAt
}

type triesAt struct {
	before int // tries before the current one
	at     time.Time
}

// endsOf are the ends that a status tells, by index: success is "", and a failure without a reason is "failure".
func endsOf(status *v1alpha1.BatchSandboxStatus) map[int]string {
	ends := map[int]string{}
	for _, i := range indexes(status.CompletedIndexes) {
		ends[i] = ""
	}
	for _, i := range indexes(status.FailedIndexes) {
		ends[i] = "failure"
	}
	for _, f := range status.FailedReasons {
		for _, i := range indexes(f.Indexes) {
			ends[i] = f.Reason
		}
	}
	for _, f := range status.FailedTasks {
		ends[int(f.Index)] = f.Reason
	}
	return ends
}

// triesBefore is the number of the tries of an index that are over and were not its last.
func triesBefore(status *v1alpha1.BatchSandboxStatus, index int) int {
	for _, t := range status.TaskTries {
		if int(t.Index) == index {
			return int(t.Failed + t.Lost + t.Withdrawn)
		}
	}
	return 0
}

// checkEnds compares the ends that a status newly tells with what the executors saw. An end that was told must stay, unless its
// index was not asked for meanwhile.
func (a *audit) checkEnds(s step) {
	if s.batch == nil || s.batch.gone || s.batch.obj.Spec.TaskTemplate == nil {
		return
	}
	sb := s.batch.obj
	known := a.ends[sb.UID]
	if known == nil {
		known = &told{ends: map[int]string{}, tries: map[int][]triesAt{}}
		a.ends[sb.UID] = known
	}
	before, now := known.ends, endsOf(&sb.Status)
	for _, index := range slices.Sorted(maps.Keys(before)) {
		if end, still := now[index]; (!still || end != before[index]) && s.batch.leastSize() > index {
			a.misreported(s, index, fmt.Sprintf("was told to have ended with %s, and then with %s", inWords(before[index]), endInWords(end, still)))
		}
	}
	for _, index := range slices.Sorted(maps.Keys(now)) {
		if _, was := before[index]; !was || s.batch.leastSize() <= index {
			a.checkEnd(s, index, now[index])
		}
	}
	known.ends = now
	known.noteTries(s)
}

// checkEnd compares an end with what the executor saw of the current try.
func (a *audit) checkEnd(s step, index int, end string) {
	try := 1 + triesBefore(&s.batch.obj.Status, index)
	if m := a.runs.try(task{s.batch.obj.UID, index}, try); !a.agrees(end, m) {
		a.misreported(s, index, fmt.Sprintf("is told to have ended with %s, and %s", inWords(end), seen(try, m)))
	}
}

// noteTries notes when the status first counted tries.
func (k *told) noteTries(s step) {
	status := &s.batch.obj.Status
	for _, t := range status.TaskTries {
		index := int(t.Index)
		n, last := triesBefore(status, index), len(k.tries[index])-1
		if last < 0 || k.tries[index][last].before < n {
			k.tries[index] = append(k.tries[index], triesAt{n, s.Time})
		}
	}
}

// leastSize is the smallest number of replicas the batch ever had.
func (b *batch) leastSize() int { return slices.Min(b.sizes) }

func inWords(end string) string { return cmp.Or(end, "success") }

func endInWords(end string, told bool) string {
	if !told {
		return "nothing"
	}
	return inWords(end)
}

func seen(try int, m *Mark) string {
	switch {
	case m == nil:
		return fmt.Sprintf("no executor ran try %d", try)
	case m.How == "":
		return fmt.Sprintf("try %d has not ended", try)
	default:
		return fmt.Sprintf("try %d ended with %s", try, m.How)
	}
}

func (a *audit) misreported(s step, index int, sentence string) {
	a.find(Finding{
		Kind: EndMisreported, Objects: []string{s.batch.title(), fmt.Sprintf("index %d", index)}, Revisions: []int64{s.Revision},
		Sentence: fmt.Sprintf("index %d of %s %s", index, s.batch.title(), sentence),
	})
}

// agrees says whether a told end may follow from the run of the try:
//
//	| told                      | the run                                              | agrees |
//	| success                   | Completed                                            | yes    |
//	| NonZeroExit, and so on    | ended with the same                                  | yes    |
//	| StartError                | none, or ended with the same                         | yes    |
//	| SandboxLost, ExecutorLost | none, not ended, ended with either, or its pod is lost | yes  |
//	| a failure, no reason      | any but Completed                                    | yes    |
//	| anything                  | anything else                                        | no     |
func (a *audit) agrees(end string, m *Mark) bool {
	how := ""
	if m != nil {
		how = m.How
	}
	switch end {
	case "":
		return how == reasonCompleted
	case v1alpha1.TaskReasonSandboxLost, v1alpha1.TaskReasonExecutorLost:
		if how == "" || how == v1alpha1.TaskReasonSandboxLost || how == v1alpha1.TaskReasonExecutorLost {
			return true
		}
		_, lost := a.world.lostAt[m.Pod]
		return lost
	case v1alpha1.TaskReasonStartError:
		return m == nil || how == end
	case "failure":
		return how != reasonCompleted
	default:
		return how == end
	}
}

// reasonCompleted is how an executor calls success.
const reasonCompleted = "Completed"

// checkMarks finds tries that ran twice, and tasks that ran too often. The first row that matches, a finding for each task:
//
//	| what ran                                                                                    | the finding       |
//	| one try in two runs                                                                         | it ran twice      |
//	| a try after one that ended with Completed, and whose pod was there to tell it               | it ran again      |
//	| more tries that failed by themselves, and were there to tell it, than 1 + backoffLimit + R  | too many failures |
//	| more tries than 1 + backoffLimit + MaxLostTries + R                                         | too many tries    |
//	| a try that the status did not count within Settings.Stale of its beginning                  | not counted first |
//
// R is how often replicas was raised above the index after it had been lowered: each time another try begins.
func (a *audit) checkMarks() {
	for _, t := range slices.SortedFunc(maps.Keys(a.runs), compareTasks) {
		b := a.world.known[t.batch]
		if b == nil || b.obj.Spec.TaskTemplate == nil {
			continue
		}
		if objects, why := a.tooOften(b, t, a.runs[t]); why != "" {
			a.find(Finding{
				Kind: RunTooOften, Objects: append([]string{b.title(), fmt.Sprintf("index %d", t.index)}, objects...),
				Revisions: []int64{a.world.revisions[t.batch]}, Sentence: fmt.Sprintf("index %d of %s: %s", t.index, b.title(), why),
			})
		}
	}
}

func (a *audit) tooOften(b *batch, t task, marks []Mark) (objects []string, why string) {
	raises, limit := b.raises(t.index), backoffLimit(b.obj, t.index)
	for i := 1; i < len(marks); i++ {
		before, m := marks[i-1], marks[i]
		pods := []string{a.world.podTitle(before.Pod), a.world.podTitle(m.Pod)}
		switch {
		case m.Try == before.Try:
			return pods, fmt.Sprintf("try %d ran in %s and in %s", m.Try, pods[0], pods[1])
		case before.How == reasonCompleted && !a.goneSoonAfter(before) && raises == 0:
			return pods[1:], fmt.Sprintf("try %d ran though try %d had succeeded", m.Try, before.Try)
		}
	}
	if failed := a.failures(marks); failed > 1+limit+raises {
		return nil, fmt.Sprintf("%d tries failed by themselves, and its backoffLimit is %d", failed, limit)
	}
	if len(marks) > 1+limit+v1alpha1.MaxLostTries+raises {
		return nil, fmt.Sprintf("it ran %d times, its backoffLimit is %d, and %d may be lost", len(marks), limit, v1alpha1.MaxLostTries)
	}
	for _, m := range marks {
		if !a.wasCounted(t, m) {
			return []string{a.world.podTitle(m.Pod)}, fmt.Sprintf("try %d began before the status counted the tries before it", m.Try)
		}
	}
	return nil, ""
}

// failures is the number of runs that failed by themselves, and whose pods were there to tell it.
func (a *audit) failures(marks []Mark) int {
	n := 0
	for _, m := range marks {
		if (m.How == v1alpha1.TaskReasonNonZeroExit || m.How == v1alpha1.TaskReasonTimedOut) && !a.goneSoonAfter(m) {
			n++
		}
	}
	return n
}

// goneSoonAfter says whether the pod of a run was lost so soon after its end that nobody may have heard of it: for as long as a
// failover takes nobody listens.
func (a *audit) goneSoonAfter(m Mark) bool {
	lost, known := a.world.lostAt[m.Pod]
	return known && !lost.After(m.End.Add(a.settings.Flight))
}

// wasCounted says whether the status had the tries before this one when it began.
func (a *audit) wasCounted(t task, m Mark) bool {
	if m.Try <= 1 {
		return true
	}
	batch := a.ends[t.batch]
	return batch != nil && slices.ContainsFunc(batch.tries[t.index], func(c triesAt) bool {
		return c.before >= m.Try-1 && !c.at.After(m.Begin.Add(a.settings.Stale))
	})
}

// raises is how often replicas was raised above an index after it had been lowered to it.
func (b *batch) raises(index int) int {
	n, had, has := 0, false, false
	for _, size := range b.sizes {
		wanted := size > index
		if wanted && !has && had {
			n++
		}
		had, has = had || wanted, wanted
	}
	return n
}

// backoffLimit is how often the task of an index may be run again after it failed by itself.
func backoffLimit(sb *v1alpha1.BatchSandbox, index int) int {
	limit := int32(0)
	if l := sb.Spec.TaskTemplate.Spec.BackoffLimit; l != nil {
		limit = *l
	}
	if index >= len(sb.Spec.ShardTaskPatches) {
		return int(limit)
	}
	var patch struct {
		Spec struct {
			BackoffLimit *int32 `json:"backoffLimit"`
		} `json:"spec"`
	}
	if json.Unmarshal(sb.Spec.ShardTaskPatches[index].Raw, &patch) == nil && patch.Spec.BackoffLimit != nil {
		limit = *patch.Spec.BackoffLimit
	}
	return int(limit)
}

// stuckTasks looks at every task at rest whose end is not told and whose sandbox is there:
//
//	| the current try                       | the finding                                     |
//	| runs in the sandbox                   | none                                            |
//	| ended in the sandbox                  | misreported: its end is not told                |
//	| has not begun, and its wait is over   | stuck                                           |
//	| has not begun, and waits after others | none                                            |
//	| ran in another sandbox                | stuck: it was lost with it, and is not run again |
func (a *audit) stuckTasks() []Finding {
	var found []Finding
	serving := a.world.serving()
	for _, n := range sortedNames(a.world.batches) {
		b := a.world.batches[n]
		if b.obj.DeletionTimestamp != nil || b.obj.Spec.TaskTemplate == nil || isMistaken(b.obj.Status.Conditions) {
			continue
		}
		pods := serving[b.obj.UID]
		if b.obj.Spec.PoolRef != "" {
			pods = a.world.servingPool(b)
		}
		found = append(found, a.stuckTasksOf(b, pods)...)
	}
	return found
}

func (a *audit) stuckTasksOf(b *batch, pods map[int]*corev1.Pod) []Finding {
	var found []Finding
	ends := endsOf(&b.obj.Status)
	for _, index := range slices.Sorted(maps.Keys(pods)) {
		pod := pods[index]
		if _, ended := ends[index]; ended || index >= replicas(b.obj) || !isPodReady(pod) {
			continue
		}
		if kind, why := a.taskProblem(b, index, pod); why != "" {
			found = append(found, Finding{
				Kind: kind, Objects: []string{b.title(), fmt.Sprintf("index %d", index)}, Revisions: []int64{a.world.revisions[b.obj.UID]},
				Sentence: fmt.Sprintf("index %d of %s has %s: %s", index, b.title(), titled("Pod", nameOf(pod)), why),
			})
		}
	}
	return found
}

func (a *audit) taskProblem(b *batch, index int, pod *corev1.Pod) (Kind, string) {
	t := task{b.obj.UID, index}
	try := 1 + triesBefore(&b.obj.Status, index)
	m := a.runs.try(t, try)
	switch {
	case m == nil || m.Begin.After(a.world.now):
		if a.waitsForRetry(b, index, try) {
			return "", ""
		}
		return Stuck, fmt.Sprintf("try %d has not begun", try)
	case m.Pod != pod.UID:
		return Stuck, fmt.Sprintf("try %d ran in %s, and nothing follows", try, a.world.podTitle(m.Pod))
	case m.How != "" && !m.End.After(a.world.now):
		return EndMisreported, fmt.Sprintf("try %d ended with %s, and the status doesn't tell it", try, m.How)
	default:
		return "", ""
	}
}

// waitsForRetry says whether the next try may still wait: 1 s after the first failure, twice as long after each further one, and 5
// minutes at most.
func (a *audit) waitsForRetry(b *batch, index, try int) bool {
	last := a.runs.try(task{b.obj.UID, index}, try-1)
	if last == nil {
		return false
	}
	failed := 0
	for _, t := range b.obj.Status.TaskTries {
		if int(t.Index) == index {
			failed = int(t.Failed)
		}
	}
	wait := 5 * time.Minute
	if failed <= 9 {
		wait = min(wait, time.Second<<max(0, failed-1))
	}
	return !a.world.now.After(last.End.Add(wait))
}
