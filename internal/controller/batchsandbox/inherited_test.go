// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

// startAgain is what a controller does that finds a world an older one left.
func (w *world) startAgain() {
	w.t.Helper()
	w.startController()
	if err := w.r.Rebuild(w.t.Context(), "epoch", nil); err != nil {
		w.t.Fatal(err)
	}
	w.news()
}

func TestABatchOfAnOlderControllerIsTakenOver(t *testing.T) {
	both := []string{v1alpha1.PoolAllocationFinalizer, v1alpha1.TaskCleanupFinalizer}
	cases := map[string]struct {
		batch     *wrappers.BatchWrapper
		release   string // "" for none
		released  string // "" for none
		wantAlloc string
		wantEnds  string // completed/failed
		wantPods  string
	}{
		"without finalizers it gets them, and keeps its pods": {
			batch:     pooledBatch(2).AllocStatus(`{"poolRef":"p","pods":["p-0","p-1"]}`),
			wantAlloc: `{"poolRef":"p","pods":["p-0","p-1"]}`, wantEnds: "/", wantPods: "p-0 p-1 p-2 p-3",
		},
		"a list that is too short is one by position": {
			batch:     pooledBatch(2).AllocStatus(`{"pods":["p-1"]}`).Finalizers(both...),
			wantAlloc: `{"pods":["p-1","p-0"]}`, wantEnds: "/", wantPods: "p-0 p-1 p-2 p-3",
		},
		"a pod that was given back is deleted and replaced": {
			batch:   pooledBatch(2).AllocStatus(`{"pods":["p-0","p-1"]}`).Finalizers(both...),
			release: `{"pods":["p-0"]}`, wantAlloc: `{"pods":["p-2","p-1"]}`, wantEnds: "/", wantPods: "p-1 p-2 p-3",
		},
		"a pod that the pool took back too is": {
			batch:   pooledBatch(2).AllocStatus(`{"pods":["p-0","p-1"]}`).Finalizers(both...),
			release: `{"pods":["p-0"]}`, released: `{"pods":["p-0"]}`,
			wantAlloc: `{"pods":["p-2","p-1"]}`, wantEnds: "/", wantPods: "p-1 p-2 p-3",
		},
		"a pod that was given back and is gone is replaced": {
			batch:   pooledBatch(2).AllocStatus(`{"pods":["p-9","p-1"]}`).Finalizers(both...),
			release: `{"pods":["p-9"]}`, wantAlloc: `{"pods":["p-0","p-1"]}`, wantEnds: "/", wantPods: "p-0 p-1 p-2 p-3",
		},
		"a sandbox given back with the end of its task is not filled again": {
			batch:   pooledBatch(2).Task("true").Releases().AllocStatus(`{"pods":["p-0","p-1"]}`).Finalizers(both...),
			release: `{"pods":["p-0"]}`, wantAlloc: `{"pods":["","p-1"]}`, wantEnds: "0/", wantPods: "p-1 p-2 p-3",
		},
		"as many of them failed as were counted": {
			batch: inheritedCounts(pooledBatch(3).Task("true").Releases(), 1, 1).
				AllocStatus(`{"pods":["p-0","p-1","p-2"]}`).Finalizers(both...),
			release: `{"pods":["p-0","p-1"]}`, wantAlloc: `{"pods":["","","p-2"]}`, wantEnds: "0/1", wantPods: "p-2 p-3",
		},
		"tasks that have all ended don't run again": {
			batch:     inheritedCounts(pooledBatch(2).Task("true"), 1, 1).AllocStatus(`{"pods":["p-0","p-1"]}`).Finalizers(both...),
			wantAlloc: `{"pods":["p-0","p-1"]}`, wantEnds: "0/1", wantPods: "p-0 p-1 p-2 p-3",
		},
		"a pod above replicas that was given back is let go": {
			batch:   pooledBatch(1).AllocStatus(`{"pods":["p-0","p-1"]}`).Finalizers(both...),
			release: `{"pods":["p-1"]}`, wantAlloc: `{"pods":["p-0"]}`, wantEnds: "/", wantPods: "p-0 p-2 p-3",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.addPool(v1alpha1.RecycleNoop, 4)
				if c.release != "" {
					c.batch.Annotation(v1alpha1.AllocReleaseAnnotation, c.release)
				}
				if c.released != "" {
					c.batch.Annotation(v1alpha1.AllocReleasedAnnotation, c.released)
				}
				w.create(c.batch.Obj())
				w.startAgain()
				w.settled()
				w.wantAnnotation(v1alpha1.AllocStatusAnnotation, c.wantAlloc)
				sb := w.batch()
				for _, key := range []string{v1alpha1.AllocReleaseAnnotation, v1alpha1.AllocReleasedAnnotation} {
					if value, ok := sb.Annotations[key]; ok {
						t.Errorf("annotation %s is still there: %s", key, value)
					}
				}
				if got := sb.Status.CompletedIndexes + "/" + sb.Status.FailedIndexes; got != c.wantEnds {
					t.Errorf("ended tasks %s, want %s", got, c.wantEnds)
				}
				if got := w.podNames(); got != c.wantPods {
					t.Errorf("pods %q, want %q", got, c.wantPods)
				}
				if !slices.Contains(sb.Finalizers, v1alpha1.PoolAllocationFinalizer) {
					t.Errorf("finalizers %v", sb.Finalizers)
				}
				w.takeWrites()
				w.settled()
				if writes := w.takeWrites(); len(writes) != 0 {
					t.Errorf("a batch at rest writes %v", writes)
				}
			})
		})
	}
}

// inheritedCounts gives a batch the status of an older controller.
func inheritedCounts(b *wrappers.BatchWrapper, succeed, failed int32) *wrappers.BatchWrapper {
	b.Status.TaskSucceed, b.Status.TaskFailed = succeed, failed
	return b
}

// What an older controller gave back is not served at any moment, and its pod is deleted before the batch lets it go.
func TestAPodThatAnOlderControllerGaveBackIsDeletedBeforeItIsLetGo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		w.create(pooledBatch(1).Task("true").Releases().AllocStatus(`{"pods":["p-0"]}`).
			Annotation(v1alpha1.AllocReleaseAnnotation, `{"pods":["p-0"]}`).Obj())
		w.startAgain()
		w.takeWrites()
		w.reconcile()
		want := []string{"patch status b", "delete p-0", "patch b", "patch status b"}
		if diff := cmp.Diff(want, w.takeWrites()); diff != "" {
			t.Errorf("writes (-want +got), want the end before the release:\n%s", diff)
		}
		if n := w.executor("10.0.0.10").setCount(); n != 0 {
			t.Error("ran a task in a sandbox that was given back")
		}
		if c := w.counts(); c.Idle != 0 || c.Held != 0 {
			t.Errorf("counts %+v, want the dirty pod neither idle nor held", c)
		}
	})
}

// The end of an inherited task is durable before its sandbox is let go: a controller that dies between both runs it not
// again.
func TestAnInheritedEndIsWrittenBeforeItsSandboxIsLetGo(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(1).Task("true").Releases().AllocStatus(`{"pods":["p-0"]}`).
			Annotation(v1alpha1.AllocReleaseAnnotation, `{"pods":["p-0"]}`).Obj())
		w.startAgain()
		w.onStatus = func() error { return errors.New("the API server is down") }
		for range 3 {
			if _, err := w.tryReconcile(); err == nil {
				t.Error("a status that can't be written is no error")
			}
		}
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0"]}`)
		w.onStatus = nil
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":[""]}`)
		w.wantCondition(v1alpha1.ConditionTasksCompleted, "True/TasksSucceeded")
	})
}

func TestAMalformedListOfAnOlderControllerIsToldAndNothingIsLost(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(1).AllocStatus(`{"pods":["p-0"]}`).Annotation(v1alpha1.AllocReleaseAnnotation, `["p-0"]`).Obj())
		w.edit(func(sb *v1alpha1.BatchSandbox) {
			sb.Annotations[v1alpha1.AllocStatusAnnotation] = `{"pods":["p-0",""]}`
		})
		w.startAgain()
		w.settled()
		w.wantCondition(v1alpha1.ConditionAllocated, "False/InvalidAnnotation")
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-0"]}`)
		if c := w.counts(); c.Held != 1 || c.Idle != 1 {
			t.Errorf("counts %+v", c)
		}
		w.edit(func(sb *v1alpha1.BatchSandbox) { delete(sb.Annotations, v1alpha1.AllocReleaseAnnotation) })
		w.settled()
		w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
		w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Annotations[v1alpha1.AllocReleasedAnnotation] = `}` })
		w.remove()
		w.reconcile()
		if !w.gone() {
			t.Error("a malformed annotation keeps the batch from going")
		}
	})
}

// A pool may hand a pod on to the batch that once gave it back: then an old list must not take it away again.
func TestAListOfAnOlderControllerDoesNotOutliveTheNextAllocation(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		w.create(pooledBatch(2).AllocStatus(`{"pods":["p-1"]}`).Annotation(v1alpha1.AllocReleaseAnnotation, `{"pods":["p-0"]}`).
			Annotation(v1alpha1.AllocReleasedAnnotation, `{"pods":["p-0"]}`).Obj())
		w.startAgain()
		w.settled()
		w.wantAnnotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p-1","p-0"]}`)
		w.wantCondition(v1alpha1.ConditionReady, "True/PodsReady")
		if got := w.podNames(); got != "p-0 p-1" {
			t.Errorf("pods %q, want both", got)
		}
	})
}

func TestABatchOfAnOlderControllerThatIsBeingDeletedGoes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		sb := pooledBatch(2).AllocStatus(`{"pods":["p-0"]}`).Annotation(v1alpha1.AllocReleaseAnnotation, `{"pods":["p-0"]}`).
			Finalizers(v1alpha1.PoolAllocationFinalizer, v1alpha1.TaskCleanupFinalizer).Obj()
		w.create(sb)
		w.remove()
		w.startAgain()
		w.reconcile()
		if !w.gone() {
			t.Error("the finalizers are still there")
		}
		if got := w.podNames(); got != "p-1" {
			t.Errorf("pods %q, want the one that was given back deleted", got)
		}
	})
}
