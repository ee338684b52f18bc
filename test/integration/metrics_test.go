// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// scrape returns what the controller that serves its metrics at the address says of itself, by name and labels.
func (s *space) scrape(address string) map[string]float64 {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	s.must(err)
	reply, err := http.DefaultClient.Do(request)
	s.must(err)
	defer reply.Body.Close() //nolint:errcheck // only read from
	body, err := io.ReadAll(reply.Body)
	s.must(err)
	series := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		ours := strings.HasPrefix(name, "opensandbox_") || strings.HasPrefix(name, "controller_runtime_reconcile_total")
		if !ok || !ours {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		s.must(err)
		series[name] = n
	}
	return series
}

// hasMetrics waits until these series have these values.
func (s *space) hasMetrics(address string, want map[string]float64) {
	s.t.Helper()
	eventually(s.t, "tell in metrics", func() error {
		got := s.scrape(address)
		var errs []error
		for name, value := range want {
			if n, ok := got[name]; !ok || n != value {
				errs = append(errs, fmt.Errorf("%s is %v (there: %t), want %v", name, n, ok, value))
			}
		}
		return errors.Join(errs...)
	})
}

// ofPool is a series of a pool; state "" for one without.
func (s *space) ofPool(name, pool, state string) string {
	labels := fmt.Sprintf(`namespace=%q,pool=%q`, s.name, pool)
	if state != "" {
		labels += fmt.Sprintf(`,state=%q`, state)
	}
	return name + "{" + labels + "}"
}

func TestMetricsTellOfDeliveriesQueuesAndTasksAndForgetAPoolThatIsGone(t *testing.T) {
	s := newSpace(t)
	address := freeAddress(t)
	s.startExecutors()
	s.startController("", "--metrics-bind-address="+address)
	pool := makePool("p", 0, 2, 2, 2)
	pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleNoop}
	s.create(pool)
	s.idle("p", 2)
	s.hasMetrics(address, map[string]float64{
		"opensandbox_pool_pod_start_seconds_count":                               2,
		`opensandbox_pool_pod_writes_total{operation="create",result="done"}`:    2,
		`opensandbox_api_writes_total{resource="pods",verb="create"}`:            2,
		s.ofPool("opensandbox_pool_pods", "p", "idle"):                           2,
		s.ofPool("opensandbox_pool_queue_batches", "p", ""):                      0,
		`opensandbox_deliveries_total{start="warm"}`:                             0,
		`opensandbox_api_writes_total{resource="batchsandboxes",verb="patch"}`:   0,
		`opensandbox_task_tries_total{reason="Completed"}`:                       0,
		`opensandbox_delivery_seconds_bucket{start="warm",le="0.001"}`:           0,
		`opensandbox_delivery_seconds_bucket{start="warm",le="60"}`:              0,
		`opensandbox_executor_calls_total{result="refused"}`:                     0,
		`opensandbox_delivery_stage_seconds_bucket{stage="reported",le="0.001"}`: 0,
	})

	warm := makeTaskBatch("warm", "p", "exit 0", 2)
	warm.Spec.ShardTaskPatches = []v1alpha1.RawObject{*raw(`{}`), *raw(`{"spec":{"process":{"command":["sh","-c","exit 7"]}}}`)}
	s.create(warm)
	s.tasksEnded("warm")
	s.hasMetrics(address, map[string]float64{
		`opensandbox_deliveries_total{start="warm"}`:                  1,
		`opensandbox_delivery_writes_total{start="warm"}`:             2,
		`opensandbox_delivery_seconds_count{start="warm"}`:            1,
		`opensandbox_delivery_stage_seconds_count{stage="queued"}`:    1,
		`opensandbox_delivery_stage_seconds_count{stage="chosen"}`:    1,
		`opensandbox_delivery_stage_seconds_count{stage="written"}`:   1,
		`opensandbox_delivery_stage_seconds_count{stage="reported"}`:  1,
		"opensandbox_allocated_pods_total":                            2,
		"opensandbox_double_allocations_total":                        0,
		`opensandbox_task_tries_total{reason="Completed"}`:            1,
		`opensandbox_task_tries_total{reason="NonZeroExit"}`:          1,
		"opensandbox_task_report_seconds_count":                       2,
		s.ofPool("opensandbox_pool_pods", "p", "held"):                2,
		`opensandbox_api_writes_total{resource="pods",verb="create"}`: 2,
	})
	got := s.scrape(address)
	whole, parts := got[`opensandbox_delivery_seconds_sum{start="warm"}`], 0.0
	for _, stage := range []string{"queued", "chosen", "written"} {
		parts += got[fmt.Sprintf(`opensandbox_delivery_stage_seconds_sum{stage=%q}`, stage)]
	}
	if whole <= 0 || parts < whole-1e-6 || parts > whole+1e-6 {
		t.Errorf("a delivery took %v s, and its stages %v s together", whole, parts)
	}
	if n := got[`opensandbox_executor_calls_total{result="done"}`]; n < 4 {
		t.Errorf("%v calls of executors, want one to begin each task and one to learn of its end", n)
	}

	s.create(makeBatch("waits", "p", 1))
	s.hasMetrics(address, map[string]float64{
		s.ofPool("opensandbox_pool_queue_batches", "p", ""):   1,
		s.ofPool("opensandbox_pool_queue_sandboxes", "p", ""): 1,
	})
	s.delete("warm")
	s.delivered("waits", 1)
	s.create(makeBatch("cold", "", 1))
	s.delivered("cold", 1)
	s.hasMetrics(address, map[string]float64{
		`opensandbox_deliveries_total{start="warm"}`:               1,
		`opensandbox_deliveries_total{start="waited"}`:             1,
		`opensandbox_deliveries_total{start="cold"}`:               1,
		`opensandbox_delivery_seconds_count{start="cold"}`:         1,
		`opensandbox_delivery_stage_seconds_count{stage="chosen"}`: 2,
		s.ofPool("opensandbox_pool_queue_batches", "p", ""):        0,
	})

	s.delete("waits")
	s.must(s.client.Delete(s.ctx, s.pool("p")))
	s.gone(pool)
	eventually(t, "forget the pool", func() error {
		for name := range s.scrape(address) {
			if strings.Contains(name, `pool="p"`) {
				return errors.New(name + " is still there")
			}
		}
		return nil
	})
}

func TestCallsThatAnExecutorRefusesAreCounted(t *testing.T) {
	s := newSpace(t)
	address := freeAddress(t)
	s.startController("", "--metrics-bind-address="+address)
	s.create(taskPool("p", 1))
	s.idle("p", 1)
	pod := s.pods()[0]
	listener, err := net.Listen("tcp", pod.Status.PodIP+":5758")
	s.must(err)
	stranger := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })}
	go func() { _ = stranger.Serve(listener) }()
	t.Cleanup(func() { _ = stranger.Close() })
	sb := makeTaskBatch("refused", "p", "exit 0", 1)
	s.create(sb)
	eventually(t, "count refused calls", func() error {
		got := s.scrape(address)
		if n := got[`opensandbox_executor_calls_total{result="refused"}`]; n < 2 {
			return fmt.Errorf("%v refused, want each of the calls", n)
		}
		return nil
	})
	if n := s.scrape(address)[`opensandbox_executor_calls_total{result="done"}`]; n != 0 {
		t.Errorf("%v calls done, want none", n)
	}
	s.must(client.IgnoreNotFound(s.client.Delete(s.ctx, sb)))
}
