// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestABatchMadeAnewInAnEmptyPoolStaysKnown(t *testing.T) {
	l := NewLedger(&recorder{})
	old := demand("b", 0, 0)
	old.UID = "old"
	l.Assume(old)
	l.Assume(demand("b", 0, 0)) // the pool has no pods, and no other batch refers to it
	l.ObservePod(poolP, readyPod("p-0"))
	if diff := cmp.Diff([]string{"0:p-0"}, granted(l.Assume(demand("b", 0, 0)))); diff != "" {
		t.Errorf("grants (-want +got):\n%s", diff)
	}
	l.Confirm(key("b"))
	l.ObservePod(poolP, readyPod("p-0"))
	if diff := cmp.Diff(Counts{Held: 1}, l.Counts(poolP)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if got := granted(l.Assume(demand("c", 1, 0))); len(got) != 0 {
		t.Errorf("pods given twice: %v", got)
	}
}

func TestAReleaseOfNothingWakesNobody(t *testing.T) {
	l, rec := newPool(1)
	gang := demand("b", 0, 0, 1)
	gang.MinAvailable = 2
	l.Assume(gang)
	*rec = recorder{}
	l.Release(key("b"), nil)
	if len(rec.batches)+len(rec.pools) > 0 {
		t.Errorf("woke %v and %v: the head of the queue would wake itself for ever", rec.batches, rec.pools)
	}
}

func TestOnlyAPodThatNobodyHasSeenIsTakenBack(t *testing.T) {
	l, _ := newPool(1)
	l.ExpectPod(poolP, "p-1", "r1")
	l.Unexpect(poolP, "p-0")
	l.Unexpect(poolP, "p-1")
	l.Unexpect(poolP, "p-2")
	if diff := cmp.Diff(Counts{Idle: 1, Updated: 1}, l.Counts(poolP)); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}
