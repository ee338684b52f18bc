// SPDX-License-Identifier: Apache-2.0

// Package fairqueue is a work queue of reconcile requests in which namespaces take turns: however much there is to do about the
// objects of one, it doesn't keep those of another waiting.
package fairqueue

import (
	"sync"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// reserveShare is the part of its workers that a controller has beside those that one namespace may keep busy: one for four, but at
// least one.
const reserveShare = 4

// Workers is the number of workers that a controller needs of which one namespace may keep concurrency busy.
func Workers(concurrency int) int { return concurrency + max(1, concurrency/reserveShare) }

// Queue is a work queue of a controller:
//
//   - Namespaces take turns. With n of them that have something to do, the k-th request in the line of one is taken after less than
//     k*n others.
//   - Of one namespace so many requests are worked on at once, and no more, however many workers are free: a request of another
//     namespace finds a worker, though those of the first be slow.
//   - Within a namespace those of the first list of objects, which nobody changed, come after all others.
//
// What is to come later, or failed, waits in controller-runtime's queue; what is due goes from there into the line of its namespace.
type Queue struct {
	priorityqueue.PriorityQueue[reconcile.Request] // those that are to come

	lines *workqueue.Typed[reconcile.Request] // those that are due: each once, and worked on once at a time
	order *order                              // of lines
	end   sync.Once
}

// New returns what makes the queue of a controller from its name and rate limiter, for controller.Options. most is how many requests
// of one namespace are worked on at once.
func New(most int) func(string, workqueue.TypedRateLimiter[reconcile.Request]) workqueue.TypedRateLimitingInterface[reconcile.Request] {
	return func(name string, limiter workqueue.TypedRateLimiter[reconcile.Request]) workqueue.TypedRateLimitingInterface[reconcile.Request] {
		return newQueue(name, limiter, most)
	}
}

func newQueue(name string, limiter workqueue.TypedRateLimiter[reconcile.Request], most int) *Queue {
	o := newOrder(most)
	q := &Queue{
		// Without a name it has no metrics: the lines have them.
		PriorityQueue: priorityqueue.New("", func(opts *priorityqueue.Opts[reconcile.Request]) { opts.RateLimiter = limiter }),
		lines:         workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[reconcile.Request]{Name: name, Queue: o}),
		order:         o,
	}
	go q.lineUp()
	return q
}

// lineUp moves what is due into its line until the queue is shut down.
func (q *Queue) lineUp() {
	for {
		req, priority, shutdown := q.PriorityQueue.GetWithPriority()
		if shutdown {
			return
		}
		q.order.announce(req, priority >= 0)
		q.lines.Add(req)
		q.PriorityQueue.Done(req)
	}
}

// Get waits for the next request. shutdown says that none will come.
func (q *Queue) Get() (req reconcile.Request, shutdown bool) {
	req, shutdown = q.lines.Get()
	if !shutdown && q.ShuttingDown() { // what still waits is left to the next process
		q.Done(req)
		return reconcile.Request{}, true
	}
	return req, shutdown
}

// GetWithPriority is Get. The priority is that of any request, so that one of the first list that is to be looked at again is one like
// others.
func (q *Queue) GetWithPriority() (req reconcile.Request, priority int, shutdown bool) {
	req, shutdown = q.Get()
	return req, 0, shutdown
}

// Done says that a request that Get returned is worked on no more.
func (q *Queue) Done(req reconcile.Request) {
	q.order.done(req.Namespace) // before its worker asks for the next one
	q.lines.Done(req)
}

// Len is the number of requests that wait for a worker.
func (q *Queue) Len() int { return q.PriorityQueue.Len() + q.order.waiting() }

// ShutDown makes Get return, whatever still waits.
func (q *Queue) ShutDown() {
	q.end.Do(func() {
		q.PriorityQueue.ShutDown() // which bears it once
		q.lines.ShutDown()
	})
}

// ShutDownWithDrain is ShutDown, as controller-runtime has it.
func (q *Queue) ShutDownWithDrain() { q.ShutDown() }
