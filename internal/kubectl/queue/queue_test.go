// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"bytes"
	"cmp"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/test/wrappers"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const ns = "default"

func batch(name string, age time.Duration) *wrappers.BatchWrapper {
	return wrappers.MakeBatch(ns, name).Pool("small").Created(now.Add(-age))
}

func at(sb *wrappers.BatchWrapper, position int32) *wrappers.BatchWrapper {
	sb.Status.Queue = &v1alpha1.QueueStatus{Position: position, Waiting: 9}
	return sb.Condition(v1alpha1.ConditionAllocated, metav1.ConditionFalse, v1alpha1.ReasonWaitingForPool, now.Add(-time.Minute))
}

func TestEntries(t *testing.T) {
	cases := map[string]struct {
		batches []*wrappers.BatchWrapper
		want    []Entry
	}{
		"a batch that has all it wants does not wait": {
			batches: []*wrappers.BatchWrapper{batch("a", time.Minute).Replicas(2).AllocStatus(`{"pods":["p","q"]}`)},
		},
		"a batch without a pool does not wait": {
			batches: []*wrappers.BatchWrapper{wrappers.MakeBatch(ns, "a").Container("sandbox")},
		},
		"one that gave a sandbox back for good wants only the other": {
			batches: []*wrappers.BatchWrapper{func() *wrappers.BatchWrapper {
				sb := at(batch("a", time.Minute).Replicas(3).Task("x").Releases().AllocStatus(`{"pods":["","q",""]}`), 1)
				sb.Status.CompletedIndexes = "0"
				return sb
			}()},
			want: []Entry{{Batch: "a", Position: 1, Wants: 1, Held: 1}},
		},
		"higher priority comes first, then the older, and the told position is told": {
			batches: []*wrappers.BatchWrapper{at(batch("young", time.Minute), 3), at(batch("old", time.Hour), 2), at(batch("urgent", time.Second).Priority(5), 1)},
			want:    []Entry{{Batch: "urgent", Position: 1, Priority: 5, Wants: 1}, {Batch: "old", Position: 2, Wants: 1}, {Batch: "young", Position: 3, Wants: 1}},
		},
		"one that has no status yet has the place that the order gives": {
			batches: []*wrappers.BatchWrapper{at(batch("old", time.Hour), 1), batch("new", time.Second)},
			want:    []Entry{{Batch: "old", Position: 1, Wants: 1}, {Batch: "new", Position: 2, Wants: 1}},
		},
		"one that is set aside comes last and has no position": {
			batches: []*wrappers.BatchWrapper{
				batch("big", time.Hour).Priority(9).Replicas(50).Condition(v1alpha1.ConditionAllocated, metav1.ConditionFalse, v1alpha1.ReasonExceedsPoolMax, now),
				at(batch("small", time.Minute), 1),
			},
			want: []Entry{{Batch: "small", Position: 1, Wants: 1}, {Batch: "big", Priority: 9, Wants: 50}},
		},
		"a gang that is not together yet is one": {
			batches: []*wrappers.BatchWrapper{at(batch("gang", time.Minute).Replicas(4).MinAvailable(3), 1)},
			want:    []Entry{{Batch: "gang", Position: 1, Wants: 4, Gang: 3}},
		},
		"a gang that has its least number waits one by one": {
			batches: []*wrappers.BatchWrapper{at(batch("gang", time.Minute).Replicas(4).MinAvailable(2).AllocStatus(`{"pods":["p","q"]}`), 1)},
			want:    []Entry{{Batch: "gang", Position: 1, Wants: 2, Held: 2}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var batches []v1alpha1.BatchSandbox
			for _, sb := range c.batches {
				batches = append(batches, *sb.Obj())
			}
			got := Entries(batches, "")
			for i := range got { // what the cases are not about
				if got[i].Namespace != ns || got[i].Pool != "small" {
					t.Errorf("entry %+v is of another pool", got[i])
				}
				got[i].Namespace, got[i].Pool, got[i].Since, got[i].Reason, got[i].Message = "", "", metav1.Time{}, "", ""
			}
			if diff := gocmp.Diff(append([]Entry{}, c.want...), got); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

// deaf is who the ledger wakes.
type deaf struct{}

func (deaf) WakeBatch(types.NamespacedName) {}
func (deaf) WakePool(types.NamespacedName)  {}

// The order is the controller's own: the ledger gives each batch the place that it has in the list.
func TestTheOrderIsTheLedgers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "batches")
		l := scheduler.NewLedger(deaf{})
		var batches []v1alpha1.BatchSandbox
		for i := range n {
			sb := batch(string(rune('a'+i)), time.Duration(rapid.IntRange(0, 3).Draw(t, "age"))*time.Minute).
				Priority(int32(rapid.IntRange(-1, 1).Draw(t, "priority"))).Obj() //nolint:gosec // -1 to 1
			batches = append(batches, *sb)
		}
		for _, i := range rapid.Permutation(indexes(n)).Draw(t, "order") {
			l.Assume(demand(&batches[i]))
		}
		for i, e := range Entries(batches, "small") {
			for j := range batches {
				if batches[j].Name != e.Batch {
					continue
				}
				l.TellPlaces(n)
				if got := l.Assume(demand(&batches[j])); got.Position != i+1 {
					t.Fatalf("%s is at %d in the list, and at %d in the ledger", e.Batch, i+1, got.Position)
				}
			}
		}
	})
}

func indexes(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func demand(sb *v1alpha1.BatchSandbox) scheduler.Demand {
	return scheduler.Demand{
		Batch: types.NamespacedName{Namespace: sb.Namespace, Name: sb.Name}, UID: sb.UID, Pool: sb.Spec.PoolRef,
		Missing: []int{0}, Priority: *sb.Spec.Priority, Created: sb.CreationTimestamp.Time,
	}
}

func TestWhy(t *testing.T) {
	condition := func(kind, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: reason}
	}
	waits := Entry{Position: 2, Reason: v1alpha1.ReasonWaitingForPool}
	cases := map[string]struct {
		entry    Entry
		starting int32
		says     []metav1.Condition
		want     string
	}{
		"out of the queue for its own reason":  {Entry{Reason: v1alpha1.ReasonExceedsPoolMax}, 2, nil, v1alpha1.ReasonExceedsPoolMax},
		"just created":                         {Entry{Position: 1}, 0, nil, "JustCreated"},
		"pods that don't start come first":     {waits, 2, []metav1.Condition{condition(v1alpha1.ConditionPodsFailing, "ErrImagePull"), condition(v1alpha1.ConditionScalingLimited, v1alpha1.ReasonPoolMaxReached)}, "pods don't start: ErrImagePull"},
		"a full pool comes next":               {waits, 2, []metav1.Condition{condition(v1alpha1.ConditionScalingLimited, v1alpha1.ReasonPoolMaxReached)}, "poolMax 3 reached"},
		"a gang counts what is there":          {Entry{Position: 1, Gang: 3}, 2, nil, "gang of 3, 1 available"},
		"pods that start are on their way":     {waits, 2, nil, "2 pods starting"},
		"else it is the reason of the batch's": {waits, 0, nil, v1alpha1.ReasonWaitingForPool},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			pool := wrappers.MakePool(ns, "small").Size(0, 3).Obj()
			pool.Status.Starting, pool.Status.Available, pool.Status.Conditions = c.starting, 1, c.says
			if got := Why(c.entry, pool); got != c.want {
				t.Errorf("Why = %q, want %q", got, c.want)
			}
			if got := Why(c.entry, nil); got != cmp.Or(c.entry.Reason, "JustCreated") {
				t.Errorf("Why without a pool = %q", got)
			}
		})
	}
}

func TestTheTableHasALineForEachBatchThatWaits(t *testing.T) {
	scheme, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	pool := wrappers.MakePool(ns, "small").Size(0, 3).Obj()
	pool.Status.Starting = 1
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(at(batch("web", time.Hour).Replicas(4), 1).Obj(), pool).Build()
	v := &view{namespace: ns, pool: "small", now: now, output: cluster.NewOutput()}
	if err := v.read(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	var out, complaint bytes.Buffer
	streams := genericiooptions.IOStreams{Out: &out, ErrOut: &complaint}
	if err := v.print(streams); err != nil {
		t.Fatal(err)
	}
	want := "POOL POSITION BATCH PRIORITY WANTS HELD GANG WAITING WHY\nsmall 1 web 0 4 0 - 60s 1 pod starting"
	if got := squeeze(out.String()); got != want {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
	if err := (&view{namespace: ns, pool: "other"}).read(t.Context(), c); err == nil {
		t.Error("a pool that is not there and that nobody waits for is no error")
	}
	v.entries = nil
	if err := v.print(streams); err != nil || complaint.String() != "Nobody waits for Pool small in default namespace.\n" {
		t.Errorf("an empty queue says %q (%v)", complaint.String(), err)
	}
}

// squeeze makes the columns as narrow as they can be.
func squeeze(table string) string {
	var lines []string
	for line := range strings.Lines(table) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}
