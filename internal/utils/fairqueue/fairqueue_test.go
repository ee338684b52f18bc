// SPDX-License-Identifier: Apache-2.0

package fairqueue

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func request(namespace string, name any) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: fmt.Sprint(name)}}
}

// push adds a request to an order, as one whose object changed.
func (o *order) push(req reconcile.Request) {
	o.announce(req, true)
	o.Push(req)
}

// popAll takes all requests, each worked on before the next.
func (o *order) popAll() []string {
	var got []string
	for o.Len() > 0 {
		req := o.Pop()
		o.done(req.Namespace)
		got = append(got, req.String())
	}
	return got
}

func TestOneRequestIsTakenBeforeTheSecondOfAnotherNamespace(t *testing.T) {
	o := newOrder(4)
	for i := range 5000 {
		o.push(request("hostile", i))
	}
	o.push(request("victim", "a"))
	o.push(request("victim", "b"))
	if diff := cmp.Diff([]string{"hostile/0", "victim/a", "hostile/1", "victim/b", "hostile/2"}, o.popAll()[:5]); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if len(o.lines) != 0 || len(o.turns) != 0 || len(o.announced) != 0 {
		t.Errorf("left over: %d lines, turns %v, announced %v", len(o.lines), o.turns, o.announced)
	}
}

func TestWhatNobodyChangedComesLastInItsNamespaceUntilSomebodyChangesIt(t *testing.T) {
	o := newOrder(4)
	for _, name := range []string{"old1", "old2", "old3"} {
		o.announce(request("a", name), false)
		o.Push(request("a", name))
	}
	o.push(request("a", "new"))
	o.announce(request("a", "old2"), true)
	o.Touch(request("a", "old2"))
	o.announce(request("a", "old3"), false)
	o.Touch(request("a", "old3"))
	o.announce(request("b", "old"), false)
	o.Push(request("b", "old"))
	want := []string{"a/new", "b/old", "a/old2", "a/old1", "a/old3"}
	if diff := cmp.Diff(want, o.popAll()); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestARequestThatChangesWhileItIsWorkedOnComesAsAChangedOne(t *testing.T) {
	o := newOrder(4)
	o.push(request("a", "other"))
	o.announce(request("a", "x"), true) // both come while it is worked on
	o.announce(request("a", "x"), false)
	o.announce(request("a", "old"), false)
	o.Push(request("a", "old"))
	o.Push(request("a", "x"))
	if diff := cmp.Diff([]string{"a/other", "a/x", "a/old"}, o.popAll()); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

// waiter is a request in a line, as the test knows it.
type waiter struct {
	place  int // in its line, from 1
	others int // taken since it came
	most   int // namespaces that had something to do at once since then
}

// model checks an order against what it promises.
type model struct {
	*order
	t       *rapid.T
	waiting map[reconcile.Request]*waiter
	running []reconcile.Request
}

func (m *model) busy(namespace string) (n int) {
	for _, req := range m.running {
		if req.Namespace == namespace {
			n++
		}
	}
	return n
}

func (m *model) active() int {
	namespaces := map[string]bool{}
	for req := range m.waiting {
		namespaces[req.Namespace] = true
	}
	return len(namespaces)
}

func (m *model) add(req reconcile.Request) {
	if _, here := m.waiting[req]; here {
		return
	}
	place := 1
	for other := range m.waiting {
		if other.Namespace == req.Namespace {
			place++
		}
	}
	m.waiting[req] = &waiter{place: place}
	m.push(req)
	m.note()
}

func (m *model) note() {
	n := m.active()
	for _, w := range m.waiting {
		w.most = max(w.most, n)
	}
}

func (m *model) take() {
	could := false
	for req := range m.waiting {
		could = could || m.busy(req.Namespace) < m.order.most
	}
	if (m.Len() > 0) != could {
		m.t.Fatalf("Len is %d, though a request can be taken: %v", m.Len(), could)
	}
	if !could {
		return
	}
	req := m.Pop()
	w, here := m.waiting[req]
	if !here {
		m.t.Fatalf("%s was taken and doesn't wait", req)
	}
	if m.order.most > 1000 && w.others >= w.place*w.most {
		m.t.Fatalf("%s at place %d waited for %d others with %d namespaces", req, w.place, w.others, w.most)
	}
	delete(m.waiting, req)
	for _, other := range m.waiting {
		other.others++
	}
	if m.running = append(m.running, req); m.busy(req.Namespace) > m.order.most {
		m.t.Fatalf("%d of namespace %s are worked on, at most %d may be", m.busy(req.Namespace), req.Namespace, m.order.most)
	}
}

func (m *model) end() {
	if len(m.running) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.running)-1).Draw(m.t, "which")
	m.done(m.running[i].Namespace)
	m.running = slices.Delete(m.running, i, i+1)
}

// Whatever comes in whatever order: each request is taken once, of no namespace too many are worked on, whoever may be taken is, and
// where there are workers enough nobody waits for more than its share.
func TestWhatTheOrderPromisesHoldsInAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, order: newOrder(rapid.SampledFrom([]int{1, 2, 1 << 20}).Draw(t, "most")), waiting: map[reconcile.Request]*waiter{}}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				m.add(request(rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "namespace"), rapid.IntRange(0, 9).Draw(t, "name")))
			},
			"take": func(*rapid.T) { m.take() },
			"end":  func(*rapid.T) { m.end() },
		})
		for len(m.waiting)+len(m.running) > 0 {
			m.take()
			m.end()
		}
		if len(m.lines) != 0 || len(m.announced) != 0 {
			t.Fatalf("left over: %d lines, announced %v", len(m.lines), m.announced)
		}
	})
}

// --- the queue ----------------------------------------------------------------------------------------------

// most is how many requests of a namespace are worked on at once in these tests.
const most = 2

// inQueue runs a test with a queue.
func inQueue(t *testing.T, f func(t *testing.T, q *Queue)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q, ok := New(most)("", workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, time.Hour)).(*Queue)
		if !ok {
			t.Fatal("not a Queue")
		}
		defer q.ShutDown()
		f(t, q)
	})
}

// worker takes requests until the queue is shut down, and works on each until it is let go.
type worker struct {
	took chan string
	free chan struct{}
}

func work(q *Queue) worker {
	w := worker{make(chan string), make(chan struct{})}
	go func() {
		for {
			req, shutdown := q.Get()
			if shutdown {
				close(w.took)
				return
			}
			w.took <- req.String()
			<-w.free
			q.Done(req)
		}
	}()
	return w
}

// next is what a worker takes, "" if it finds nothing.
func (w worker) next() string {
	synctest.Wait()
	select {
	case name := <-w.took:
		return name
	default:
		return ""
	}
}

func TestANamespaceWhoseRequestsTakeForEverLeavesAWorkerToOthers(t *testing.T) {
	inQueue(t, func(t *testing.T, q *Queue) {
		var workers []worker
		for range Workers(most) {
			workers = append(workers, work(q))
		}
		for i := range 10 {
			q.Add(request("slow", i))
		}
		synctest.Wait()
		var busy []worker
		var free worker
		for _, w := range workers {
			if w.next() != "" {
				busy = append(busy, w)
			} else {
				free = w
			}
		}
		if len(busy) != most {
			t.Fatalf("%d of %d workers work for one namespace, want 2", len(busy), len(workers))
		}
		if got := q.Len(); got != 8 {
			t.Errorf("%d wait, want 8", got)
		}
		q.Add(request("victim", "a"))
		if got := free.next(); got != "victim/a" {
			t.Errorf("the free worker took %q", got)
		}
		busy[0].free <- struct{}{}
		if got := busy[0].next(); got != "slow/2" {
			t.Errorf("the worker that is done took %q", got)
		}
		close(free.free)
		close(busy[0].free)
		close(busy[1].free)
		q.ShutDown()
		for _, w := range workers {
			for range w.took {
				continue // until it has ended
			}
		}
	})
}

func TestARequestIsTakenOnceWhoeverAddsItAndHoweverOften(t *testing.T) {
	inQueue(t, func(t *testing.T, q *Queue) {
		w := work(q)
		q.AddAfter(request("a", "x"), time.Minute)
		q.Add(request("a", "x"))
		q.AddWithOpts(priorityqueue.AddOpts{Priority: new(-100)}, request("a", "x"))
		if got := w.next(); got != "a/x" {
			t.Fatalf("took %q", got)
		}
		q.Add(request("a", "x"))
		q.Add(request("a", "x"))
		w.free <- struct{}{}
		if got := w.next(); got != "a/x" {
			t.Errorf("took %q, want what came meanwhile", got)
		}
		w.free <- struct{}{}
		time.Sleep(time.Hour)
		if got := w.next(); got != "" {
			t.Errorf("took %q a minute later, though it was taken before that", got)
		}
	})
}

func TestWhatIsToComeLaterOrFailedComesWhenItIsTime(t *testing.T) {
	inQueue(t, func(t *testing.T, q *Queue) {
		w := work(q)
		q.AddWithOpts(priorityqueue.AddOpts{After: time.Minute, Priority: new(-100)}, request("a", "later"))
		q.AddRateLimited(request("a", "failed"))
		if got := w.next(); got != "" {
			t.Fatalf("took %q at once", got)
		}
		time.Sleep(time.Second)
		if got := w.next(); got != "a/failed" || q.NumRequeues(request("a", "failed")) != 1 {
			t.Errorf("took %q after a second", got)
		}
		w.free <- struct{}{}
		time.Sleep(time.Minute)
		if got := w.next(); got != "a/later" {
			t.Errorf("took %q after a minute", got)
		}
		close(w.free)
	})
}

func TestShutDownLeavesWhatWaits(t *testing.T) {
	inQueue(t, func(t *testing.T, q *Queue) {
		for i := range 10 {
			q.Add(request("a", i))
		}
		synctest.Wait()
		q.ShutDown()
		if req, shutdown := q.Get(); !shutdown {
			t.Errorf("took %s after the shutdown", req)
		}
		if _, _, shutdown := q.GetWithPriority(); !shutdown {
			t.Error("took something after the shutdown")
		}
	})
}

func TestWorkers(t *testing.T) {
	for concurrency, want := range map[int]int{1: 2, 3: 4, 4: 5, 16: 20, 32: 40} {
		if got := Workers(concurrency); got != want {
			t.Errorf("Workers(%d) = %d, want %d", concurrency, got, want)
		}
	}
}
