// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/test/wrappers"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const ns = "default"

// house is a world in accord with itself: Pool small, and batches that hold pods of it.
type house struct{ World }

func newHouse(free int, held ...int) *house {
	h := &house{World{Now: now}}
	n := 0
	for b, pods := range held {
		names, ips := make([]string, pods), make([]string, pods)
		for i := range pods {
			names[i], ips[i] = fmt.Sprintf("p-%d", n), fmt.Sprintf("10.0.0.%d", n)
			h.Pods = append(h.Pods, heldPod(n, fmt.Sprintf("b-%d", b), i))
			n++
		}
		sb := wrappers.MakeBatch(ns, fmt.Sprintf("b-%d", b)).Pool("small").Replicas(int32(pods)) //nolint:gosec // a few
		sb.AllocStatus(jsonOf(map[string]any{"pods": names})).Annotation(v1alpha1.EndpointsAnnotation, jsonOf(ips))
		sb.Condition(v1alpha1.ConditionAllocated, metav1.ConditionTrue, v1alpha1.ReasonAllocated, now)
		sb.Status.Replicas, sb.Status.ObservedGeneration = int32(pods), sb.Generation //nolint:gosec // a few
		h.Batches = append(h.Batches, *sb.Obj())
	}
	for range free {
		h.Pods = append(h.Pods, poolPod(n))
		n++
	}
	pool := wrappers.MakePool(ns, "small").Size(0, 20).Obj()
	pool.Status.Total, pool.Status.Allocated, pool.Status.ObservedGeneration = int32(n), int32(n-free), pool.Generation //nolint:gosec // a few
	h.Pools = append(h.Pools, *pool)
	return h
}

func jsonOf(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings can always be encoded
	}
	return string(data)
}

func poolPod(n int) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Name: fmt.Sprintf("p-%d", n), UID: types.UID(fmt.Sprintf("uid-p-%d", n)), Labels: map[string]string{v1alpha1.PoolNameLabel: "small"},
		},
		Status: corev1.PodStatus{PodIP: fmt.Sprintf("10.0.0.%d", n), Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func heldPod(n int, batch string, index int) corev1.Pod {
	pod := poolPod(n)
	pod.Labels[v1alpha1.BatchNameLabel], pod.Labels[v1alpha1.PodIndexLabel] = batch, fmt.Sprint(index)
	return pod
}

func ago(d time.Duration) *metav1.Time {
	t := metav1.NewTime(now.Add(-d))
	return &t
}

func kinds(r Result) string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, string(f.Kind))
	}
	return strings.Join(all, " ")
}

func TestJudge(t *testing.T) {
	cases := map[string]struct {
		change func(*house)
		want   string // kinds of the findings
		says   string // a part of the first sentence, or of the first note
	}{
		"what is in accord is fine": {func(*house) {}, "", ""},
		"a pod that two batches name": {func(h *house) {
			h.Batches[1].Annotations[v1alpha1.AllocStatusAnnotation] = `{"pods":["p-2","p-0"]}`
			h.Batches[1].Annotations[v1alpha1.EndpointsAnnotation] = `["10.0.0.2","10.0.0.0"]`
			h.Batches[1].Status.Replicas = 2
		}, "DoublyHeld", "pod p-0 is held 2 times: by b-0 (index 0) and b-1 (index 1)"},
		"a pod that one batch names twice": {func(h *house) {
			h.Batches[0].Annotations[v1alpha1.AllocStatusAnnotation] = `{"pods":["p-0","p-0"]}`
			h.Batches[0].Annotations[v1alpha1.EndpointsAnnotation] = `["10.0.0.0","10.0.0.0"]`
			h.Pods[1].Labels = map[string]string{v1alpha1.PoolNameLabel: "small"}
			h.Pools[0].Status.Allocated = 2
		}, "DoublyHeld", "b-0 (index 0) and b-0 (index 1)"},
		"a pod that is not there": {func(h *house) {
			h.Pods = slices.Delete(h.Pods, 0, 1)
			h.Batches[0].Status.Replicas, h.Pools[0].Status.Allocated = 1, 2
		}, "MissingPod", "index 0 of batch b-0 names pod p-0, which is not there"},
		"a pod that is not there and that is waited for is a note": {func(h *house) {
			h.Pods = slices.Delete(h.Pods, 0, 1)
			h.Batches[0].Status.Conditions[0].Status = metav1.ConditionFalse
			h.Batches[0].Status.Replicas, h.Pools[0].Status.Allocated = 1, 2
		}, "", "index 0 of batch b-0 lost pod p-0 and waits for another"},
		"a pod that a batch gives back may be gone": {func(h *house) {
			h.Pods = slices.Delete(h.Pods, 0, 1)
			h.Batches[0].DeletionTimestamp = ago(time.Minute)
			h.Pools[0].Status.Allocated = 2
		}, "", ""},
		"a pod that is on its way out": {func(h *house) { h.Pods[0].DeletionTimestamp = ago(time.Second); h.Batches[0].Status.Replicas = 1 }, "", ""},
		"a pod that should have been gone long ago": {func(h *house) {
			h.Pods[0].DeletionTimestamp = ago(time.Hour)
			h.Batches[0].Status.Replicas = 1
		}, "MissingPod", "should have been gone at 2026-01-01T11:00:00Z"},
		"a pod of another pool": {func(h *house) {
			h.Pods[0].Labels[v1alpha1.PoolNameLabel] = "other"
			h.Pools[0].Status.Allocated = 2
		}, "ForeignPod", "names pod p-0, which is of Pool other and not of Pool small"},
		"a list that can't be read is all that is said of its namespace's pods": {func(h *house) {
			h.Batches[0].Annotations[v1alpha1.AllocStatusAnnotation] = "pods"
		}, "Unreadable", "batchsandbox b-0 is not {\"pods\":[...]}"},
		"labels of another batch": {func(h *house) { h.Pods[0].Labels[v1alpha1.BatchNameLabel] = "b-1" }, "WrongLabel", "held by b-0 at index 0, and its labels say b-1, index 0"},
		"labels of another index": {func(h *house) { h.Pods[0].Labels[v1alpha1.PodIndexLabel] = "7" }, "WrongLabel", "index 7"},
		"labels that are not there yet are a note": {func(h *house) {
			h.Pods[0].Labels = map[string]string{v1alpha1.PoolNameLabel: "small"}
		}, "", "1 pod of 1 batch without the labels"},
		"a pod that was left behind": {func(h *house) { h.Pods[3].Labels[v1alpha1.BatchNameLabel] = "b-0" }, "LeftBehind", "pod p-3 carries the labels of batch b-0, and nobody holds it"},
		"a pod that is being recycled keeps its labels": {func(h *house) {
			h.Pods[3].Labels[v1alpha1.BatchNameLabel] = "b-0"
			h.Pods[3].Annotations = map[string]string{v1alpha1.RecyclingAnnotation: "{}"}
		}, "", ""},
		"a pod of a pool that is gone": {func(h *house) { h.Pods[3].Labels[v1alpha1.PoolNameLabel] = "old" }, "Orphan", "pod p-3 is of Pool old, which is gone"},
		"a pod of a batch that is gone": {func(h *house) {
			yes := true
			pod := poolPod(9)
			pod.Labels = map[string]string{v1alpha1.BatchNameLabel: "b-0"}
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: "BatchSandbox", Name: "b-0", UID: "an older one", Controller: &yes}}
			h.Pods = append(h.Pods, pod)
		}, "Orphan", "made by batch b-0, which is gone"},
		"a pod of somebody else is nobody's business": {func(h *house) {
			pod := poolPod(9)
			pod.Labels = nil
			h.Pods = append(h.Pods, pod)
		}, "", ""},
		"a pool above its bound":                           {func(h *house) { h.Pools[0].Spec.CapacitySpec.PoolMax = 4 }, "AbovePoolMax", "has 5 pods, of which nobody holds 2, and poolMax is 4"},
		"a pool above a bound that was lowered just now":   {func(h *house) { h.Pools[0].Spec.CapacitySpec.PoolMax, h.Pools[0].Generation = 4, 2 }, "", ""},
		"a pool whose held pods alone are above its bound": {func(h *house) { h.Pods = h.Pods[:3]; h.Pools[0].Spec.CapacitySpec.PoolMax = 2 }, "", ""},
		"a batch that counts wrong":                        {func(h *house) { h.Batches[0].Status.Replicas = 5 }, "WrongCount", "counts 5 pods in status.replicas, and holds 2"},
		"a batch that doesn't count a pod that is not Ready": {func(h *house) {
			h.Pods[0].Status.Conditions, h.Batches[0].Status.Replicas = nil, 1
		}, "", ""},
		"a batch that was edited just now": {func(h *house) { h.Batches[0].Status.Replicas, h.Batches[0].Generation = 5, 2 }, "", ""},
		"a pool that counts wrong":         {func(h *house) { h.Pools[0].Status.Allocated = 1 }, "WrongCount", "counts 1 held pods in status.allocated, and batches hold 3"},
		"an address of another pod": {func(h *house) {
			h.Batches[0].Annotations[v1alpha1.EndpointsAnnotation] = `["10.0.0.0","10.0.0.9"]`
		}, "WrongEndpoint", `tells the address "10.0.0.9" at index 1, and pod p-1 has "10.0.0.1"`},
		"a Ready pod without an address": {func(h *house) { h.Batches[0].Annotations[v1alpha1.EndpointsAnnotation] = `["10.0.0.0"]` }, "WrongEndpoint", `the address "" at index 1`},
		"a lost pod without an address": {func(h *house) {
			h.Batches[0].Annotations[v1alpha1.EndpointsAnnotation] = `["10.0.0.0",""]`
			h.Pods[1].Status.Conditions = nil
		}, "", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h := newHouse(2, 2, 1)
			c.change(h)
			r := Judge(h.World)
			if got := kinds(r); got != c.want {
				t.Fatalf("findings %q, want %q: %+v", got, c.want, r.Findings)
			}
			said := strings.Join(r.Notes, "\n")
			if len(r.Findings) > 0 {
				said = r.Findings[0].Sentence
				if r.Findings[0].Remedy == "" || len(r.Findings[0].Commands) == 0 {
					t.Errorf("nothing is said of how to mend it: %+v", r.Findings[0])
				}
			}
			if !strings.Contains(said, c.says) || c.says == "" && said != "" {
				t.Errorf("said %q, want %q", said, c.says)
			}
		})
	}
}

// damage breaks one thing in a house and says which findings are to come of it.
type damage struct {
	name string
	do   func(h *house, batch, pod int) Kind
}

func damages() []damage {
	return []damage{
		{"take the pod away", func(h *house, _, pod int) Kind {
			h.Pods = slices.Delete(h.Pods, pod, pod+1)
			return MissingPod
		}},
		{"give the pod to another batch too", func(h *house, batch, pod int) Kind {
			other := wrappers.MakeBatch(ns, "thief").Pool("small").AllocStatus(jsonOf(map[string]any{"pods": []string{h.Pods[pod].Name}})).Obj()
			h.Batches = append(h.Batches, *other)
			return DoublyHeld
		}},
		{"have another pool own it", func(h *house, _, pod int) Kind {
			h.Pods[pod].Labels[v1alpha1.PoolNameLabel] = "other"
			return ForeignPod
		}},
		{"let the batch vanish", func(h *house, batch, _ int) Kind {
			h.Batches = slices.Delete(h.Batches, batch, batch+1)
			return LeftBehind
		}},
		{"change its label", func(h *house, _, pod int) Kind {
			h.Pods[pod].Labels[v1alpha1.BatchNameLabel] = "nobody"
			return WrongLabel
		}},
		{"change its address", func(h *house, _, pod int) Kind {
			h.Pods[pod].Status.PodIP = "192.0.2.1"
			return WrongEndpoint
		}},
	}
}

// A world in accord with itself has no findings, whatever it looks like; one that is broken has the finding of what was
// broken. What is judged doesn't depend on the order in which objects are listed, and is not changed.
func TestAWorldInAccordHasNoFindingsAndABrokenOneHas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		held := rapid.SliceOfN(rapid.IntRange(1, 3), 1, 4).Draw(t, "held")
		h := newHouse(rapid.IntRange(0, 3).Draw(t, "free"), held...)
		if r := Judge(h.World); len(r.Findings) > 0 {
			t.Fatalf("found %+v", r.Findings)
		}
		batch := rapid.IntRange(0, len(held)-1).Draw(t, "batch")
		pod := 0
		for _, n := range held[:batch] {
			pod += n
		}
		d := rapid.SampledFrom(damages()).Draw(t, "damage")
		want := d.do(h, batch, pod)
		before := jsonOf(h.World)
		r := Judge(h.World)
		if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Kind == want }) {
			t.Fatalf("%s: found %q, want %s among them", d.name, kinds(r), want)
		}
		if jsonOf(h.World) != before {
			t.Fatalf("%s: the world was changed", d.name)
		}
		shuffled := h.World
		shuffled.Pods = rapid.Permutation(h.Pods).Draw(t, "pods")
		shuffled.Batches = rapid.Permutation(h.Batches).Draw(t, "batches")
		if again := Judge(shuffled); jsonOf(again) != jsonOf(r) {
			t.Fatalf("%s: in another order found\n%s, before\n%s", d.name, jsonOf(again), jsonOf(r))
		}
	})
}

// looking makes an auditor of a cluster that changes before each list of pods after the first.
func looking(t *testing.T, h *house, change func(look int, c client.Client)) (auditor, *int) {
	t.Helper()
	scheme, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	b := fake.NewClientBuilder().WithScheme(scheme)
	for i := range h.Batches {
		b.WithObjects(&h.Batches[i])
	}
	for i := range h.Pools {
		b.WithObjects(&h.Pools[i])
	}
	for i := range h.Pods {
		b.WithObjects(&h.Pods[i])
	}
	n := 0
	c := interceptor.NewClient(b.Build(), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if _, pods := list.(*corev1.PodList); pods {
				n++
				change(n, c)
			}
			return c.List(ctx, list, options...)
		},
	})
	return auditor{reader: c, clock: clock.RealClock{}, namespace: ns}, &n
}

func TestOnlyWhatEveryLookShowsIsFound(t *testing.T) {
	cases := map[string]struct {
		change func(look int, c client.Client) error
		looks  int
		want   string
	}{
		"nothing wrong takes one look": {func(int, client.Client) error { return nil }, 1, ""},
		"what comes right meanwhile is none": {func(look int, c client.Client) error {
			index := map[int]string{1: "7", 2: "0"}[look]
			return relabel(c, index)
		}, 2, ""},
		"what changes is another": {func(look int, c client.Client) error { return relabel(c, fmt.Sprint(6+look)) }, 2, ""},
		"what stays is found":     {func(_ int, c client.Client) error { return relabel(c, "7") }, looks, "WrongLabel"},
		"a count that is written anew, and is wrong again, is none": {func(look int, c client.Client) error {
			pool := &v1alpha1.Pool{}
			if err := c.Get(context.Background(), client.ObjectKey{Namespace: ns, Name: "small"}, pool); err != nil {
				return err
			}
			pool.Status.Allocated, pool.Labels = 7, map[string]string{"look": fmt.Sprint(look)}
			return c.Update(context.Background(), pool)
		}, 2, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, n := looking(t, newHouse(1, 2), func(look int, cl client.Client) {
					if err := c.change(look, cl); err != nil {
						t.Error(err)
					}
				})
				r, err := a.run(t.Context())
				if err != nil || kinds(r) != c.want || *n != c.looks {
					t.Errorf("%d looks, findings %q (%v), want %d and %q", *n, kinds(r), err, c.looks, c.want)
				}
			})
		})
	}
}

// relabel gives the first pod another index.
func relabel(c client.Client, index string) error {
	pod := &corev1.Pod{}
	if err := c.Get(context.Background(), client.ObjectKey{Namespace: ns, Name: "p-0"}, pod); err != nil {
		return err
	}
	pod.Labels[v1alpha1.PodIndexLabel] = index
	return c.Update(context.Background(), pod)
}

func TestTheExitCodeTellsWhetherThereAreFindings(t *testing.T) {
	var out bytes.Buffer
	h := newHouse(1, 2)
	if err := report(Judge(h.World), cluster.NewOutput(), &out); err != nil {
		t.Errorf("an accord ends with %v", err)
	}
	if want := "Looked at 1 batch, 1 pool and 3 pods; batches hold 2: nothing is wrong.\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
	h.Pods[0].Labels[v1alpha1.PodIndexLabel] = "7"
	out.Reset()
	err := report(Judge(h.World), cluster.NewOutput(), &out)
	var exit *cluster.ExitError
	if !errors.As(err, &exit) || exit.Code != 1 || exit.Err != nil {
		t.Errorf("a finding ends with %v, want exit code 1 and no further message", err)
	}
	for _, part := range []string{"WrongLabel: pod p-0", "What to do: ", "kubectl -n default label --overwrite pod p-0", ": 1 finding."} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is not in:\n%s", part, out.String())
		}
	}
}
