// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"-bench=tasks, tasks", "-n=5", "-for=2s", "-runs=1"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Scenarios) != 2 || o.Runs != 1 {
		t.Errorf("%d scenarios, %d runs, want 2 and 1", len(o.Scenarios), o.Runs)
	}
	want := sizes{N: 5, Rate: 500, For: 2 * time.Second}
	if diff := cmp.Diff(want, o.Sizes.or(o.Scenarios[0].sizes)); diff != "" {
		t.Errorf("sizes (-want +got):\n%s", diff)
	}
	if got, want := o.Sizes.command("tasks"), "make bench BENCH=tasks N=5 FOR=2s"; got != want {
		t.Errorf("command %q, want %q", got, want)
	}
	if o, err = parse([]string{"-n=5", "-controller-flags=--concurrency=4  --v=1"}, io.Discard); err != nil || len(o.Flags) != 2 {
		t.Errorf("flags %q of the controller (%v), want two", o.Flags, err)
	}
	if got, want := o.command("burst"), `make bench BENCH=burst N=5 BENCHFLAGS="-controller-flags='--concurrency=4 --v=1'"`; got != want {
		t.Errorf("command %s, want %s", got, want)
	}
	if all, err := parse(nil, io.Discard); err != nil || len(all.Scenarios) != len(scenarios()) {
		t.Errorf("%d scenarios by default (%v), want all", len(all.Scenarios), err)
	}
}

func TestParseRefusesMistakes(t *testing.T) {
	for name, args := range map[string][]string{
		"a scenario that isn't there": {"-bench=tasks,none"},
		"no runs":                     {"-runs=0"},
		"a negative size":             {"-n=-1"},
		"an argument":                 {"tasks"},
		"a flag that isn't there":     {"-x"},
	} {
		t.Run(name, func(t *testing.T) {
			if o, err := parse(args, io.Discard); err == nil {
				t.Errorf("got %+v, want an error", o)
			}
		})
	}
}

// What counts is when something was shown first.
func TestABatchRemembersWhenItWasShownWhat(t *testing.T) {
	b := &batch{seen: map[int]time.Time{}}
	at := time.Unix(0, 0)
	show := func(change func(*v1alpha1.BatchSandbox)) {
		at = at.Add(time.Second)
		sb := wrappers.MakeBatch("ns", "b").Replicas(3).Annotation(v1alpha1.EndpointsAnnotation, `["127.0.0.1","127.0.0.2","127.0.0.3"]`).Obj()
		change(sb)
		b.see(sight[*v1alpha1.BatchSandbox]{object: sb, at: at})
	}
	show(func(sb *v1alpha1.BatchSandbox) { sb.Annotations[v1alpha1.EndpointsAnnotation] = `["127.0.0.1","",""]` })
	show(func(*v1alpha1.BatchSandbox) {})
	show(func(sb *v1alpha1.BatchSandbox) { sb.Status.TaskRunning = 3 })
	show(func(sb *v1alpha1.BatchSandbox) { sb.Status.TaskRunning, sb.Status.CompletedIndexes = 1, "0-1" })
	show(func(sb *v1alpha1.BatchSandbox) {
		sb.Status.CompletedIndexes, sb.Status.FailedIndexes = "0-1", "2"
		sb.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionTasksCompleted, Status: metav1.ConditionTrue}}
	})
	show(func(sb *v1alpha1.BatchSandbox) {
		sb.Status.CompletedIndexes, sb.Status.FailedIndexes = "0-1", "2"
		sb.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionTasksCompleted, Status: metav1.ConditionTrue}}
	})
	seconds := func(times ...time.Time) (all []int64) {
		for _, t := range times {
			all = append(all, t.Unix())
		}
		return all
	}
	if diff := cmp.Diff([]int64{2, 3, 5, 4, 4, 5}, seconds(b.delivered, b.allRun, b.completed, b.seen[0], b.seen[1], b.seen[2])); diff != "" {
		t.Errorf("seconds of delivery, running, completion, and of each index (-want +got):\n%s", diff)
	}
	if done, _ := b.allEnded(); !done || b.err != nil {
		t.Errorf("all ended %v (%v), want it done", done, b.err)
	}
}
