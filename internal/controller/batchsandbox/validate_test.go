// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"fmt"
	"strings"
	"testing"

	"opensandbox.io/controller/api/v1alpha1"
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
