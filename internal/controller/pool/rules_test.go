// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/test/wrappers"
)

// An API server that doesn't take the rules costs one refused create an hour, and is told of in the status.
func TestPodsAreMadeWithoutRestartRulesWhereTheAPIServerDoesNotTakeThem(t *testing.T) {
	refuse := func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error {
		if len(pod.Spec.Containers[1].RestartPolicyRules) == 0 {
			return c.Create(ctx, pod)
		}
		err := apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Pod").GroupKind(), pod.Name, nil)
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Field: "spec.containers[1].restartPolicyRules[0].action"}}
		return err
	}
	drop := func(ctx context.Context, c client.WithWatch, pod *corev1.Pod) error {
		pod.Spec.Containers[1].RestartPolicy, pod.Spec.Containers[1].RestartPolicyRules = nil, nil
		return c.Create(ctx, pod)
	}
	for name, c := range map[string]struct {
		onCreate    func(context.Context, client.WithWatch, *corev1.Pod) error
		wantCreates int // of one pod, and then two more
	}{
		"it refuses them":      {refuse, 4},
		"it drops them":        {drop, 3},
		"it takes them (1.36)": {nil, 3},
	} {
		t.Run(name, func(t *testing.T) {
			pool := wrappers.MakePool(namespace, "p").Buffer(1, 1).Size(1, 3).Template(restartable).Obj()
			w := newWorld(t, pool)
			w.onCreate = c.onCreate
			w.settled()
			w.edit(func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.BufferMin, p.Spec.CapacitySpec.BufferMax = 3, 3 })
			w.settled()
			if len(w.pods()) != 3 || w.creates != c.wantCreates {
				t.Errorf("%d pods after %d creates, want %d", len(w.pods()), w.creates, c.wantCreates)
			}
			want := ""
			if c.onCreate != nil {
				want = rulesUnknown
			}
			if got := w.pool().Status.RecycleObstacle; got != want {
				t.Errorf("obstacle %q, want %q", got, want)
			}

			// Another controller knows from the status what was found out, and the API server is newer an hour later.
			w.r.memories = newMemories()
			w.settled()
			if got := w.pool().Status.RecycleObstacle; got != want {
				t.Errorf("after a restart: obstacle %q, want %q", got, want)
			}
			w.onCreate = nil
			w.after(rulesAgain)
			w.edit(func(p *v1alpha1.Pool) {
				p.Spec.CapacitySpec.PoolMax, p.Spec.CapacitySpec.BufferMin, p.Spec.CapacitySpec.BufferMax = 4, 4, 4
			})
			w.settled()
			if got := w.pool().Status.RecycleObstacle; got != "" || len(w.pods()[3].Spec.Containers[1].RestartPolicyRules) == 0 {
				t.Errorf("an hour later: obstacle %q, pod %+v", got, w.pods()[3].Spec.Containers[1])
			}
		})
	}
}

func TestRestartAndTheDefaultGiveRestartRules(t *testing.T) {
	for how, want := range map[v1alpha1.RecycleType]bool{"": true, v1alpha1.RecycleDelete: false, v1alpha1.RecycleNoop: false, v1alpha1.RecycleRestart: true} {
		pool := wrappers.MakePool(namespace, "p").Buffer(1, 1).Size(1, 1).Template(restartable).Obj()
		pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: how}
		w := newWorld(t, pool)
		w.reconcile()
		if got := len(w.pods()[0].Spec.Containers[1].RestartPolicyRules) > 0; got != want {
			t.Errorf("type %q: rules %t, want %t", how, got, want)
		}
	}
}

// A controller that knows the default meets the pods of one that did not.
func TestIdlePodsWithoutRestartRulesAreKept(t *testing.T) {
	pool := wrappers.MakePool(namespace, "p").Buffer(2, 2).Size(2, 2).Template(restartable).Obj()
	pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleDelete}
	w := newWorld(t, pool)
	w.reconcile()
	w.live("1")
	w.settled()
	before, revision := w.podNames(), w.pool().Status.Revision
	w.edit(func(p *v1alpha1.Pool) { p.Spec.RecycleStrategy = nil })
	w.settled()
	if s := w.pool().Status; w.podNames() != before || s.Revision != revision || s.Updated != 2 || w.deletes > 0 {
		t.Errorf("pods %q, were %q; %d deletes, status %+v", w.podNames(), before, w.deletes, s)
	}
}

func TestRecycleObstacle(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	writable := strings.Replace(restartable, `"image":"i"`, `"image":"i","volumeMounts":[{"name":"v","mountPath":"/v"}]`, 1)
	for name, c := range map[string]struct {
		how      v1alpha1.RecycleType
		template string
		rules    ruleMemory
		told     string // in the status before
		want     string // part of it; "" for none
	}{
		"unset, and in nobody's way":                            {"", restartable, ruleMemory{}, "", ""},
		"Restart, and in nobody's way":                          {v1alpha1.RecycleRestart, restartable, ruleMemory{}, "", ""},
		"unset, no executor":                                    {"", `{"spec":{"containers":[{"name":"s","image":"i"}]}}`, ruleMemory{}, "", "no container task-executor"},
		"unset, a writable volume":                              {"", writable, ruleMemory{}, "", "can write to volume v"},
		"Restart, a writable volume":                            {v1alpha1.RecycleRestart, writable, ruleMemory{}, "", "can write to volume v"},
		"Delete, a writable volume":                             {v1alpha1.RecycleDelete, writable, ruleMemory{}, "", ""},
		"Noop, a writable volume":                               {v1alpha1.RecycleNoop, writable, ruleMemory{}, "", ""},
		"the API server is too old":                             {"", restartable, ruleMemory{lacking: now}, "", rulesUnknown},
		"the API server was too old, says another controller":   {"", restartable, ruleMemory{}, rulesUnknown, rulesUnknown},
		"the API server was too old, and is no more":            {"", restartable, ruleMemory{taken: true}, rulesUnknown, ""},
		"the template had an obstacle, and has it no more":      {"", restartable, ruleMemory{}, "container s can write to volume v", ""},
		"the API server is too old, and nobody wants a restart": {v1alpha1.RecycleDelete, restartable, ruleMemory{lacking: now}, rulesUnknown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pool := wrappers.MakePool(namespace, "p").Template(c.template).Obj()
			pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: c.how}
			pool.Status.RecycleObstacle = c.told
			template, err := podtemplate.Decode(pool.Spec.Template)
			if err != nil {
				t.Fatal(err)
			}
			if got := recycleObstacle(pool, template, c.rules); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("obstacle %q, want %q", got, c.want)
			}
		})
	}
}
