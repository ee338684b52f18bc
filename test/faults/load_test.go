// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/sets"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

func chance(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func TestASeedDrawsTheSameBatches(t *testing.T) {
	first, second, other := chance(1), chance(1), chance(2)
	differ := 0
	for i := range 200 {
		name := fmt.Sprint(i)
		sb := batchOf(first, name)
		if diff := cmp.Diff(sb, batchOf(second, name)); diff != "" {
			t.Fatalf("batch %d (-first +second):\n%s", i, diff)
		}
		if cmp.Diff(sb, batchOf(other, name)) != "" {
			differ++
		}
	}
	if differ < 50 {
		t.Errorf("another seed draws %d of 200 other batches", differ)
	}
}

func TestTheLoadHasAllKindsOfBatchesThatCanBeServed(t *testing.T) {
	random, kinds := chance(1), sets.Set[string]{}
	note := func(kind string, is bool) {
		if is {
			kinds.Insert(kind)
		}
	}
	for i := range 2000 {
		spec := batchOf(random, fmt.Sprint(i)).Spec
		note("of "+spec.PoolRef, true)
		note("several", *spec.Replicas > 1)
		note("gang", spec.MinAvailable != nil)
		note("tasks", spec.TaskTemplate != nil)
		note("urgent", spec.Priority != nil && *spec.Priority > 0)
		note("impatient", spec.AllocationTimeoutSeconds != nil)
		if spec.MinAvailable != nil && (*spec.MinAvailable > *spec.Replicas || *spec.MinAvailable < 2) {
			t.Fatalf("a gang of %d in a batch of %d", *spec.MinAvailable, *spec.Replicas)
		}
		if spec.TaskTemplate != nil && spec.PoolRef != restartPool {
			t.Fatalf("tasks in pool %q, whose pods have no executor", spec.PoolRef)
		}
	}
	want := []string{"gang", "impatient", "of ", "of delete", "of noop", "of restart", "several", "tasks", "urgent"}
	if diff := cmp.Diff(want, sets.List(kinds)); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
}

func TestThePoolsHaveSizesThatMakeSense(t *testing.T) {
	random := chance(1)
	for range 1000 {
		if c := bounds(random); c.BufferMin > c.BufferMax || c.PoolMin > c.PoolMax || c.PoolMax < 8 || c.BufferMin < 1 {
			t.Fatalf("bounds %+v", c)
		}
	}
}

func delivered(name string) *wrappers.BatchWrapper {
	return wrappers.MakeBatch(faultsNamespace, name).Pool(noopPool).Annotation(v1alpha1.EndpointsAnnotation, `["127.0.0.1"]`)
}

func TestABatchIsDeletedSomeTimeAfterItWasServed(t *testing.T) {
	for name, c := range map[string]struct {
		see  *v1alpha1.BatchSandbox
		want time.Duration
	}{
		"delivered":                       {delivered("b").Obj(), 3 * time.Second},
		"delivered, and its task runs":    {delivered("b").Task("true").Obj(), longestRun},
		"not delivered":                   {wrappers.MakeBatch(faultsNamespace, "b").Pool(noopPool).Obj(), longestWait},
		"it is not known what becomes of": {delivered("other").Obj(), longestWait},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &load{alive: map[string]*customer{}}
				if !l.admit(wrappers.MakeBatch(faultsNamespace, "b").Pool(noopPool).Obj(), 3*time.Second) {
					t.Fatal("not admitted")
				}
				l.see(c.see)
				time.Sleep(c.want)
				if got := l.leaving(); len(got) != 0 {
					t.Errorf("%v is deleted before its time", got)
				}
				time.Sleep(time.Millisecond)
				if got := l.leaving(); len(got) != 1 {
					t.Errorf("%v are deleted, want the batch", got)
				}
				if got := l.leaving(); len(got) != 0 {
					t.Errorf("%v is deleted twice", got)
				}
			})
		})
	}
}

func TestThoseWhoWaitForOnePoolKeepNobodyFromAnother(t *testing.T) {
	l := &load{alive: map[string]*customer{}}
	admitted := 0
	for i := range 2 * mostAlive {
		if l.admit(wrappers.MakeBatch(faultsNamespace, fmt.Sprint(i)).Pool(noopPool).Obj(), 0) {
			admitted++
		}
	}
	if admitted != mostAlive {
		t.Errorf("admitted %d, want %d", admitted, mostAlive)
	}
	if !l.admit(wrappers.MakeBatch(faultsNamespace, "other").Pool(deletePool).Obj(), 0) {
		t.Error("nobody else is admitted")
	}
	l.forget("0")
	if !l.admit(wrappers.MakeBatch(faultsNamespace, "next").Pool(noopPool).Obj(), 0) {
		t.Error("nobody takes the place of one that is gone")
	}
}
