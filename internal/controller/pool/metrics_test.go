// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/test/wrappers"
)

// gaugesOf are the gauges of pools, by name and labels.
func gaugesOf(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if m.GetGauge() == nil {
				continue
			}
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			got[name] = m.GetGauge().GetValue()
		}
	}
	return got
}

func TestGaugesFollowAPoolAndGoWithIt(t *testing.T) {
	w := newWorld(t, wrappers.MakePool("ns", "p").Buffer(2, 2).Size(0, 2).Obj())
	w.reconcile()
	other := types.NamespacedName{Namespace: "ns", Name: "other"} // a pool that batches name and that isn't there
	for i, pool := range []types.NamespacedName{w.key, w.key, other} {
		batch := types.NamespacedName{Namespace: "ns", Name: string(rune('a' + i))}
		w.ledger.Enqueue(scheduler.Demand{Batch: batch, UID: types.UID(batch.Name), Pool: pool.Name, Missing: []int{0, 1, 2}})
	}
	want := map[string]float64{
		"opensandbox_pool_pods ns p idle": 0, "opensandbox_pool_pods ns p starting": 2, "opensandbox_pool_pods ns p held": 0,
		"opensandbox_pool_pods ns p unusable": 0, "opensandbox_pool_pods ns p terminating": 0,
		"opensandbox_pool_queue_batches ns p": 2, "opensandbox_pool_queue_sandboxes ns p": 6,
		"opensandbox_pool_bounds bufferMin ns p": 2, "opensandbox_pool_bounds bufferMax ns p": 2,
		"opensandbox_pool_bounds poolMin ns p": 0, "opensandbox_pool_bounds poolMax ns p": 2,
		"opensandbox_pool_status_condition Ready ns p": 0, "opensandbox_pool_status_condition ScalingLimited ns p": 0,
		"opensandbox_pool_status_condition PodsFailing ns p": 0,
	}
	if diff := cmp.Diff(want, gaugesOf(t, w.registry)); diff != "" {
		t.Errorf("gauges (-want +got):\n%s", diff)
	}
	w.orphan()
	w.reconcile()
	if got := gaugesOf(t, w.registry); len(got) != 0 {
		t.Errorf("gauges of a pool that is gone: %v", got)
	}
}

func TestGaugesTellThatPodsFailAndNoBoundsOfAPoolThatGoes(t *testing.T) {
	w := newWorld(t, wrappers.MakePool("ns", "p").Buffer(1, 1).Size(0, 2).Obj())
	w.reconcile()
	w.setStatus(w.becomeReady)
	w.hold("a", 1)
	w.onCreate = forbiddenPod
	w.after(time.Minute)
	w.reconcile()
	const failing, bound = "opensandbox_pool_status_condition PodsFailing ns p", "opensandbox_pool_bounds bufferMin ns p"
	if got := gaugesOf(t, w.registry); got[failing] != 1 || got[bound] != 1 {
		t.Errorf("gauges %v, want pods that fail, and bounds", got)
	}
	if err := w.client.Delete(t.Context(), w.pool()); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	got := gaugesOf(t, w.registry)
	if _, bounded := got[bound]; bounded || got["opensandbox_pool_pods ns p held"] != 1 || got[failing] != 0 {
		t.Errorf("gauges of a pool that waits for its last sandbox: %v", got)
	}
}

func readyPod(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: labels},
		Status:     corev1.PodStatus{PodIP: "10.0.0.1", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func TestAPodsStartIsMeasuredOnceAndOnlyIfThisProcessMadeThePod(t *testing.T) {
	pooled := map[string]string{v1alpha1.PoolNameLabel: "p"}
	starting, noAddress := readyPod("a", pooled), readyPod("a", pooled)
	starting.Status.Conditions, noAddress.Status.PodIP = nil, ""
	key := client.ObjectKeyFromObject(starting)
	cases := map[string]struct {
		do   func(s *Starts)
		want []float64
		left int
	}{
		"it becomes Ready":                          {func(s *Starts) { s.Observe(readyPod("a", pooled)) }, []float64{1.5}, 0},
		"it becomes Ready, and has news after that": {func(s *Starts) { s.Observe(readyPod("a", pooled)); s.Observe(readyPod("a", pooled)) }, []float64{1.5}, 0},
		"it is starting":                            {func(s *Starts) { s.Observe(starting) }, nil, 1},
		"it is Ready without an address":            {func(s *Starts) { s.Observe(noAddress) }, nil, 1},
		"it was made by another process":            {func(s *Starts) { s.Observe(readyPod("b", pooled)) }, nil, 1},
		"it is no pool's":                           {func(s *Starts) { s.Observe(readyPod("a", nil)) }, nil, 1},
		"it goes before it is Ready":                {func(s *Starts) { s.Forget(key); s.Observe(readyPod("a", pooled)) }, nil, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			registry, clk := prometheus.NewRegistry(), testingclock.NewFakePassiveClock(time.Unix(100, 0))
			s, err := NewStarts(registry, clk)
			if err != nil {
				t.Fatal(err)
			}
			s.send(key)
			clk.SetTime(time.Unix(101, 500e6))
			c.do(s)
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			h := families[0].GetMetric()[0].GetHistogram()
			sum := 0.0
			for _, v := range c.want {
				sum += v
			}
			if h.GetSampleCount() != uint64(len(c.want)) || h.GetSampleSum() != sum || len(s.sent) != c.left {
				t.Errorf("%d starts of %v s together, %d pods on their way; want %v and %d", h.GetSampleCount(), h.GetSampleSum(), len(s.sent), c.want, c.left)
			}
		})
	}
}

func TestPodsThatAreNotMadeAreNotOnTheirWay(t *testing.T) {
	w := newWorld(t, wrappers.MakePool("ns", "p").Buffer(1, 1).Size(0, 1).Obj())
	w.onCreate = forbiddenPod
	w.reconcile()
	if n := len(w.starts.sent); n != 0 {
		t.Errorf("%d pods on their way after the API server refused them", n)
	}
	w.onCreate = nil
	w.after(time.Minute)
	w.reconcile()
	if n := len(w.starts.sent); n != 1 {
		t.Errorf("%d pods on their way, want the one that was made", n)
	}
}

func TestANewsOfAPodCostsNoAllocation(t *testing.T) {
	s, err := NewStarts(prometheus.NewRegistry(), testingclock.NewFakePassiveClock(time.Unix(100, 0)))
	if err != nil {
		t.Fatal(err)
	}
	pod := readyPod("a", map[string]string{v1alpha1.PoolNameLabel: "p"})
	if got := testing.AllocsPerRun(1000, func() { s.Observe(pod) }); got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

// A look at the gauges costs the number of pools, not of their pods.
func TestALookAtTheGaugesDoesNotGrowWithThePool(t *testing.T) {
	cost := func(pods int) float64 {
		ledger := scheduler.NewLedger(&world{})
		key := types.NamespacedName{Namespace: "ns", Name: "p"}
		for i := range pods {
			ledger.ExpectPod(key, podName("p", string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676))), "r")
		}
		g := newGauges(ledger, func() []gaugedPool {
			return []gaugedPool{{key: key, observed: true, bounds: &v1alpha1.CapacitySpec{}}}
		})
		const series = 14
		metrics := make(chan prometheus.Metric, series)
		return testing.AllocsPerRun(100, func() {
			g.Collect(metrics)
			for range series {
				<-metrics
			}
		})
	}
	if small, large := cost(1), cost(5000); small != large {
		t.Errorf("%v allocations with 5000 pods, %v with 1", large, small)
	}
}
