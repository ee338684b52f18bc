// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func batchWith(change func(*wrappers.BatchWrapper)) *v1alpha1.BatchSandbox {
	w := wrappers.MakeBatch("ns", "b").Pool("pool").Replicas(3).UID("uid").Created(start)
	change(w)
	return w.Obj()
}

func TestBatchState(t *testing.T) {
	now := metav1.Now()
	for name, c := range map[string]struct {
		change func(*wrappers.BatchWrapper)
		want   string
	}{
		"being deleted, whatever else":           {func(b *wrappers.BatchWrapper) { b.DeletionTimestamp = &now; b.Status.Phase = v1alpha1.PhaseFailed }, "Deleting"},
		"all tasks ended, one in failure":        {func(b *wrappers.BatchWrapper) { b.Task("x"); b.Status.TaskFailed = 1; done(b) }, "Failed"},
		"all tasks succeeded":                    {func(b *wrappers.BatchWrapper) { b.Task("x"); b.Status.TaskSucceed = 3; done(b) }, "Succeeded"},
		"released after success: no pods needed": {func(b *wrappers.BatchWrapper) { b.Task("x").Releases(); b.Status.TaskSucceed = 3; done(b) }, "Succeeded"},
		"can't get what it asks for":             {func(b *wrappers.BatchWrapper) { b.Status.Phase = v1alpha1.PhaseFailed }, "Failed"},
		"without all of its pods":                {func(b *wrappers.BatchWrapper) { b.Status.Replicas = 2; b.Status.Ready = 2 }, "Waiting"},
		"new, without a status":                  {func(*wrappers.BatchWrapper) {}, "Waiting"},
		"its pods start":                         {func(b *wrappers.BatchWrapper) { b.Status.Replicas = 3; b.Status.Ready = 1 }, "Starting"},
		"its tasks run":                          {func(b *wrappers.BatchWrapper) { b.Task("x"); b.Status.Replicas = 3; b.Status.Ready = 3 }, "Running"},
		"some of its tasks ended and gave back": {func(b *wrappers.BatchWrapper) {
			b.Task("x").Releases()
			b.Status.TaskSucceed, b.Status.Replicas, b.Status.Ready = 2, 1, 1
		}, "Running"},
		"all it asked for": {func(b *wrappers.BatchWrapper) { b.Status.Replicas = 3; b.Status.Ready = 3 }, "Ready"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := batchState(batchWith(c.change)).Word; got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func done(b *wrappers.BatchWrapper) {
	b.Condition(v1alpha1.ConditionTasksCompleted, metav1.ConditionTrue, v1alpha1.ReasonTasksFailed, start)
}

func TestBatchNote(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*wrappers.BatchWrapper)
		want   string
	}{
		"in a queue: its place": {
			func(b *wrappers.BatchWrapper) { b.Status.Queue = &v1alpha1.QueueStatus{Position: 2, Waiting: 9} },
			"Number 2 in the queue of the pool, where 9 sandboxes are waited for",
		},
		"not allocated: the condition": {
			func(b *wrappers.BatchWrapper) {
				b.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAllocated, Status: "False", Reason: "PoolNotFound", Message: "there is no pool"}}
			}, "PoolNotFound: there is no pool",
		},
		"failed tasks: which, and why": {
			func(b *wrappers.BatchWrapper) {
				b.Task("x")
				b.Status.TaskFailed = 3
				b.Status.FailedReasons = []v1alpha1.FailedReason{{Reason: "NonZeroExit", Indexes: "0-1"}, {Reason: "TimedOut", Indexes: "7"}}
				done(b)
			}, "NonZeroExit at index 0-1; TimedOut at index 7",
		},
		"pods that were given back after the end are no trouble": {
			func(b *wrappers.BatchWrapper) {
				done(b)
				b.Condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonPodsNotReady, start)
			}, "",
		},
		"all is well": {func(*wrappers.BatchWrapper) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := batchNote(batchWith(c.change)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestIndexesOf(t *testing.T) {
	ready := func(index string, is corev1.ConditionStatus) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "pod-" + index, Labels: map[string]string{v1alpha1.PodIndexLabel: index}},
			Status: corev1.PodStatus{
				Phase:             corev1.PodPending,
				Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: is}},
				ContainerStatuses: []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}},
			},
		}
	}
	for name, c := range map[string]struct {
		change func(*wrappers.BatchWrapper)
		pods   []*corev1.Pod
		want   []string
	}{
		"without pods: all wait": {change: func(*wrappers.BatchWrapper) {}, want: []string{"Waiting", "Waiting", "Waiting"}},
		"one of three was delivered": {
			change: func(b *wrappers.BatchWrapper) {
				b.AllocStatus(`{"pods":["","pod-1",""]}`).Annotation(v1alpha1.EndpointsAnnotation, `["","10.0.0.1",""]`)
			},
			want: []string{"Waiting", "Ready pod-1 10.0.0.1", "Waiting"},
		},
		"a held pod that is not Ready any more": {
			change: func(b *wrappers.BatchWrapper) {
				b.AllocStatus(`{"pods":["pod-0"]}`).Annotation(v1alpha1.EndpointsAnnotation, `["10.0.0.1"]`)
			},
			pods: []*corev1.Pod{ready("0", corev1.ConditionFalse)},
			want: []string{"Starting pod-0 10.0.0.1 (c: ImagePullBackOff)", "Waiting", "Waiting"},
		},
		"own pods are known by their labels": {
			change: func(b *wrappers.BatchWrapper) {
				b.Pool("").Task("x").Annotation(v1alpha1.EndpointsAnnotation, `["10.0.0.1",""]`)
			},
			pods: []*corev1.Pod{ready("0", corev1.ConditionTrue), ready("1", corev1.ConditionFalse)},
			want: []string{"Running pod-0 10.0.0.1 try 1", "Starting pod-1 (c: ImagePullBackOff)", "Waiting"},
		},
		"ends and tries of tasks": {
			change: func(b *wrappers.BatchWrapper) {
				b.Task("x").AllocStatus(`{"pods":["a","b","c"]}`).Annotation(v1alpha1.EndpointsAnnotation, `["1","2","3"]`)
				code := int32(3)
				b.Status.CompletedIndexes, b.Status.FailedIndexes = "0", "1"
				b.Status.FailedTasks = []v1alpha1.FailedTask{{Index: 1, Reason: "NonZeroExit", ExitCode: &code, Tries: 2, Output: "one\nlast\n"}}
				b.Status.TaskTries = []v1alpha1.TaskTries{{Index: 2, Failed: 1, Lost: 1}}
			},
			want: []string{"Succeeded a 1 exit 0 try 1", "Failed b 2 exit 3 NonZeroExit try 2 last", "Running c 3 try 3"},
		},
		"a failure that is not told in detail has its reason": {
			change: func(b *wrappers.BatchWrapper) {
				b.Task("x")
				b.Status.FailedIndexes = "1-2"
				b.Status.FailedReasons = []v1alpha1.FailedReason{{Reason: "TimedOut", Indexes: "2"}}
			},
			want: []string{"Waiting", "Failed try 1", "Failed TimedOut try 1"},
		},
		"a signal": {
			change: func(b *wrappers.BatchWrapper) {
				b.Task("x").Replicas(1)
				b.Status.FailedIndexes = "0"
				b.Status.FailedTasks = []v1alpha1.FailedTask{{Index: 0, Reason: "NonZeroExit", Signal: 9, Tries: 1}}
			},
			want: []string{"Failed exit signal 9 NonZeroExit try 1"},
		},
		"what somebody wrote into the annotations breaks nothing": {
			change: func(b *wrappers.BatchWrapper) {
				b.AllocStatus(`{"pods":["a","b","c","d","e"]}`).Annotation(v1alpha1.EndpointsAnnotation, `{`)
				b.Status.CompletedIndexes, b.Status.FailedIndexes = "5-9", "x"
			},
			pods: []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.PodIndexLabel: "-7"}}}},
			want: []string{"Starting a", "Starting b", "Starting c"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, v := range indexesOf(batchWith(c.change), c.pods) {
				got = append(got, describeIndex(v))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func describeIndex(v indexView) string {
	exit, try, note := "", "", ""
	if v.ExitCode != "" {
		exit = "exit " + v.ExitCode
	}
	if v.Tries > 0 {
		try = fmt.Sprint("try ", v.Tries)
	}
	if v.PodNote != "" {
		note = "(" + v.PodNote + ")"
	}
	return joinParts(" ", v.State.Word, v.Pod, v.IP, exit, v.Reason, try, v.LastLine(), note)
}

func TestFilter(t *testing.T) {
	row := batchRow{Namespace: "team-a", Name: "Nightly", Pool: "gpu", State: state{Word: "Failed"}}
	for name, c := range map[string]struct {
		filter filter
		want   bool
	}{
		"nothing is asked":                {filter{}, true},
		"a part of the name, in any case": {filter{Text: "nIGHT"}, true},
		"namespace and name":              {filter{Text: " team-a/night "}, true},
		"the pool":                        {filter{Text: "gp"}, true},
		"another name":                    {filter{Text: "daily"}, false},
		"its state":                       {filter{State: "Failed"}, true},
		"another state":                   {filter{Text: "nightly", State: "Ready"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.filter.matches(row); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func ids(v view, in string) string {
	var list []string
	for _, p := range v.Parts {
		if p.In == in {
			list = append(list, p.ID)
		}
	}
	return strings.Join(list, " ")
}

func TestTheOverviewListsBatchesNewestFirstAndCountsAllOfThem(t *testing.T) {
	var batches []*v1alpha1.BatchSandbox
	for i, name := range []string{"old", "new", "middle"} {
		batches = append(batches, wrappers.MakeBatch("ns", name).UID(types.UID(name)).Pool("p").Created(start.Add(time.Duration([]int{0, 2, 1}[i])*time.Hour)).Obj())
	}
	batches[0].Status.Phase = v1alpha1.PhaseFailed
	in := overviewInput{batches: batches, chart: func(*v1alpha1.Pool) chartView { return chartView{Empty: true} }}
	if got, want := ids(overviewPage(in), "batches"), "batch-new batch-middle batch-old"; got != want {
		t.Errorf("listed are %s, want %s", got, want)
	}
	in.filter = filter{State: "Failed"}
	v := overviewPage(in)
	if got := ids(v, "batches"); got != "batch-old" {
		t.Errorf("with a filter listed are %s", got)
	}
	sum, shown := find1(v, "total").(totals), find1(v, "shown-count")
	if sum.Batches != 3 || !slices.Equal(sum.States, []stateCount{{batchStates[0], 2}, {batchStates[5], 1}}) || shown != "1 of 3 batches" {
		t.Errorf("the sums are %+v, shown %v", sum, shown)
	}
	if v.Spoken["batch old"] == "" || v.Spoken["batch new"] != "" {
		t.Errorf("read out is %v, want the end alone", v.Spoken)
	}
}

func find1(v view, id string) any {
	for _, p := range v.Parts {
		if p.ID == id {
			return p.Data
		}
	}
	return nil
}

func TestPoolState(t *testing.T) {
	now := metav1.Now()
	is := func(kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: "why"}
	}
	ready := is(v1alpha1.ConditionReady, "True", v1alpha1.ReasonBufferReady)
	low := is(v1alpha1.ConditionReady, "False", v1alpha1.ReasonBufferLow)
	for name, c := range map[string]struct {
		deleted    *metav1.Time
		conditions []metav1.Condition
		want       string
		troubles   []string
	}{
		"no status yet":            {want: "New"},
		"ready":                    {conditions: []metav1.Condition{ready}, want: "Ready"},
		"fewer idle than wanted":   {conditions: []metav1.Condition{low}, want: "Filling"},
		"a bound is reached":       {conditions: []metav1.Condition{low, is(v1alpha1.ConditionScalingLimited, "True", "PoolMaxReached")}, want: "Limited", troubles: []string{"PoolMaxReached: why"}},
		"a template that is wrong": {conditions: []metav1.Condition{is(v1alpha1.ConditionReady, "False", "InvalidTemplate")}, want: "Failing", troubles: []string{"InvalidTemplate: why"}},
		"pods that can't start":    {conditions: []metav1.Condition{low, is(v1alpha1.ConditionPodsFailing, "True", "ErrImagePull")}, want: "Failing", troubles: []string{"ErrImagePull: why"}},
		"being deleted":            {deleted: &now, conditions: []metav1.Condition{ready}, want: "Deleting"},
	} {
		t.Run(name, func(t *testing.T) {
			pool := wrappers.MakePool("ns", "p").Obj()
			pool.DeletionTimestamp, pool.Status.Conditions = c.deleted, c.conditions
			if got := poolState(pool).Word; got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if diff := cmp.Diff(c.troubles, poolTroubles(pool)); diff != "" {
				t.Errorf("troubles (-want +got):\n%s", diff)
			}
		})
	}
}

func TestALargeBatchIsShownInPiecesAndFailuresFirst(t *testing.T) {
	b := batchWith(func(b *wrappers.BatchWrapper) {
		b.Replicas(2345).Task("x")
		b.Status.FailedIndexes = "2000,2100"
	})
	in := batchInput{key: keyOf(b), batch: b, from: 1999}
	v := batchPage(in)
	if got := len(strings.Fields(ids(v, "grid"))); got != gridIndexes/chunkIndexes {
		t.Errorf("the grid has %d pieces", got)
	}
	if first := strings.Fields(ids(v, "grid"))[0]; first != "grid-1000" {
		t.Errorf("the grid begins with %s, want the thousand that has 1999", first)
	}
	if rows := strings.Fields(ids(v, "tasks")); len(rows) != maxTaskRows || rows[0] != "task-2000" || rows[1] != "task-2100" || rows[2] != "task-0" {
		t.Errorf("the tasks are %v", rows)
	}
	want := []pagerLink{{From: 0, To: 999}, {From: 1000, To: 1999, Current: true}, {From: 2000, To: 2344}}
	if diff := cmp.Diff(want, find1(v, "grid-pages").(pager).Pages); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	before := v.Parts
	b.Status.CompletedIndexes = "1500"
	after := changes(before, batchPage(in).Parts)
	if len(after) != 1 || after[0].ID != "grid-1500" {
		t.Errorf("one task that ends changes %v, want one piece of the grid", after)
	}
}

func TestEventsAreTheNewestFirstAndNotTooMany(t *testing.T) {
	var events []*corev1.Event
	for i := range maxEvents + 9 {
		events = append(events, &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(i))}, Count: int32(i), LastTimestamp: metav1.NewTime(start.Add(time.Duration(i) * time.Second)),
		})
	}
	rows := eventRows(events)
	if len(rows) != maxEvents || rows[0].UID != "58" || rows[0].Last != "2026-01-02T03:05:03Z" || rows[0].Count != 58 {
		t.Errorf("%d events, the first is %+v", len(rows), rows[0])
	}
}
