// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/bench/internal/audit"
	"opensandbox.io/controller/test/bench/internal/plot"
	"opensandbox.io/controller/test/bench/internal/report"
	"opensandbox.io/controller/test/internal/promtext"
	"opensandbox.io/controller/test/wrappers"
)

func sampleCosts() costs {
	return costs{puts: 8, cpu: 2 * time.Second, memory: 3 << 20, stages: map[string]stage{"written": {count: 2, seconds: 0.01}}, writes: audit.Calls{
		{Client: controllerAgent, Verb: "patch", Resource: "batchsandboxes"}:                       2,
		{Client: controllerAgent, Verb: "patch", Resource: "batchsandboxes/status"}:                2,
		{Client: controllerAgent, Verb: "patch", Resource: "batchsandboxes/status", Refused: true}: 1,
		{Client: controllerAgent, Verb: "create", Resource: "events"}:                              4,
		{Client: "bench", Verb: "create", Resource: "batchsandboxes"}:                              2,
		{Client: "kwok", Verb: "delete", Resource: "pods", Refused: true}:                          6,
		{Client: "kwok", Verb: "update", Resource: "leases"}:                                       9,
	}}
}

func TestCostsForEachDelivery(t *testing.T) {
	got := map[string]float64{}
	for _, m := range sampleCosts().metrics("x", "delivery", 2) {
		got[m.Key] = m.Value
	}
	want := map[string]float64{
		"xWrites": 4.5, "xWrites.create events": 2, "xWrites.patch batchsandboxes": 1,
		"xWrites.patch batchsandboxes/status": 1, "xWrites.patch batchsandboxes/status (refused)": 0.5,
		"xSystemWrites":                      3.5, // all but events, leases and what kwok tried in vain
		"xOtherWrites.create batchsandboxes": 1, "xOtherWrites.delete pods (refused)": 3, "xOtherWrites.update leases": 4.5,
		"xStage.written": 5,
		"xEtcdPuts":      4, "xCPU": 2, "xPeakMemory": 3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	if got := sampleCosts().deliveryWrites(); got != 5 {
		t.Errorf("%v writes to batches, want 5", got)
	}
}

func TestCostsAddUp(t *testing.T) {
	sum := sampleCosts().plus(costs{puts: 1, stages: map[string]stage{"written": {count: 1, seconds: 0.02}}, cpu: time.Second, memory: 1, writes: audit.Calls{{Client: controllerAgent, Verb: "create", Resource: "events"}: 1}})
	if sum.puts != 9 || sum.cpu != 3*time.Second || sum.memory != 3<<20 || sum.writes[audit.Call{Client: controllerAgent, Verb: "create", Resource: "events"}] != 5 {
		t.Errorf("sum %+v", sum)
	}
	if got := sum.stages["written"]; got != (stage{3, 0.03}) {
		t.Errorf("stage %+v, want 3 that took 0.03 s", got)
	}
}

func TestStagesAreReadFromTheControllersMetrics(t *testing.T) {
	told, err := promtext.Parse(strings.NewReader(`opensandbox_delivery_stage_seconds_bucket{stage="written",le="1"} 9
opensandbox_delivery_stage_seconds_sum{stage="written"} 0.5
opensandbox_delivery_stage_seconds_count{stage="written"} 9
opensandbox_delivery_stage_seconds_count{stage="queued"} 7
`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]stage{"queued": {count: 7}, "chosen": {}, "written": {count: 9, seconds: 0.5}, "reported": {}}
	if diff := cmp.Diff(want, stagesOf(told), cmp.AllowUnexported(stage{})); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}

func TestTimesAreShownWithTheirRateIfTheyCameTogether(t *testing.T) {
	together := times{key: "k", what: "w", all: []time.Duration{3 * time.Millisecond, time.Millisecond, 2 * time.Millisecond, 4 * time.Millisecond}, took: 2 * time.Second}
	got := map[string]float64{}
	for _, m := range together.metrics() {
		got[m.Key] = m.Value
	}
	want := map[string]float64{"kN": 4, "kRate": 2, "kP50": 2, "kP90": 4, "kP99": 4, "kMax": 4}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	together.took = 0
	if got := together.metrics(); len(got) != 5 || got[1].Key != "kP50" {
		t.Errorf("metrics %+v, want no rate", got)
	}
}

// The floor writes what the controller wrote, refused like the controller's if the batch has changed.
func TestABareDeliveryIsTheControllers(t *testing.T) {
	sb := wrappers.MakeBatch("ns", "b").Finalizers("f").Annotation("user's", "x").
		Annotation(v1alpha1.AllocStatusAnnotation, `{"pods":["p"]}`).Annotation(v1alpha1.EndpointsAnnotation, `["127.0.0.1"]`).Obj()
	sb.Status.Ready = 1
	d := deliveryOf(sb)
	body, err := d.allocation("7")
	want := `{"metadata":{"annotations":{"sandbox.opensandbox.io/alloc-status":"{\"pods\":[\"p\"]}","sandbox.opensandbox.io/endpoints":"[\"127.0.0.1\"]"},"finalizers":["f"],"resourceVersion":"7"}}`
	if err != nil || string(body) != want {
		t.Errorf("allocation\n%s (%v), want\n%s", body, err, want)
	}
	body, err = d.report("8")
	var got struct {
		Metadata struct{ ResourceVersion string }
		Status   v1alpha1.BatchSandboxStatus
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	if err != nil || got.Metadata.ResourceVersion != "8" || got.Status.Ready != 1 {
		t.Errorf("report %s (%v), want the status of resourceVersion 8", body, err)
	}
}

func TestBatchSizesAndGoals(t *testing.T) {
	for most, want := range map[int][]int{1: {1}, 100: {1, 10, 100}, 999: {1, 10, 100}, 1000: {1, 10, 100, 1000}} {
		if diff := cmp.Diff(want, batchSizes(most)); diff != "" {
			t.Errorf("up to %d (-want +got):\n%s", most, diff)
		}
	}
	for size, want := range map[int]report.Goal{10: {}, 100: report.AtMost(2), 1000: report.AtMost(4)} {
		if got := batchGoals(size); got != want {
			t.Errorf("goal of %d is %v, want %v", size, got, want)
		}
	}
}

func TestPlotsJoinTheRuns(t *testing.T) {
	ms := func(n ...int) (all []time.Duration) {
		for _, v := range n {
			all = append(all, time.Duration(v)*time.Millisecond)
		}
		return all
	}
	var one, two findings
	one.keep("10", ms(3, 1))
	one.keep("floor 10", ms(1))
	two.keep("10", ms(2))
	two.keep("100", ms(9))
	chart := plotBatch([]findings{one, two})
	want := [][]plot.Point{{{X: 10, Y: 2}, {X: 100, Y: 9}}, {{X: 10, Y: 1}}}
	for i, curve := range chart.Curves {
		if diff := cmp.Diff(want[i], curve.Points); diff != "" {
			t.Errorf("curve %s (-want +got):\n%s", curve.Name, diff)
		}
	}
	chart = distributions("t", plot.Log)([]findings{one, two})
	if len(chart.Curves) != 3 || len(chart.Curves[0].Points) != 3 || !chart.Curves[1].Dashed || chart.Curves[2].Dashed {
		t.Errorf("curves %+v, want the three values of 10, the floor in dashes, and 100", chart.Curves)
	}
}
