// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/test/wrappers"
)

func TestValidate(t *testing.T) {
	own := func() *wrappers.BatchWrapper { return makeBatch("b").Container("sandbox") }
	pooled := func() *wrappers.BatchWrapper { return makeBatch("b").Pool("p") }
	fits := int32(replicasThatFit(pooled().Obj())) //nolint:gosec // some thousand
	cases := map[string]struct {
		batch *wrappers.BatchWrapper
		want  string // condition/reason, "" for none
	}{
		"a batch with a template":                 {own(), ""},
		"a batch with a pool":                     {pooled(), ""},
		"a batch with both, as in the README":     {pooled().Container("sandbox"), ""},
		"a batch with neither":                    {makeBatch("b"), "Allocated/NoTemplate"},
		"an empty template":                       {makeBatch("b").Template(""), "Allocated/NoTemplate"},
		"no replicas":                             {own().Replicas(0), ""},
		"a negative number of replicas":           {own().Replicas(-1), "Allocated/InvalidSpec"},
		"a negative minAvailable":                 {own().MinAvailable(-1), "Allocated/InvalidSpec"},
		"a name as long as a label":               {wrappers.MakeBatch(namespace, strings.Repeat("b", 63)).Pool("p"), ""},
		"a name longer than a label":              {wrappers.MakeBatch(namespace, strings.Repeat("b", 64)).Pool("p"), "Allocated/NameTooLong"},
		"a task":                                  {own().Task("true").TaskPatches(`{}`), ""},
		"task patches without a task":             {own().TaskPatches(`{}`), "Ready/InvalidTask"},
		"as many pooled replicas as fit":          {pooled().Replicas(fits), ""},
		"one pooled replica more than fit":        {pooled().Replicas(fits + 1), "Allocated/TooManyReplicas"},
		"the most replicas an int32 can say":      {pooled().Replicas(1<<31 - 1), "Allocated/TooManyReplicas"},
		"the same without a pool, for the IPs":    {own().Replicas(1<<31 - 1), "Allocated/TooManyReplicas"},
		"as many own replicas as addresses fit":   {own().Replicas(10000), ""},
		"replicas left out, which the default is": {&wrappers.BatchWrapper{BatchSandbox: *withoutReplicas()}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := ""
			if problem := validate(c.batch.Obj()); problem != nil {
				got = problem.condition + "/" + problem.reason
				if problem.message == "" || !strings.Contains(problem.message, ": ") {
					t.Errorf("message %q doesn't say what to change", problem.message)
				}
			}
			if got != c.want {
				t.Errorf("problem %q, want %q", got, c.want)
			}
		})
	}
}

func withoutReplicas() *v1alpha1.BatchSandbox {
	sb := makeBatch("b").Pool("p").Obj()
	sb.Spec.Replicas = nil
	return sb
}

func TestReplicasThatFitKeepsTheAnnotationsBelowTheirBudget(t *testing.T) {
	for _, pool := range []string{"p", "agent-pool", "a-pool-with-25-characters", strings.Repeat("p", 63)} {
		sb := makeBatch("b").Pool(pool).Obj()
		n := replicasThatFit(sb)
		pods, ips := make([]string, n), make([]string, n)
		for i := range n {
			pods[i], ips[i] = fmt.Sprintf("%s-%05d", pool, i), "100.100.100.100"
		}
		size := len(formatAllocStatus(pods)) + len(formatEndpoints(ips))
		if slack := 100; size > annotationBudget+slack || size < annotationBudget-slack {
			t.Errorf("pool %s: %d replicas take %d bytes, want about %d", pool, n, size, annotationBudget)
		}
		if problem := validate(makeBatch("b").Pool(pool).Replicas(int32(n) + 1).Obj()); problem == nil || //nolint:gosec // some thousand
			!strings.Contains(problem.message, fmt.Sprint(n)) {
			t.Errorf("problem %v doesn't name the %d that fit", problem, n)
		}
	}
}

// The addresses of a batch are as long as those of the cluster's pods: with IPv6 fewer fit, which is told and not tried.
func TestLongAddressesThatDoNotFitAreToldAndTakeNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		const n = 5500 // fit with IPv4
		w.create(wrappers.MakePool(namespace, "p").Size(0, 10000).Obj())
		key := types.NamespacedName{Namespace: namespace, Name: "p"}
		for i := range n {
			name := fmt.Sprintf("p-%05d", i)
			w.ledger.ObservePod(key, scheduler.Pod{
				Name: name, UID: types.UID(name), IP: fmt.Sprintf("fd00:1234:5678:9abc:def0:1234:5678:%04x", i), State: scheduler.PodReady,
			})
		}
		w.create(pooledBatch(n).Obj())
		for range 2 {
			w.reconcile()
			w.wantCondition(v1alpha1.ConditionAllocated, "False/TooManyReplicas")
			w.wantAnnotation(v1alpha1.AllocStatusAnnotation, "")
			if c := w.counts(); c.Idle != n || c.Held != 0 || c.Waiting != 0 {
				t.Errorf("counts %+v, want every pod idle and nobody waiting", c)
			}
			time.Sleep(time.Second)
		}
		message := condition(w.batch(), v1alpha1.ConditionAllocated).Message
		var asked, fits int32
		if _, err := fmt.Sscanf(message, "%d sandboxes with addresses as long as theirs don't fit into this batch: lower replicas to %d,", &asked, &fits); err != nil {
			t.Fatalf("message %q: %v", message, err)
		}
		w.edit(func(sb *v1alpha1.BatchSandbox) { sb.Spec.Replicas = &fits })
		w.reconcile()
		w.wantCondition(v1alpha1.ConditionAllocated, "True/Allocated")
		if c := w.counts(); c.Held != int(fits) {
			t.Errorf("counts %+v, want %d held", c, fits)
		}
	})
}
