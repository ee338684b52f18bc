// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

const namespace = "ns"

// noon is when tests of time begin.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func makeBatch(name string) *wrappers.BatchWrapper {
	return wrappers.MakeBatch(namespace, name).Created(noon)
}

// Sandboxes of tests, by what they are.
func unseenSandbox(pod string) sandbox {
	return sandbox{podName: pod, podUID: types.UID("uid-" + pod), unseen: true}
}

func readySandbox(pod string) sandbox {
	return sandbox{podName: pod, podUID: "uid", ip: "10.0.0.1", node: "n", ready: true}
}

func startingSandbox(pod string) sandbox { return sandbox{podName: pod, podUID: "uid"} }

func lostSandbox(pod string) sandbox {
	return sandbox{podName: pod, podUID: "uid", ip: "10.0.0.1", node: "n", lost: true}
}

func goneSandbox(pod string) sandbox { return sandbox{podName: pod, lost: true, gone: true} }

// decided is the part of a plan that can be compared.
type decided struct {
	Expired          bool
	Problem          string
	Missing, Release []int
	Discard          []string
	LookAgain        time.Duration // after noon, 0 for never
}

func decidedOf(p plan) decided {
	d := decided{Expired: p.expired, Missing: append([]int(nil), p.missing...), Release: p.release}
	if p.problem != nil {
		d.Problem = p.problem.condition + "/" + p.problem.reason
	}
	for _, pod := range p.discard {
		d.Discard = append(d.Discard, pod.Name)
	}
	if !p.lookAgain.IsZero() {
		d.LookAgain = p.lookAgain.Sub(noon)
	}
	return d
}

func TestMakePlan(t *testing.T) {
	own := func() *wrappers.BatchWrapper { return makeBatch("b").Container("sandbox") }
	withTask := func() *wrappers.BatchWrapper { return own().Task("true") }
	failed := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "failed"}}
	going := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "going", DeletionTimestamp: &metav1.Time{Time: noon}}}
	lostAs := func(pod *corev1.Pod) sandbox { return sandbox{podName: pod.Name, podUID: "uid", lost: true, pod: pod} }
	cases := map[string]struct {
		obs  observed
		want decided
	}{
		"a new batch misses every index": {
			obs:  observed{sb: own().Replicas(3).Obj(), sandboxes: make([]sandbox, 3)},
			want: decided{Missing: []int{0, 1, 2}},
		},
		"a batch that has all it wants needs nothing": {
			obs: observed{sb: own().Replicas(2).Obj(), sandboxes: []sandbox{readySandbox("a"), startingSandbox("b")}},
		},
		"a batch of no replicas wants nothing": {obs: observed{sb: own().Replicas(0).Obj()}},
		"the highest indexes go first when replicas are lowered": {
			obs:  observed{sb: own().Replicas(1).Obj(), sandboxes: []sandbox{readySandbox("a"), readySandbox("b"), {}, lostSandbox("d")}},
			want: decided{Release: []int{1, 3}},
		},
		"a lost sandbox is replaced under its index": {
			obs:  observed{sb: own().Replicas(2).Obj(), sandboxes: []sandbox{readySandbox("a"), lostSandbox("b")}},
			want: decided{Missing: []int{1}},
		},
		"under Retain a lost sandbox is replaced though its task has ended": {
			obs: observed{
				sb: withTask().Obj(), sandboxes: []sandbox{lostSandbox("a")}, ends: map[int]taskEnd{0: {ok: true, recorded: true}},
			},
			want: decided{Missing: []int{0}},
		},
		"under Release a lost sandbox whose task has ended is not replaced": {
			obs: observed{
				sb: withTask().Releases().Replicas(2).Obj(), sandboxes: []sandbox{lostSandbox("a"), lostSandbox("b")},
				ends: map[int]taskEnd{0: {}, 1: {recorded: true}},
			},
			want: decided{Release: []int{1}},
		},
		"the batch is looked at again when the first try may begin that waits": {
			obs: observed{
				sb: withTask().Replicas(3).Obj(), sandboxes: []sandbox{readySandbox("a"), readySandbox("b"), readySandbox("c")},
				retries: retryMemory{0: {notBefore: noon.Add(time.Minute)}, 1: {notBefore: noon.Add(time.Second)}, 2: {notBefore: noon}},
			},
			want: decided{LookAgain: time.Second},
		},
		"a failed pod is deleted, one on its way out is left alone": {
			obs:  observed{sb: own().Replicas(2).Obj(), sandboxes: []sandbox{lostAs(failed), lostAs(going)}},
			want: decided{Missing: []int{0, 1}, Discard: []string{"failed"}},
		},
		"surplus pods are deleted": {
			obs:  observed{sb: own().Obj(), sandboxes: []sandbox{readySandbox("a")}, surplus: []*corev1.Pod{failed}},
			want: decided{Discard: []string{"failed"}},
		},
		"under Retain a sandbox stays when its task ended": {
			obs: observed{
				sb: withTask().Obj(), sandboxes: []sandbox{readySandbox("a")}, ends: map[int]taskEnd{0: {ok: true, recorded: true}},
			},
		},
		"under Release a sandbox goes when its task's end is recorded, and not before": {
			obs: observed{
				sb: withTask().Releases().Replicas(3).Obj(), sandboxes: []sandbox{readySandbox("a"), readySandbox("b"), readySandbox("c")},
				ends: map[int]taskEnd{0: {ok: true, recorded: true}, 1: {ok: true}},
			},
			want: decided{Release: []int{0}},
		},
		"an index given back under Release is not refilled": {
			obs: observed{
				sb: withTask().Releases().Replicas(2).Obj(), sandboxes: []sandbox{{}, {}}, ends: map[int]taskEnd{0: {recorded: true}},
			},
			want: decided{Missing: []int{1}},
		},
		"a mistake in the object keeps new pods from being made, and not old ones from going": {
			obs: observed{
				sb: own().Replicas(2).Obj(), sandboxes: []sandbox{{}, {}, readySandbox("c")},
				problem: &problem{condition: v1alpha1.ConditionReady, reason: v1alpha1.ReasonInvalidTask},
			},
			want: decided{Problem: "Ready/InvalidTask", Release: []int{2}},
		},
		"the batch is over at its expireTime": {
			obs: observed{sb: own().Expires(noon).Obj(), sandboxes: []sandbox{{}}}, want: decided{Expired: true},
		},
		"the batch is looked at again at its expireTime": {
			obs:  observed{sb: own().Expires(noon.Add(time.Hour)).Obj(), sandboxes: []sandbox{readySandbox("a")}},
			want: decided{LookAgain: time.Hour},
		},
		"the time to live begins when all tasks have ended": {
			obs: observed{
				sb:        withTask().TTL(60).Condition(v1alpha1.ConditionTasksCompleted, metav1.ConditionTrue, "TasksFailed", noon.Add(-59*time.Second)).Obj(),
				sandboxes: []sandbox{readySandbox("a")},
			},
			want: decided{LookAgain: time.Second},
		},
		"the batch is over when its time to live is": {
			obs: observed{
				sb: withTask().TTL(60).Condition(v1alpha1.ConditionTasksCompleted, metav1.ConditionTrue, "TasksFailed", noon.Add(-time.Minute)).Obj(),
			},
			want: decided{Expired: true},
		},
		"no time to live runs while tasks do": {
			obs: observed{
				sb:        withTask().TTL(0).Condition(v1alpha1.ConditionTasksCompleted, metav1.ConditionFalse, "TasksRunning", noon.Add(-time.Hour)).Obj(),
				sandboxes: []sandbox{readySandbox("a")},
			},
		},
		"the earlier of two times counts": {
			obs: observed{
				sb: withTask().TTL(60).Expires(noon.Add(time.Hour)).
					Condition(v1alpha1.ConditionTasksCompleted, metav1.ConditionTrue, "TasksFailed", noon).Obj(),
				sandboxes: []sandbox{readySandbox("a")},
			},
			want: decided{LookAgain: time.Minute},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.obs.now = noon
			if diff := cmp.Diff(c.want, decidedOf(makePlan(&c.obs))); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPlanDemand(t *testing.T) {
	pool := wrappers.MakePool(namespace, "p").Size(0, 3).Obj()
	going := wrappers.MakePool(namespace, "p").Obj()
	going.DeletionTimestamp = &metav1.Time{Time: noon}
	batch := func(replicas int32) *wrappers.BatchWrapper { return makeBatch("b").Pool("p").Replicas(replicas) }
	cases := map[string]struct {
		batch     *wrappers.BatchWrapper
		pool      *v1alpha1.Pool
		sandboxes []sandbox // the rest is missing
		after     time.Duration
		want      decided
	}{
		"all is asked of a pool that can give it": {batch: batch(3), pool: pool, want: decided{Missing: []int{0, 1, 2}}},
		"no pool":                     {batch: batch(2), want: decided{Problem: "Allocated/PoolNotFound"}},
		"a pool that is going":        {batch: batch(2), pool: going, want: decided{Problem: "Allocated/PoolTerminating"}},
		"a gang above poolMax":        {batch: batch(5).MinAvailable(4), pool: pool, want: decided{Problem: "Allocated/ExceedsPoolMax"}},
		"a gang as large as poolMax":  {batch: batch(3).MinAvailable(3), pool: pool, want: decided{Missing: []int{0, 1, 2}}},
		"a gang larger than replicas": {batch: batch(2).MinAvailable(9), pool: pool, want: decided{Missing: []int{0, 1}}},
		"what exceeds poolMax is not asked for": {
			batch: batch(5), pool: pool, want: decided{Missing: []int{0, 1, 2}},
		},
		"sandboxes held count against poolMax, lost ones don't": {
			batch: batch(5), pool: pool, sandboxes: []sandbox{readySandbox("a"), lostSandbox("b")}, want: decided{Missing: []int{1, 2}},
		},
		"a batch that has all the pool can ever give is told": {
			batch: batch(4), pool: pool, sandboxes: []sandbox{readySandbox("a"), readySandbox("b"), readySandbox("c")},
			want: decided{Problem: "Allocated/ExceedsPoolMax"},
		},
		"a wait that may last a while is looked at when it is over": {
			batch: batch(1).AllocationTimeout(60), pool: pool, after: 59 * time.Second,
			want: decided{Missing: []int{0}, LookAgain: time.Minute},
		},
		"a wait that is over fails": {
			batch: batch(1).AllocationTimeout(60), pool: pool, after: time.Minute, want: decided{Problem: "Allocated/AllocationTimedOut"},
		},
		"a batch that has all it wants needs no pool": {batch: batch(1), sandboxes: []sandbox{readySandbox("a")}},
		"a batch that has all it wants can't wait too long": {
			batch: batch(1).AllocationTimeout(1), pool: pool, after: time.Hour, sandboxes: []sandbox{readySandbox("a")},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sb := c.batch.Obj()
			obs := &observed{sb: sb, pool: c.pool, now: noon.Add(c.after), sandboxes: make([]sandbox, *sb.Spec.Replicas)}
			copy(obs.sandboxes, c.sandboxes)
			if diff := cmp.Diff(c.want, decidedOf(makePlan(obs))); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}
