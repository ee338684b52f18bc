// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

// model is a controller that makes no mistake, of one pool: it delivers, releases, recycles and deletes in the right order.
type model struct {
	*story
	t       *rapid.T
	poolMax int
	how     v1alpha1.RecycleType
	idle    []string
	dirty   []string // marked
	queue   []string // batches, in the order in which they are to be served
	holds   map[string]string
	names   int
	made    int // pods that are there
}

func (m *model) next(prefix string) string {
	m.names++
	return fmt.Sprintf("%s-%03d", prefix, m.names)
}

func (m *model) pick(from []string) string { return rapid.SampledFrom(from).Draw(m.t, "of") }

func (m *model) holding() []string {
	var all []string
	for b := range m.holds {
		all = append(all, b)
	}
	slices.Sort(all)
	return all
}

// fill makes pods as long as the pool has room.
func (m *model) fill() {
	for m.made < m.poolMax {
		pod := m.next("pod")
		m.makePods("p", pod)
		m.idle = append(m.idle, pod)
		m.made++
	}
}

// serve gives idle pods to who waits, in turn.
func (m *model) serve() {
	for len(m.queue) > 0 && len(m.idle) > 0 {
		b, pod := m.queue[0], m.idle[0]
		m.queue, m.idle = m.queue[1:], m.idle[1:]
		m.name(b, pod)
		m.status(b, func(s *v1alpha1.BatchSandboxStatus) { s.Queue = nil })
		m.holds[b] = pod
		if m.batch(b).Spec.TaskTemplate != nil {
			m.run(b, 1, pod, rapid.SampledFrom([]string{"Completed", "NonZeroExit"}).Draw(m.t, "how"))
			if m.marks[len(m.marks)-1].How == "Completed" {
				m.succeeded(b)
			} else {
				m.failed(b, "NonZeroExit")
			}
		}
	}
}

func (m *model) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"ask": func(*rapid.T) {
			b := m.next("batch")
			priority := rapid.Int32Range(0, 1).Draw(m.t, "priority")
			var edits []func(*wrappers.BatchWrapper)
			if rapid.Bool().Draw(m.t, "with a task") {
				edits = append(edits, withTask(0))
			}
			m.ask(b, "p", append(edits, func(w *wrappers.BatchWrapper) { w.Priority(priority) })...)
			at := slices.IndexFunc(m.queue, func(other string) bool { return precedes(m.batch(b), m.batch(other)) })
			if at < 0 {
				at = len(m.queue)
			}
			m.queue = slices.Insert(m.queue, at, b)
			m.serve()
			if slices.Contains(m.queue, b) {
				m.story.queue(b)
			}
		},
		"wait": func(*rapid.T) { m.pass(10 * time.Second) },
		"release": func(t *rapid.T) {
			if len(m.holds) == 0 {
				t.Skip("nobody holds anything")
			}
			m.release(m.pick(m.holding()))
			m.fill()
			m.serve()
		},
		"recycle": func(t *rapid.T) {
			if len(m.dirty) == 0 {
				t.Skip("nothing is dirty")
			}
			pod := m.dirty[0]
			m.dirty = m.dirty[1:]
			m.restart(pod, "sandbox", "task-executor")
			m.unmark(pod)
			m.idle = append(m.idle, pod)
			m.serve()
		},
		"lose an idle pod": func(t *rapid.T) {
			if len(m.idle) == 0 {
				t.Skip("nothing is idle")
			}
			m.del("Pod", m.idle[0])
			m.remove("Pod", m.idle[0])
			m.idle = m.idle[1:]
			m.made--
			m.fill()
			m.serve()
		},
	}
}

// release makes the pod fit as the pool says, before the batch goes.
func (m *model) release(b string) {
	pod := m.holds[b]
	delete(m.holds, b)
	m.del("BatchSandbox", b)
	switch m.how {
	case v1alpha1.RecycleNoop:
		m.letGo(b)
		m.idle = append(m.idle, pod)
	case v1alpha1.RecycleRestart:
		m.mark(pod, b)
		m.letGo(b)
		m.dirty = append(m.dirty, pod)
	default:
		m.del("Pod", pod)
		m.letGo(b)
		m.remove("Pod", pod)
		m.made--
	}
}

func newModel(t *rapid.T) *model {
	m := &model{story: newStory(), t: t, holds: map[string]string{}}
	m.poolMax = rapid.IntRange(1, 3).Draw(t, "poolMax")
	m.how = rapid.SampledFrom([]v1alpha1.RecycleType{v1alpha1.RecycleDelete, v1alpha1.RecycleRestart, v1alpha1.RecycleNoop}).Draw(t, "type")
	m.makePool("p", int32(m.poolMax), recycles(m.how))
	m.fill()
	return m
}

func TestInnocentHistoriesHaveNoFinding(t *testing.T) {
	delivered := 0
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		t.Repeat(m.actions())
		for len(m.dirty) > 0 {
			m.actions()["recycle"](t)
		}
		m.rest()
		findings := m.audit()
		for _, f := range findings {
			t.Errorf("%s %v at %v: %s", f.Kind, f.Objects, f.Revisions, f.Sentence)
		}
		delivered += Summarize(m.history, m.marks, findings).Deliveries
	})
	if delivered == 0 {
		t.Error("no history delivered anything")
	}
}

func TestAHistoryIsJudgedTheSameInWhateverOrderItComes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		t.Repeat(m.actions())
		m.name(m.asked(), "pod-999") // a fault, so that there is something to compare
		m.name(m.asked(), "pod-999")
		want := fmt.Sprint(m.audit())
		m.history = History(rapid.Permutation(m.history).Draw(t, "order"))
		if got := fmt.Sprint(m.audit()); got != want {
			t.Errorf("findings %s, and %s in another order", want, got)
		}
	})
}

// asked makes one more batch.
func (m *model) asked() string {
	b := m.next("batch")
	m.ask(b, "p")
	return b
}
