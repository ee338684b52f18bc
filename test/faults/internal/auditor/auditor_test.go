// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

// want is one finding, without its words.
type want struct {
	Kind    Kind
	Objects []string
}

func one(k Kind, objects ...string) []want { return []want{{k, objects}} }

type cases map[string]struct {
	tell func(*story)
	want []want
}

func (all cases) run(t *testing.T) {
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			s := newStory()
			c.tell(s)
			var got []want
			for _, f := range s.audit() {
				got = append(got, want{f.Kind, f.Objects})
				if f.Sentence == "" || len(f.Revisions) == 0 {
					t.Errorf("%+v doesn't say what happened, or when", f)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s\n%+v", diff, s.audit())
			}
		})
	}
}

func TestPodsHeldTwice(t *testing.T) {
	both := one(DoublyHeld, "Pod default/x", "BatchSandbox default/a", "BatchSandbox default/b")
	ready := func(s *story) {
		s.makePool("p", 2)
		s.makePods("p", "x", "y")
		s.ask("a", "p")
		s.ask("b", "p")
		s.name("a", "x")
	}
	cases{
		"two live batches name one pod": {func(s *story) { ready(s); s.name("b", "x") }, both},
		"two batches name a pod each":   {func(s *story) { ready(s); s.name("b", "y") }, nil},
		"the second names it while the first is deleted and has its finalizer": {func(s *story) {
			ready(s)
			s.del("BatchSandbox", "a")
			s.name("b", "x")
		}, both},
		"the second names it after somebody else's finalizer alone keeps the first, whose pool is Noop": {func(s *story) {
			ready(s)
			s.editPool("p", recycles(v1alpha1.RecycleNoop))
			s.del("BatchSandbox", "a")
			s.editBatch("a", func(sb *v1alpha1.BatchSandbox) { sb.Finalizers = []string{"somebody.else/finalizer"} })
			s.name("b", "x")
		}, nil},
		"for a moment only": {func(s *story) { ready(s); s.name("b", "x"); s.name("b", "y") }, both},
		"the pod of the same name in another namespace": {func(s *story) {
			ready(s)
			s.add(wrappers.MakeBatch("other", "c").Pool("p").AllocStatus(`{"pods":["x"]}`).Obj())
		}, nil},
		"one batch names a pod at two indexes": {func(s *story) { ready(s); s.name("a", "x", "x") },
			one(DoublyHeld, "Pod default/x", "BatchSandbox default/a")},
		"one batch names a pod at another index": {func(s *story) { ready(s); s.name("a", "", "x") }, nil},
		"an annotation that can't be read lets nothing go": {func(s *story) {
			ready(s)
			s.editBatch("a", func(sb *v1alpha1.BatchSandbox) { sb.Annotations[v1alpha1.AllocStatusAnnotation] = "{" })
			s.name("b", "x")
		}, both},
	}.run(t)
}

func TestFindingsComeInTheOrderOfTheChangesThatShowThem(t *testing.T) {
	cases{
		"a leak that is seen in the end, and a double hold later in the history": {func(s *story) {
			s.makePool("p", 2)
			s.makePods("p", "y")
			s.ask("a", "p")
			s.ask("b", "p")
			s.name("a", "y")
			s.name("b", "y")
			s.makePool("gone", 1)
			s.makePods("gone", "z")
			s.remove("Pool", "gone")
			s.name("b", "y", "y")
			s.rest()
		}, []want{
			{DoublyHeld, []string{"Pod default/y", "BatchSandbox default/a", "BatchSandbox default/b"}},
			{Leaked, []string{"Pod default/z"}},
			{DoublyHeld, []string{"Pod default/y", "BatchSandbox default/b"}},
		}},
	}.run(t)
}

func TestCreatesAbovePoolMax(t *testing.T) {
	lower := func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax, p.Spec.CapacitySpec.BufferMax = 2, 2 }
	over := one(AbovePoolMax, "Pool default/p", "Pod default/z")
	cases{
		"as many as poolMax": {func(s *story) { s.makePool("p", 3); s.makePods("p", "x", "y", "z") }, nil},
		"one more":           {func(s *story) { s.makePool("p", 2); s.makePods("p", "x", "y", "z") }, over},
		"one more while one is being deleted": {func(s *story) {
			s.makePool("p", 2)
			s.makePods("p", "x", "y")
			s.del("Pod", "x")
			s.makePods("p", "z")
		}, over},
		"one more after one is gone": {func(s *story) {
			s.makePool("p", 2)
			s.makePods("p", "x", "y")
			s.remove("Pod", "x")
			s.makePods("p", "z")
		}, nil},
		"a moment after poolMax was lowered": {func(s *story) {
			s.makePool("p", 3)
			s.makePods("p", "x", "y")
			s.editPool("p", lower)
			s.makePods("p", "z")
		}, nil},
		"long after poolMax was lowered": {func(s *story) {
			s.makePool("p", 3)
			s.makePods("p", "x", "y")
			s.editPool("p", lower)
			s.pass(6 * time.Second)
			s.makePods("p", "z")
		}, over},
		"pods that were there before": {func(s *story) {
			s.makePool("p", 1)
			s.makePods("p", "x", "y")
			for i := range s.history {
				s.history[i].Initial = true
			}
		}, nil},
	}.run(t)
}

func TestDirtyPods(t *testing.T) {
	dirty := one(DirtyHandedOut, "Pod default/x", "BatchSandbox default/a", "BatchSandbox default/b")
	used := func(s *story, how v1alpha1.RecycleType) {
		s.makePool("p", 2, recycles(how))
		s.makePods("p", "x", "y")
		s.ask("a", "p")
		s.ask("b", "p")
		s.name("a", "x")
	}
	cases{
		"released without a mark": {func(s *story) {
			used(s, v1alpha1.RecycleRestart)
			s.name("a", "")
			s.name("b", "x")
		}, dirty},
		"released without a mark by a batch that goes": {func(s *story) {
			used(s, v1alpha1.RecycleRestart)
			s.del("BatchSandbox", "a")
			s.letGo("a")
			s.name("b", "x")
		}, dirty},
		"deleted in spite of its finalizer, in the moment in which it got the pod": {func(s *story) {
			used(s, v1alpha1.RecycleRestart)
			s.remove("BatchSandbox", "a")
			s.name("b", "x")
		}, nil},
		"deleted in spite of its finalizer, later": {func(s *story) {
			used(s, v1alpha1.RecycleRestart)
			s.pass(2 * time.Second)
			s.remove("BatchSandbox", "a")
			s.name("b", "x")
		}, dirty},
		"released without a mark under Noop": {func(s *story) {
			used(s, v1alpha1.RecycleNoop)
			s.name("a", "")
			s.name("b", "x")
		}, nil},
		"marked, restarted, proven clean": {func(s *story) {
			used(s, v1alpha1.RecycleRestart)
			s.mark("x", "a")
			s.name("a", "")
			s.restart("x", "sandbox", "task-executor")
			s.unmark("x")
			s.name("b", "x")
		}, nil},
		"given while it is marked": {func(s *story) {
			used(s, v1alpha1.RecycleRestart)
			s.mark("x", "a")
			s.name("a", "")
			s.restart("x", "sandbox", "task-executor")
			s.name("b", "x")
		}, dirty},
		"unmarked though one container is the old one": {func(s *story) {
			used(s, v1alpha1.RecycleRestart)
			s.mark("x", "a")
			s.name("a", "")
			s.restart("x", "sandbox")
			s.unmark("x")
			s.name("b", "x")
		}, dirty},
		"its mark names other containers than it had": {func(s *story) {
			used(s, v1alpha1.RecycleRestart)
			s.mark("x", "a")
			s.editPod("x", func(p *corev1.Pod) {
				p.Annotations[v1alpha1.RecyclingAnnotation] = `{"batch":"` + string(s.batch("a").UID) + `","containers":{"sandbox":"another"}}`
			})
			s.name("a", "")
			s.unmark("x")
			s.name("b", "x")
		}, dirty},
		"its mark is that of another batch": {func(s *story) {
			used(s, v1alpha1.RecycleRestart)
			s.mark("x", "b")
			s.name("a", "")
			s.restart("x", "sandbox", "task-executor")
			s.unmark("x")
			s.name("b", "x")
		}, dirty},
		"given to its last user again": {func(s *story) {
			used(s, v1alpha1.RecycleRestart)
			s.name("a", "")
			s.name("a", "", "x")
		}, nil},
		"another pod of its name": {func(s *story) {
			used(s, v1alpha1.RecycleDelete)
			s.remove("Pod", "x")
			s.name("a", "")
			s.makePods("p", "x")
			s.name("b", "x")
		}, nil},
		"released long after its pool was Noop": {func(s *story) {
			used(s, v1alpha1.RecycleNoop)
			s.editPool("p", recycles(v1alpha1.RecycleDelete))
			s.pass(6 * time.Second)
			s.name("a", "")
			s.name("b", "x")
		}, dirty},
		"released a moment after its pool was Noop": {func(s *story) {
			used(s, v1alpha1.RecycleNoop)
			s.editPool("p", recycles(v1alpha1.RecycleDelete))
			s.name("a", "")
			s.name("b", "x")
		}, nil},
	}.run(t)
}

func TestOvertakenBatches(t *testing.T) {
	overtaken := one(Overtaken, "BatchSandbox default/a", "BatchSandbox default/b")
	// a asked before b; nothing is idle, and then there is x.
	waiting := func(s *story, edits ...func(*wrappers.BatchWrapper)) {
		s.makePool("p", 1)
		s.ask("a", "p", edits...)
		s.ask("b", "p")
		s.queue("a", "b")
		s.pass(10 * time.Second)
		s.makePods("p", "x")
	}
	later := func(s *story) { s.pass(16 * time.Second) }
	cases{
		"the older is served first":   {func(s *story) { waiting(s); s.name("a", "x"); later(s) }, nil},
		"the younger is served first": {func(s *story) { waiting(s); s.name("b", "x"); later(s) }, overtaken},
		"the younger is served first, and nobody had long enough to see why": {func(s *story) {
			waiting(s)
			s.name("b", "x")
			s.pass(10 * time.Second)
		}, nil},
		"the older has been served, and doesn't tell it yet": {func(s *story) {
			waiting(s)
			s.name("a", "x")
			s.editPool("p", func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax = 2; p.Status.Total = 2 })
			s.makePods("p", "y")
			s.name("b", "y")
			later(s)
		}, nil},
		"the younger has the higher priority": {func(s *story) {
			s.makePool("p", 1)
			s.ask("a", "p")
			s.ask("b", "p", func(b *wrappers.BatchWrapper) { b.Priority(1) })
			s.queue("b", "a")
			s.pass(10 * time.Second)
			s.makePods("p", "x")
			s.name("b", "x")
			later(s)
		}, nil},
		"the older has the lower priority and is served first": {func(s *story) {
			s.makePool("p", 1)
			s.ask("b", "p")
			s.ask("a", "p", func(b *wrappers.BatchWrapper) { b.Priority(1) })
			s.queue("a", "b")
			s.pass(10 * time.Second)
			s.makePods("p", "x")
			s.name("b", "x")
			later(s)
		}, overtaken},
		"the older has told its place for a moment only": {func(s *story) {
			s.makePool("p", 1)
			s.makePods("p", "x")
			s.ask("a", "p")
			s.ask("b", "p")
			s.queue("a")
			s.name("b", "x")
			later(s)
		}, nil},
		"the older waits for another pool": {func(s *story) {
			s.makePool("q", 0)
			waiting(s, func(b *wrappers.BatchWrapper) { b.Pool("q") })
			s.name("b", "x")
			later(s)
		}, nil},
		"the older is a gang for which pods are kept": {func(s *story) {
			waiting(s, func(b *wrappers.BatchWrapper) { b.Replicas(2).MinAvailable(2) })
			s.editPool("p", func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax = 2; p.Status.Total = 2 })
			s.makePods("p", "y")
			s.name("b", "y")
			s.remove("Pod", "x")
			s.editPool("p", func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax = 1 })
			later(s)
		}, overtaken},
		"the older doesn't tell a place, for its demand can't be met": {func(s *story) {
			waiting(s, func(b *wrappers.BatchWrapper) { b.Replicas(2).MinAvailable(2) })
			s.status("a", func(status *v1alpha1.BatchSandboxStatus) { status.Queue = nil })
			s.name("b", "x")
			later(s)
		}, nil},
		"the write for the older was on its way": {func(s *story) {
			waiting(s)
			s.editPool("p", func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax = 2; p.Status.Total = 2 })
			s.makePods("p", "y")
			s.name("b", "y")
			s.name("a", "x")
			later(s)
		}, nil},
		"the older gets a pod that was not there yet": {func(s *story) {
			waiting(s)
			s.editPool("p", func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax = 2; p.Status.Total = 2 })
			s.name("b", "x")
			s.makePods("p", "y")
			s.name("a", "y")
			later(s)
		}, overtaken},
		"the older was edited a moment ago": {func(s *story) {
			waiting(s)
			s.editSpec("a", func(spec *v1alpha1.BatchSandboxSpec) { spec.Priority = ptr.To(int32(1)) })
			s.name("b", "x")
			later(s)
		}, nil},
		"the younger was edited a moment ago": {func(s *story) {
			waiting(s)
			s.editSpec("b", func(spec *v1alpha1.BatchSandboxSpec) { spec.Priority = ptr.To(int32(-1)) })
			s.name("b", "x")
			later(s)
		}, nil},
		"the older is deleted meanwhile": {func(s *story) {
			waiting(s)
			s.name("b", "x")
			s.letGo("a")
			later(s)
		}, nil},
	}.run(t)
}

func TestLeakedPods(t *testing.T) {
	leaked := one(Leaked, "Pod default/x")
	ready := func(s *story) { s.makePool("p", 2); s.makePods("p", "x") }
	madeBy := func(s *story) {
		s.ask("a", "")
		s.makePods("", "x")
		s.editPod("x", func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "BatchSandbox", Name: "a", UID: s.batch("a").UID, Controller: ptr.To(true)}}
		})
	}
	cases{
		"a pod of a pool":              {func(s *story) { ready(s); s.rest() }, nil},
		"a pod of a pool that is gone": {func(s *story) { ready(s); s.remove("Pool", "p"); s.rest() }, leaked},
		"a pod that is being deleted, of a pool that is gone": {func(s *story) {
			ready(s)
			s.remove("Pool", "p")
			s.del("Pod", "x")
			s.rest()
		}, nil},
		"a sandbox in use, of a pool that is gone": {func(s *story) {
			ready(s)
			s.ask("a", "p")
			s.name("a", "x")
			s.remove("Pool", "p")
			s.rest()
		}, nil},
		"a pod of a pool that went a moment ago": {func(s *story) { ready(s); s.rest(); s.remove("Pool", "p") }, nil},
		"a pod with the labels of a batch that doesn't name it": {func(s *story) {
			ready(s)
			s.editPod("x", label(v1alpha1.BatchNameLabel, "a"))
			s.rest()
		}, leaked},
		"a pod with the labels of the batch that names it": {func(s *story) {
			ready(s)
			s.ask("a", "p")
			s.name("a", "x")
			s.editPod("x", label(v1alpha1.BatchNameLabel, "a"))
			s.rest()
		}, nil},
		"a pod of a batch that is there": {func(s *story) { madeBy(s); s.rest() }, nil},
		"a pod of a batch that is gone":  {func(s *story) { madeBy(s); s.letGo("a"); s.rest() }, leaked},
		"a pod that its pool doesn't count": {func(s *story) {
			ready(s)
			s.editPool("p", func(p *v1alpha1.Pool) { p.Status.Total = 0 })
			s.rest()
		}, one(Leaked, "Pool default/p")},
		"a pod that its pool counts": {func(s *story) {
			ready(s)
			s.editPool("p", func(p *v1alpha1.Pool) { p.Status.Total = 1 })
			s.rest()
		}, nil},
	}.run(t)
}
