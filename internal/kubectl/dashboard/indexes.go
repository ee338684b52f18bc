// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/utils/indexset"
	"opensandbox.io/controller/internal/utils/podutil"
)

const (
	// maxIndexes bounds how many indexes of a batch are looked at: more than any batch has that can be delivered.
	maxIndexes = 1 << 15

	// gridIndexes is how many indexes the grid of one page has, and chunkIndexes how many of them are replaced together.
	gridIndexes  = 1000
	chunkIndexes = 50

	// maxTaskRows is how many tasks one page lists.
	maxTaskRows = 100
)

// indexView is one sandbox of a batch, with its task.
type indexView struct {
	Index int
	State state
	// ExitCode is the task's, empty where it has none or it isn't known.
	ExitCode string
	// Reason, Message and Output are a failure's.
	Reason, Message, Output string
	// Tries is how often the task was begun, 0 for a batch without tasks or a task that was not begun.
	Tries int
	// Pod and IP are empty where the sandbox has none.
	Pod, IP string
	// PodNote says what the pod's status tells beside that, such as the reason why it isn't Ready.
	PodNote string
}

// The states of an index that a batch as a whole doesn't have.
var indexStates = map[string]string{ // the look of each
	"Waiting": "warn", "Starting": "busy", "Ready": "good", "Running": "busy", "Succeeded": "good", "Failed": "bad",
}

// indexesOf returns what is known of each index of a batch. pods are those that carry its labels; those of a pool get them some time
// after delivery, and the user may be denied them.
//
//	| its task        | pod                          | state     |
//	| succeeded       | -                            | Succeeded |
//	| failed for good | -                            | Failed    |
//	| else            | none                         | Waiting   |
//	|                 | has no IP, or isn't Ready    | Starting  |
//	| begun           | Ready, or not seen           | Running   |
//	| no task         | Ready, or not seen           | Ready     |
func indexesOf(b *v1alpha1.BatchSandbox, pods []*corev1.Pod) []indexView {
	views := make([]indexView, min(cluster.Replicas(b), maxIndexes))
	for i := range views {
		views[i] = indexView{Index: i}
	}
	at := func(index int) *indexView {
		if index < 0 || index >= len(views) {
			return &indexView{} // of a batch that was larger
		}
		return &views[index]
	}
	placePods(b, pods, at)
	observed := podsByIndex(pods)
	for i := range views {
		views[i].setState(b, observed[i])
	}
	setEnds(b, at)
	return views
}

// placePods notes pods and addresses. A malformed annotation is told by the batch's conditions.
func placePods(b *v1alpha1.BatchSandbox, pods []*corev1.Pod, at func(int) *indexView) {
	names, err := cluster.AllocatedPods(b)
	if err == nil {
		for i, name := range names {
			at(i).Pod = name
		}
	}
	var addresses []string
	if json.Unmarshal([]byte(b.Annotations[v1alpha1.EndpointsAnnotation]), &addresses) == nil {
		for i, address := range addresses {
			at(i).IP = address
		}
	}
	for i, pod := range podsByIndex(pods) {
		if v := at(i); v.Pod == "" && b.Spec.PoolRef == "" {
			v.Pod = pod.Name
		}
	}
}

// podsByIndex are pods by the index in their label. Of two, one being deleted gives way.
func podsByIndex(pods []*corev1.Pod) map[int]*corev1.Pod {
	byIndex := make(map[int]*corev1.Pod, len(pods))
	for _, pod := range pods {
		i, err := strconv.Atoi(pod.Labels[v1alpha1.PodIndexLabel])
		if err != nil {
			continue
		}
		if other := byIndex[i]; other == nil || other.DeletionTimestamp != nil {
			byIndex[i] = pod
		}
	}
	return byIndex
}

// setState sets the state of an index whose task has not ended.
func (v *indexView) setState(b *v1alpha1.BatchSandbox, pod *corev1.Pod) {
	word := "Ready"
	if b.Spec.TaskTemplate != nil {
		word = "Running"
		v.Tries = 1
	}
	if pod != nil && pod.Name == v.Pod && !podutil.IsReady(pod) {
		word, v.PodNote = "Starting", podNote(pod)
	}
	if v.IP == "" && v.Pod != "" {
		word = "Starting"
	}
	if v.Pod == "" && v.IP == "" {
		word = "Waiting"
	}
	if word == "Waiting" || word == "Starting" {
		v.Tries = 0
	}
	v.State = state{word, indexStates[word]}
}

// podNote says why a pod isn't Ready.
func podNote(pod *corev1.Pod) string {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil && w.Reason != "" {
			return joinParts(": ", s.Name, w.Reason, w.Message)
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return joinParts(": ", c.Reason, c.Message)
		}
	}
	return joinParts(": ", string(pod.Status.Phase), pod.Status.Reason)
}

// setEnds notes how tasks ended, and what tries they have behind them.
func setEnds(b *v1alpha1.BatchSandbox, at func(int) *indexView) {
	s := &b.Status
	for _, t := range s.TaskTries {
		if v := at(int(t.Index)); v.State.Word == "Running" {
			v.Tries += int(t.Failed) + int(t.Lost) + int(t.Withdrawn)
		}
	}
	end := func(indexes, word string, set func(*indexView)) {
		list, err := indexset.Parse(indexes)
		if err != nil {
			return // not written by the controller
		}
		for _, i := range list {
			v := at(i)
			v.State = state{word, indexStates[word]}
			v.Tries = max(v.Tries, 1)
			set(v)
		}
	}
	end(s.CompletedIndexes, "Succeeded", func(v *indexView) { v.ExitCode = "0" })
	end(s.FailedIndexes, "Failed", func(*indexView) {})
	for _, r := range s.FailedReasons {
		end(r.Indexes, "Failed", func(v *indexView) { v.Reason = r.Reason })
	}
	for _, t := range s.FailedTasks {
		v := at(int(t.Index))
		v.Reason, v.Message, v.Output, v.Tries = t.Reason, t.Message, t.Output, int(t.Tries)
		switch {
		case t.Signal != 0:
			v.ExitCode = fmt.Sprintf("signal %d", t.Signal)
		case t.ExitCode != nil:
			v.ExitCode = strconv.Itoa(int(*t.ExitCode))
		}
	}
}

// LastLine is the last line of the output that is known of a failure.
func (v indexView) LastLine() string {
	lines := strings.Split(strings.TrimRight(v.Output, "\n"), "\n")
	return lines[len(lines)-1]
}

// Text says in words what a cell of the grid says with its colour.
func (v indexView) Text() string {
	return joinParts(", ", strings.ToLower(v.State.Word), v.Reason)
}

// batchInput is what the page of a batch is made from.
type batchInput struct {
	key     types.NamespacedName
	batch   *v1alpha1.BatchSandbox // nil if there is none
	pods    []*corev1.Pod
	events  []eventRow
	from    int // the first index of the grid
	notices []notice
}

// batchFacts is what is told about a batch besides its row.
type batchFacts struct {
	batchRow
	Command       string
	PolicyRelease bool
	Restarts      int32
	MinAvailable  int32
	Priority      int32
}

// batchHead is what doesn't change on the page of a batch.
type batchHead struct {
	Key      types.NamespacedName
	HasTasks bool
}

// chunk is a piece of the grid.
type chunk struct {
	Key   types.NamespacedName
	Cells []indexView
}

// taskRow is an index in the list of tasks.
type taskRow struct {
	Key types.NamespacedName
	indexView
	HasTask bool
}

// batchPage is the page of one batch.
func batchPage(in batchInput) view {
	head := batchHead{Key: in.key, HasTasks: in.batch != nil && in.batch.Spec.TaskTemplate != nil}
	v := view{Title: "Batch " + in.key.Name, Skeleton: "batch", Head: head}
	v.notices(in.notices)
	if in.batch == nil {
		v.Missing = true
		v.notices([]notice{missingBatch(in.key)})
		return v
	}
	facts := newBatchFacts(in.batch)
	v.add("facts", "batch-facts", "batchfacts", facts)
	all := indexesOf(in.batch, in.pods)
	gridParts(&v, in, all)
	taskParts(&v, in, all)
	conditionParts(&v, in.batch.Status.Conditions)
	eventParts(&v, in.events)
	v.Spoken = map[string]string{"state": fmt.Sprintf("Batch %s: %s.", in.batch.Name, joinParts(", ", facts.State.Word, facts.Tasks))}
	return v
}

func missingBatch(key types.NamespacedName) notice {
	return notice{ID: "missing", Text: fmt.Sprintf("There is no batch %s (any more), or it can't be read.", poolTitle(key))}
}

func newBatchFacts(b *v1alpha1.BatchSandbox) batchFacts {
	facts := batchFacts{batchRow: newBatchRow(b), Restarts: b.Status.Restarts}
	if t := b.Spec.TaskTemplate; t != nil {
		facts.Command = strings.Join(slices.Concat(t.Spec.Process.Command, t.Spec.Process.Args), " ")
	}
	if p := b.Spec.TaskResourcePolicyWhenCompleted; p != nil {
		facts.PolicyRelease = *p == v1alpha1.TaskResourcePolicyRelease
	}
	if b.Spec.MinAvailable != nil {
		facts.MinAvailable = *b.Spec.MinAvailable
	}
	if b.Spec.Priority != nil {
		facts.Priority = *b.Spec.Priority
	}
	return facts
}

// gridParts adds the grid in chunks, so that one task that ends costs one of them.
func gridParts(v *view, in batchInput, all []indexView) {
	from := min(max(in.from, 0), max(0, len(all)-1)) / gridIndexes * gridIndexes
	shown := all[from:min(len(all), from+gridIndexes)]
	for cells := range slices.Chunk(shown, chunkIndexes) {
		bare := slices.Clone(cells)
		for i := range bare { // what the grid doesn't show changes no chunk
			bare[i] = indexView{Index: bare[i].Index, State: bare[i].State, Reason: bare[i].Reason}
		}
		v.add("grid", fmt.Sprintf("grid-%d", bare[0].Index), "gridchunk", chunk{Key: in.key, Cells: bare})
	}
	if len(all) > gridIndexes {
		v.add("gridpages", "grid-pages", "gridpages", newPager(in.key, from, len(all)))
	}
}

// pager leads to the other pieces of a large grid.
type pager struct {
	Key   types.NamespacedName
	Pages []pagerLink
}

type pagerLink struct {
	From, To int
	Current  bool
}

func newPager(key types.NamespacedName, from, all int) pager {
	p := pager{Key: key}
	for at := 0; at < all; at += gridIndexes {
		p.Pages = append(p.Pages, pagerLink{From: at, To: min(at+gridIndexes, all) - 1, Current: at == from})
	}
	return p
}

// taskParts lists the sandboxes of the grid with their tasks: failed ones first, for that is what somebody looks for, the others by
// index. A list that is cut says so.
func taskParts(v *view, in batchInput, all []indexView) {
	rows := slices.Clone(all)
	slices.SortStableFunc(rows, func(a, b indexView) int {
		return cmp.Compare(lookRank(a.State.Look), lookRank(b.State.Look))
	})
	if len(rows) > maxTaskRows {
		rows = rows[:maxTaskRows]
		v.add("taskshead", "tasks-cut", "shown", fmt.Sprintf("%d of %d are listed, failed ones first. The grid has all.", maxTaskRows, len(all)))
	}
	for _, row := range rows {
		row.Output, row.Message = row.LastLine(), ""
		v.add("tasks", fmt.Sprintf("task-%d", row.Index), "taskrow", taskRow{Key: in.key, indexView: row, HasTask: in.batch.Spec.TaskTemplate != nil})
	}
}

func lookRank(look string) int {
	if look == "bad" {
		return 0
	}
	return 1
}

// eventRow is an event as a page shows it.
type eventRow struct {
	UID, Type, Reason, Message string
	Count                      int32
	Last                       string
}

// maxEvents is how many events one page shows, the newest.
const maxEvents = 50

// eventRows are the newest events, newest first.
func eventRows(events []*corev1.Event) []eventRow {
	sorted := slices.SortedFunc(slices.Values(events), func(a, b *corev1.Event) int {
		return cmp.Or(cluster.LastSeen(b).Compare(cluster.LastSeen(a).Time), cmp.Compare(a.UID, b.UID))
	})
	var rows []eventRow
	for _, e := range sorted[:min(len(sorted), maxEvents)] {
		n := e.Count
		if e.Series != nil {
			n = e.Series.Count
		}
		rows = append(rows, eventRow{
			UID: string(e.UID), Type: e.Type, Reason: e.Reason, Message: e.Message, Count: max(1, n), Last: instant(cluster.LastSeen(e).Time),
		})
	}
	return rows
}

func eventParts(v *view, rows []eventRow) {
	for _, row := range rows {
		v.add("events", "event-"+row.UID, "eventrow", row)
	}
	if len(rows) == 0 {
		v.add("events", "events-none", "noevents", nil)
	}
}
