// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"opensandbox.io/controller/api/v1alpha1"
)

// noLimits leaves the decision to the capacity spec.
var noLimits = Limits{MaxStarting: -1, MaxCreate: -1, MaxDelete: -1}

func spec(bufferMin, bufferMax, poolMin, poolMax int32) v1alpha1.CapacitySpec {
	return v1alpha1.CapacitySpec{BufferMin: bufferMin, BufferMax: bufferMax, PoolMin: poolMin, PoolMax: poolMax}
}

func TestPlanCapacity(t *testing.T) {
	with := func(change func(*Limits)) Limits {
		l := noLimits
		change(&l)
		return l
	}
	tests := map[string]struct {
		spec   v1alpha1.CapacitySpec
		counts Counts
		limits Limits
		want   CapacityPlan
	}{
		"an empty pool is filled to the middle of the band": {
			spec: spec(2, 6, 0, 10), limits: noLimits,
			want: CapacityPlan{Create: 4, Limited: LimitNone, Reason: "create 4 pods: buffer 0 is below bufferMin 2, target is 4"},
		},
		"a buffer inside the band is left alone": {
			spec: spec(2, 6, 0, 10), counts: Counts{Idle: 2}, limits: noLimits,
			want: CapacityPlan{Limited: LimitNone},
		},
		"pods that start count as supply": {
			spec: spec(2, 6, 0, 10), counts: Counts{Starting: 4}, limits: noLimits,
			want: CapacityPlan{Limited: LimitNone},
		},
		"what batches wait for is made on top of the buffer": {
			spec: spec(2, 2, 0, 20), counts: Counts{Held: 3, Waiting: 5}, limits: noLimits,
			want: CapacityPlan{Create: 7, Limited: LimitNone, Reason: "create 7 pods: buffer -5 is below bufferMin 2, target is 2"},
		},
		"held and unusable pods are no buffer": {
			spec: spec(1, 1, 0, 20), counts: Counts{Held: 4, Unusable: 2}, limits: noLimits,
			want: CapacityPlan{Create: 1, Limited: LimitNone, Reason: "create 1 pod: buffer 0 is below bufferMin 1, target is 1"},
		},
		"a prediction above the middle raises the target": {
			spec: spec(2, 6, 0, 10), limits: with(func(l *Limits) { l.Forecast = Forecast{ClaimRate: 0.5, StartTime: 10 * time.Second} }),
			want: CapacityPlan{Create: 5, Limited: LimitNone, Reason: "create 5 pods: buffer 0 is below bufferMin 2, target is 5 (0.5 claims/s x 10s to start)"},
		},
		"a prediction below the middle changes nothing": {
			spec: spec(2, 6, 0, 10), limits: with(func(l *Limits) { l.Forecast = Forecast{ClaimRate: 0.3, StartTime: 10 * time.Second} }),
			want: CapacityPlan{Create: 4, Limited: LimitNone, Reason: "create 4 pods: buffer 0 is below bufferMin 2, target is 4"},
		},
		"a prediction makes no pods while the buffer is inside the band": {
			spec: spec(2, 6, 0, 10), counts: Counts{Idle: 2}, limits: with(func(l *Limits) { l.Forecast = Forecast{ClaimRate: 9, StartTime: time.Minute} }),
			want: CapacityPlan{Limited: LimitNone},
		},
		"a prediction above the band is cut to bufferMax": {
			spec: spec(2, 6, 0, 10), limits: with(func(l *Limits) { l.Forecast = Forecast{ClaimRate: 10, StartTime: 5 * time.Second} }),
			want: CapacityPlan{Create: 6, Limited: LimitNone, Reason: "create 6 pods: buffer 0 is below bufferMin 2, target is 6 (10 claims/s x 5s to start)"},
		},
		"poolMin is reached even where the buffer is full": {
			spec: spec(0, 1, 5, 10), counts: Counts{Idle: 2}, limits: noLimits,
			want: CapacityPlan{Create: 3, Limited: LimitNone, Reason: "create 3 pods: total 2 is below poolMin 5"},
		},
		"poolMax cuts a create and says so": {
			spec: spec(4, 4, 0, 5), counts: Counts{Held: 3}, limits: noLimits,
			want: CapacityPlan{
				Create: 2, Limited: LimitPoolMax,
				Reason: "create 2 pods: buffer 0 is below bufferMin 4, target is 4, limited by poolMax 5",
			},
		},
		"pods that are going still take room under poolMax": {
			spec: spec(2, 2, 0, 3), counts: Counts{Held: 1, Terminating: 2}, limits: noLimits,
			want: CapacityPlan{Limited: LimitPoolMax, Reason: "create no pods: buffer 0 is below bufferMin 2, limited by poolMax 3"},
		},
		"poolMax that leaves bufferMin but not the target is no limit worth telling": {
			spec: spec(1, 5, 0, 2), limits: noLimits,
			want: CapacityPlan{Create: 2, Limited: LimitNone, Reason: "create 2 pods: buffer 0 is below bufferMin 1, target is 3"},
		},
		"as many pods as may start at once do": {
			spec: spec(8, 8, 0, 10), counts: Counts{Starting: 1}, limits: with(func(l *Limits) { l.MaxStarting = 3 }),
			want: CapacityPlan{
				Create: 2, Limited: LimitStarting,
				Reason: "create 2 pods: buffer 1 is below bufferMin 8, target is 8, limited to 3 starting at once",
			},
		},
		"more pods start than may after the limit was lowered: none is made": {
			spec: spec(8, 8, 0, 10), counts: Counts{Starting: 4}, limits: with(func(l *Limits) { l.MaxStarting = 3 }),
			want: CapacityPlan{Limited: LimitStarting, Reason: "create no pods: buffer 4 is below bufferMin 8, limited to 3 starting at once"},
		},
		"a burst is cut, and there is more to do": {
			spec: spec(8, 8, 0, 10), limits: with(func(l *Limits) { l.MaxCreate = 3 }),
			want: CapacityPlan{
				Create: 3, Partial: true, Limited: LimitNone, Reason: "create 3 pods: buffer 0 is below bufferMin 8, target is 8",
			},
		},
		"a burst of none says that something is needed": {
			spec: spec(1, 1, 0, 10), limits: with(func(l *Limits) { l.MaxCreate = 0 }),
			want: CapacityPlan{Partial: true, Limited: LimitNone, Reason: "create no pods: buffer 0 is below bufferMin 1"},
		},
		"a pause of creates says why": {
			spec: spec(1, 1, 0, 10), limits: with(func(l *Limits) { l.MaxCreate, l.CreatePause = 0, "the API server refuses them" }),
			want: CapacityPlan{
				Partial: true, Limited: LimitNone, Reason: "create no pods: buffer 0 is below bufferMin 1, but the API server refuses them",
			},
		},
		"a pause of deletes says why": {
			spec: spec(0, 1, 0, 10), counts: Counts{Idle: 3}, limits: with(func(l *Limits) { l.MaxDelete, l.DeletePause = 0, "the last ones failed" }),
			want: CapacityPlan{
				Partial: true, Limited: LimitNone, Reason: "delete no pods: buffer 3 is above bufferMax 1, but the last ones failed",
			},
		},
		"a buffer above its maximum is cut to it": {
			spec: spec(1, 3, 0, 10), counts: Counts{Idle: 4, Starting: 1, Held: 2}, limits: noLimits,
			want: CapacityPlan{Delete: 2, Limited: LimitNone, Reason: "delete 2 pods: buffer 5 is above bufferMax 3"},
		},
		"idle pods that batches wait for are no surplus": {
			spec: spec(1, 3, 0, 10), counts: Counts{Idle: 5, Waiting: 3}, limits: noLimits,
			want: CapacityPlan{Limited: LimitNone},
		},
		"poolMin keeps pods that the buffer doesn't need": {
			spec: spec(0, 1, 4, 10), counts: Counts{Idle: 6}, limits: noLimits,
			want: CapacityPlan{Delete: 2, Limited: LimitNone, Reason: "delete 2 pods: buffer 6 is above bufferMax 1"},
		},
		"a lowered poolMax deletes idle pods even inside the band": {
			spec: spec(2, 5, 0, 6), counts: Counts{Idle: 3, Held: 5}, limits: noLimits,
			want: CapacityPlan{Delete: 2, Limited: LimitNone, Reason: "delete 2 pods: total 8 is above poolMax 6"},
		},
		"a poolMax below what is held deletes no held pod": {
			spec: spec(0, 5, 0, 2), counts: Counts{Idle: 1, Held: 5}, limits: noLimits,
			want: CapacityPlan{Delete: 1, Limited: LimitNone, Reason: "delete 1 pod: total 6 is above poolMax 2"},
		},
		"a large delete is cut, and there is more to do": {
			spec: spec(0, 0, 0, 20), counts: Counts{Idle: 9}, limits: with(func(l *Limits) { l.MaxDelete = 4 }),
			want: CapacityPlan{Delete: 4, Partial: true, Limited: LimitNone, Reason: "delete 4 pods: buffer 9 is above bufferMax 0"},
		},
		"pods on cordoned nodes are no buffer, and are kept where there is room": {
			spec: spec(2, 2, 0, 10), counts: Counts{Unusable: 3, Cordoned: 3}, limits: with(func(l *Limits) { l.MaxMove = 9 }),
			want: CapacityPlan{Create: 2, Limited: LimitNone, Reason: "create 2 pods: buffer 0 is below bufferMin 2, target is 2"},
		},
		"a full pool deletes as many pods on cordoned nodes as are missing": {
			spec: spec(2, 2, 0, 4), counts: Counts{Held: 1, Unusable: 3, Cordoned: 3}, limits: with(func(l *Limits) { l.MaxMove = 9 }),
			want: CapacityPlan{
				DeleteStranded: 2, Limited: LimitPoolMax,
				Reason: "delete 2 pods on cordoned nodes: buffer 0 is below bufferMin 2, target is 2, and poolMax 4 leaves no room",
			},
		},
		"room that is coming is waited for": {
			spec: spec(2, 2, 0, 4), counts: Counts{Unusable: 3, Cordoned: 3, Terminating: 1}, limits: with(func(l *Limits) { l.MaxMove = 9 }),
			want: CapacityPlan{
				DeleteStranded: 1, Limited: LimitPoolMax,
				Reason: "delete 1 pod on cordoned nodes: buffer 0 is below bufferMin 2, target is 2, and poolMax 4 leaves no room",
			},
		},
		"pods whose deletion is stuck make no room": {
			spec: spec(1, 1, 0, 4), counts: Counts{Unusable: 2, Cordoned: 2, Terminating: 2, Stuck: 2}, limits: with(func(l *Limits) { l.MaxMove = 9 }),
			want: CapacityPlan{
				DeleteStranded: 1, Limited: LimitPoolMax,
				Reason: "delete 1 pod on cordoned nodes: buffer 0 is below bufferMin 1, target is 1, and poolMax 4 leaves no room",
			},
		},
		"pods on nodes that are not Ready are not deleted for room: they would not go": {
			spec: spec(2, 2, 0, 4), counts: Counts{Unusable: 4, Away: 4}, limits: with(func(l *Limits) { l.MaxMove = 9 }),
			want: CapacityPlan{Limited: LimitPoolMax, Reason: "create no pods: buffer 0 is below bufferMin 2, limited by poolMax 4"},
		},
		"only so many pods move at once": {
			spec: spec(4, 4, 0, 8), counts: Counts{Starting: 1, Unusable: 7, Cordoned: 7}, limits: with(func(l *Limits) { l.MaxMove = 2 }),
			want: CapacityPlan{
				DeleteStranded: 1, Limited: LimitPoolMax,
				Reason: "delete 1 pod on cordoned nodes: buffer 1 is below bufferMin 4, target is 4, and poolMax 8 leaves no room",
			},
		},
		"none moves while none may be made": {
			spec: spec(4, 4, 0, 4), counts: Counts{Unusable: 4, Cordoned: 4}, limits: with(func(l *Limits) { l.MaxMove, l.MaxCreate = 2, 0 }),
			want: CapacityPlan{Limited: LimitPoolMax, Reason: "create no pods: buffer 0 is below bufferMin 4, limited by poolMax 4"},
		},
		"a lowered poolMax deletes stranded pods first": {
			spec: spec(2, 5, 0, 6), counts: Counts{Idle: 3, Held: 3, Unusable: 1, Away: 1}, limits: noLimits,
			want: CapacityPlan{DeleteStranded: 1, Limited: LimitNone, Reason: "delete 1 pod: total 7 is above poolMax 6"},
		},
		"a lowered poolMax deletes idle pods where stranded ones don't do": {
			spec: spec(2, 5, 0, 5), counts: Counts{Idle: 3, Held: 3, Unusable: 1, Cordoned: 1}, limits: with(func(l *Limits) { l.MaxDelete = 2 }),
			want: CapacityPlan{Delete: 1, DeleteStranded: 1, Limited: LimitNone, Reason: "delete 2 pods: total 7 is above poolMax 5"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, PlanCapacity(tt.spec, tt.counts, tt.limits)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func drawSpec(t *rapid.T) v1alpha1.CapacitySpec {
	size := rapid.Int32Range(0, 40)
	bufferMin, poolMin := size.Draw(t, "bufferMin"), size.Draw(t, "poolMin")
	return spec(bufferMin, bufferMin+size.Draw(t, "bufferSpan"), poolMin, poolMin+size.Draw(t, "poolSpan"))
}

func drawCounts(t *rapid.T) Counts {
	n := rapid.IntRange(0, 50)
	counts := Counts{
		Idle: n.Draw(t, "idle"), Starting: n.Draw(t, "starting"), Held: n.Draw(t, "held"),
		Unusable: n.Draw(t, "unusable"), Terminating: n.Draw(t, "terminating"), Waiting: n.Draw(t, "waiting"),
		Cordoned: rapid.IntRange(0, 20).Draw(t, "cordoned"), Away: rapid.IntRange(0, 20).Draw(t, "away"),
	}
	counts.Unusable += counts.Stranded()
	counts.Stuck = rapid.IntRange(0, counts.Terminating).Draw(t, "stuck")
	return counts
}

func drawLimits(t *rapid.T) Limits {
	n := rapid.IntRange(-1, 30)
	return Limits{
		Forecast:    Forecast{ClaimRate: rapid.Float64Range(0, 10).Draw(t, "claimRate"), StartTime: 10 * time.Second},
		MaxStarting: n.Draw(t, "maxStarting"),
		MaxCreate:   n.Draw(t, "maxCreate"), MaxDelete: n.Draw(t, "maxDelete"),
		Owed: max(0, n.Draw(t, "owed")), MaxMove: max(0, n.Draw(t, "maxMove")),
	}
}

// brokenRule names the first invariant that a plan breaks; "" if it keeps them all.
func brokenRule(c v1alpha1.CapacitySpec, n Counts, l Limits, p CapacityPlan) string {
	poolMin, poolMax, bufferMax := int(c.PoolMin), int(c.PoolMax), int(c.BufferMax)
	buffer := n.Idle + n.Starting - n.Waiting
	switch {
	case p.Create < 0 || p.Delete < 0 || p.DeleteStranded < 0:
		return "negative numbers"
	case p.Create > 0 && p.Delete+p.DeleteStranded > 0:
		return "creates and deletes at once"
	case p.DeleteStranded > n.Stranded():
		return "deletes more stranded pods than there are"
	case p.DeleteStranded > 0 && n.Total() <= poolMax && p.DeleteStranded > n.Cordoned:
		return "deletes pods that don't go to make room"
	case p.DeleteStranded > 0 && n.Total() <= poolMax && n.Total()+n.Terminating < poolMax && l.MaxStarting < 0:
		return "deletes stranded pods while there is room"
	case p.DeleteStranded > 0 && n.Total() <= poolMax && n.Starting+p.DeleteStranded > l.MaxMove:
		return "moves more than may move"
	case p.Delete > 0 && n.Total()-poolMax > 0 && p.DeleteStranded < min(n.Stranded(), n.Total()-poolMax):
		return "deletes idle pods before stranded ones"
	case p.Create > 0 && n.Total()+n.Terminating+p.Create > poolMax:
		return "creates above poolMax"
	case p.Create > 0 && l.MaxStarting >= 0 && n.Starting+p.Create > l.MaxStarting:
		return "starts more than may start"
	case l.MaxCreate >= 0 && p.Create > l.MaxCreate, l.MaxDelete >= 0 && p.Delete+p.DeleteStranded > l.MaxDelete:
		return "more than the burst"
	case p.Create > l.Owed && buffer+l.Owed >= int(c.BufferMin) && n.Total() >= poolMin:
		return "creates what nothing needs"
	case p.Create > 0 && buffer+p.Create > bufferMax && n.Total()+p.Create > poolMin:
		return "creates above the band"
	case p.Delete > n.Idle+n.Starting:
		return "deletes held pods"
	case p.Delete > 0 && buffer <= bufferMax && n.Total() <= poolMax:
		return "deletes what is not too much"
	case p.Delete > 0 && n.Total()-p.Delete-p.DeleteStranded < poolMin:
		return "deletes below poolMin"
	case p.Delete > 0 && buffer-p.Delete < bufferMax && n.Total()-p.Delete-p.DeleteStranded < poolMax:
		return "deletes more than is too much"
	case (p.Create > 0 || p.Delete+p.DeleteStranded > 0 || p.Partial || p.Limited != LimitNone) != (p.Reason != ""):
		return "a reason without a deed or a bound, or one of those without a reason"
	default:
		return ""
	}
}

func TestPlanCapacityKeepsItsRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, n, l := drawSpec(t), drawCounts(t), drawLimits(t)
		plan := PlanCapacity(c, n, l)
		if broken := brokenRule(c, n, l, plan); broken != "" {
			t.Fatalf("%s: %+v of %+v in %+v with %+v", broken, plan, n, c, l)
		}
	})
}

// step lets the world do what it does: pods start, batches are served, deleted pods go.
func step(n *Counts, plan CapacityPlan) {
	fromStarting := min(plan.Delete, n.Starting)
	n.Starting -= fromStarting
	n.Idle -= plan.Delete - fromStarting
	n.Idle += n.Starting
	n.Starting = plan.Create
	n.Terminating = plan.Delete + plan.DeleteStranded
	fromCordoned := min(plan.DeleteStranded, n.Cordoned)
	n.Cordoned -= fromCordoned
	n.Away -= plan.DeleteStranded - fromCordoned
	n.Unusable -= plan.DeleteStranded
	served := min(n.Idle, n.Waiting)
	n.Idle, n.Held, n.Waiting = n.Idle-served, n.Held+served, n.Waiting-served
}

func TestPlanCapacitySettlesInsideTheBand(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, n, l := drawSpec(t), drawCounts(t), drawLimits(t)
		n.Unusable, n.Away, n.Stuck = n.Cordoned, 0, 0
		l.MaxMove = max(1, l.MaxMove)
		for _, most := range []*int{&l.MaxStarting, &l.MaxCreate, &l.MaxDelete} {
			if *most == 0 {
				*most = 1 // a pool that may do nothing settles nowhere
			}
		}
		const most = 500
		quiet := 0
		for range most {
			plan := PlanCapacity(c, n, l)
			if plan.Create == 0 && plan.Delete == 0 && plan.DeleteStranded == 0 {
				quiet++
			} else {
				quiet = 0
			}
			step(&n, plan)
			if quiet > 2 {
				break
			}
		}
		if quiet <= 2 {
			t.Fatalf("still creates or deletes after %d steps: %+v in %+v", most, n, c)
		}
		full := n.Total() >= int(c.PoolMax)
		if n.Buffer() < int(c.BufferMin) && n.Cordoned > 0 {
			t.Fatalf("settled with too small a buffer and pods on cordoned nodes: %+v in %+v", n, c)
		}
		if n.Buffer() < int(c.BufferMin) && !full {
			t.Fatalf("settled with too small a buffer: %+v in %+v", n, c)
		}
		if n.Buffer() > int(c.BufferMax) && n.Total() > int(c.PoolMin) {
			t.Fatalf("settled with too large a buffer: %+v in %+v", n, c)
		}
		if n.Total() < int(c.PoolMin) {
			t.Fatalf("settled below poolMin: %+v in %+v", n, c)
		}
	})
}

func FuzzPlanCapacity(f *testing.F) {
	f.Add(int32(1), int32(3), int32(0), int32(10), 0, 0, 0, 0, 0, -1)
	f.Add(int32(2147483647), int32(2147483647), int32(0), int32(2147483647), 3, 1, 2, 4, 7, 5)
	f.Fuzz(func(t *testing.T, bufferMin, bufferMax, poolMin, poolMax int32, idle, starting, held, terminating, waiting, most int) {
		for _, n := range []int{int(bufferMin), int(poolMin), idle, starting, held, terminating, waiting} {
			if n < 0 || n > 1<<31 {
				t.Skip("counts are not negative and fit an API object")
			}
		}
		c := spec(bufferMin, max(bufferMin, bufferMax), poolMin, max(poolMin, poolMax))
		n := Counts{Idle: idle, Starting: starting, Held: held, Terminating: terminating, Waiting: waiting}
		l := Limits{MaxStarting: most, MaxCreate: most, MaxDelete: most}
		if broken := brokenRule(c, n, l, PlanCapacity(c, n, l)); broken != "" {
			t.Fatalf("%s: %+v in %+v with %+v", broken, n, c, l)
		}
	})
}

func ExamplePlanCapacity() {
	plan := PlanCapacity(spec(2, 4, 0, 10), Counts{Idle: 1, Held: 5}, noLimits)
	fmt.Println(plan.Reason)
	// Output: create 2 pods: buffer 1 is below bufferMin 2, target is 3
}
