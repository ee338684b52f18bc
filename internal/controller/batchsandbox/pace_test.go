// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// burst is a large batch whose reconciles run as its controller runs them: one at a time, when it is woken, and when a
// reconcile asked to be.
type burst struct {
	*large
	looks int
	told  map[int]time.Time // when the status had the end of an index, with how many ends
	sent  []time.Time       // when each task ended, by index
}

// inBurst runs a test on a batch of n running tasks, in a bubble whose time moves only where nothing can go on.
func inBurst(t *testing.T, n int, f func(b *burst)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &burst{large: makeLarge(t, clock.RealClock{}, n, func(*v1alpha1.BatchSandbox) {}), sent: make([]time.Time, n)}
		wakes := make(chan struct{}, 1)
		b.r.runner.wake = func(types.NamespacedName) {
			select {
			case wakes <- struct{}{}:
			default: // the queue has it already
			}
		}
		time.Sleep(time.Minute)
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.run(wakes, stop)
		}()
		f(b)
		close(stop)
		<-done
	})
}

func (b *burst) run(wakes <-chan struct{}, stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	b.told = map[int]time.Time{}
	for {
		select {
		case <-wakes:
		case <-timer.C:
		case <-stop:
			return
		}
		again := b.reconcile().RequeueAfter
		b.looks++
		for ended := len(b.told); ended < int(b.sb.Status.TaskSucceed); ended++ {
			b.told[ended] = time.Now()
		}
		timer.Stop()
		if again > 0 {
			timer.Reset(again)
		}
	}
}

// succeed ends a task, and lets what follows at once come to rest.
func (b *burst) succeed(index int) {
	b.sent[index] = time.Now()
	b.end(index, taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted})
	synctest.Wait()
}

func (b *burst) wantWrites(t *testing.T, least, most int) {
	t.Helper()
	if b.statuses < least || b.statuses > most {
		t.Errorf("%d writes of the status, want %d to %d", b.statuses, least, most)
	}
	if b.others != 0 {
		t.Errorf("%d other writes", b.others)
	}
}

func TestOneEndIsToldAtOnce(t *testing.T) {
	inBurst(t, 100, func(b *burst) {
		b.succeed(3)
		b.wantWrites(t, 1, 1)
		if got := b.sb.Status.CompletedIndexes; got != "3" {
			t.Errorf("completed %q", got)
		}
		time.Sleep(time.Minute)
		b.wantWrites(t, 1, 1)
	})
}

func TestAThousandEndsInASecondCostAHandfulOfWrites(t *testing.T) {
	const n = 1000
	inBurst(t, n, func(b *burst) {
		start := time.Now()
		for i := range n {
			b.succeed(i)
			if i < n-1 {
				time.Sleep(time.Second / n)
			}
		}
		b.wantWrites(t, 8, 10) // the first, one every 125 ms, and the last
		if b.looks > 12 {
			t.Errorf("%d reconciles for %d ends", b.looks, n)
		}
		if took := time.Since(start); b.sb.Status.TaskSucceed != n || took > time.Second {
			t.Errorf("%d ends are told after %s", b.sb.Status.TaskSucceed, took)
		}
		if c := condition(b.sb, v1alpha1.ConditionTasksCompleted); c.Status != "True" || b.sb.Status.CompletedIndexes != "0-999" {
			t.Errorf("condition %+v, completed %s: the last end is told at once", c, b.sb.Status.CompletedIndexes)
		}
		writes := b.statuses
		time.Sleep(time.Minute)
		if b.statuses != writes {
			t.Errorf("%d writes at rest", b.statuses-writes)
		}
	})
}

// At 500 ends a second an end is in the status within statusPace, whatever part of the batch still runs.
func TestNoEndWaitsLongerThanThePace(t *testing.T) {
	const n, ends = 2000, 1500
	inBurst(t, n, func(b *burst) {
		for i := range ends {
			b.succeed(i)
			time.Sleep(2 * time.Millisecond)
		}
		time.Sleep(statusPace)
		synctest.Wait()
		if len(b.told) != ends {
			t.Fatalf("%d ends are told, want %d", len(b.told), ends)
		}
		waits := make([]time.Duration, ends)
		for i := range waits {
			waits[i] = b.told[i].Sub(b.sent[i])
		}
		slices.Sort(waits)
		if most := waits[ends-1]; most > statusPace {
			t.Errorf("an end waited %s, want at most %s", most, statusPace)
		}
		const seconds = ends * 2 / 1000
		b.wantWrites(t, seconds*8-1, seconds*8+2)
	})
}

// The ends of a batch that runs in small parts, one sandbox after the other, are told as they come.
func TestTheLastEndThatIsToComeIsToldAtOnce(t *testing.T) {
	inBurst(t, 2, func(b *burst) {
		b.succeed(0)
		time.Sleep(time.Millisecond)
		b.succeed(1)
		b.wantWrites(t, 2, 2)
		if c := condition(b.sb, v1alpha1.ConditionTasksCompleted); c.Status != "True" {
			t.Errorf("condition %+v a millisecond after the first end", c)
		}
	})
}

// An end that is in the status is looked at once more only where something follows from it.
func TestWhatFollowsFromAnEndIsDoneAtOnce(t *testing.T) {
	release, ttl := v1alpha1.TaskResourcePolicyRelease, int32(60)
	cases := map[string]struct {
		change func(*v1alpha1.BatchSandbox)
		ends   []int // of two tasks
		want   time.Duration
	}{
		"nothing follows":                           {func(*v1alpha1.BatchSandbox) {}, indexesBelow(2), 0},
		"a sandbox is to be given back":             {func(sb *v1alpha1.BatchSandbox) { sb.Spec.TaskResourcePolicyWhenCompleted = &release }, indexesBelow(1), time.Millisecond},
		"the time to live begins with the last end": {func(sb *v1alpha1.BatchSandbox) { sb.Spec.TTLSecondsAfterFinished = &ttl }, indexesBelow(2), time.Millisecond},
		"and not before it":                         {func(sb *v1alpha1.BatchSandbox) { sb.Spec.TTLSecondsAfterFinished = &ttl }, indexesBelow(1), 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			clk := clocktesting.NewFakeClock(noon)
			l := makeLarge(t, clk, 2, c.change)
			clk.Step(time.Minute)
			for _, index := range c.ends {
				l.end(index, taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted})
			}
			if got := l.reconcile().RequeueAfter; got != c.want || l.statuses != 1 {
				t.Errorf("looks again after %s and %d writes, want %s and one", got, l.statuses, c.want)
			}
		})
	}
}
