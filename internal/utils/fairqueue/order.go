// SPDX-License-Identifier: Apache-2.0

package fairqueue

import (
	"sync"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// order decides which request is next: it is the storage of a client-go queue. That calls Push, Touch, Len and Pop one at a time;
// with announce and done it is safe for concurrent use.
type order struct {
	// most is how many requests of one namespace may be worked on at once.
	most int

	mu    sync.Mutex
	lines map[string]*line
	// turns are the namespaces of which a request can be taken, the next one first, each once.
	turns []string
	// announced are requests that are being added and are not in a line yet: whether they may be changed ones.
	announced map[reconcile.Request]bool
}

var _ workqueue.Queue[reconcile.Request] = (*order)(nil)

func newOrder(most int) *order {
	return &order{most: most, lines: map[string]*line{}, announced: map[reconcile.Request]bool{}}
}

// line is what waits of one namespace, and how much of it is worked on.
type line struct {
	changed []reconcile.Request
	// unchanged are in the order in which they came. Those that are not in isUnchanged any more have gone to changed.
	unchanged   []reconcile.Request
	isUnchanged map[reconcile.Request]struct{}

	running int
	// inTurn: the namespace is in turns.
	inTurn bool
}

func (l *line) waiting() int { return len(l.changed) + len(l.isUnchanged) }

func (l *line) take() (req reconcile.Request) {
	if len(l.changed) > 0 {
		req, l.changed = l.changed[0], l.changed[1:]
		return req
	}
	for {
		req, l.unchanged = l.unchanged[0], l.unchanged[1:]
		if _, here := l.isUnchanged[req]; here {
			delete(l.isUnchanged, req)
			return req
		}
	}
}

// announce says, before a request is added, whether its object may have changed. One that is worked on gets into its line when that is
// done.
func (o *order) announce(req reconcile.Request, changed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.announced[req] = o.announced[req] || changed
}

// arrive returns and forgets what was announced of a request. It is called with the lock held.
func (o *order) arrive(req reconcile.Request) (changed bool) {
	changed = o.announced[req]
	delete(o.announced, req)
	return changed
}

// Push adds a request that is in no line.
func (o *order) Push(req reconcile.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l, ok := o.lines[req.Namespace]
	if !ok {
		l = &line{isUnchanged: map[reconcile.Request]struct{}{}}
		o.lines[req.Namespace] = l
	}
	if o.arrive(req) {
		l.changed = append(l.changed, req)
	} else {
		l.unchanged = append(l.unchanged, req)
		l.isUnchanged[req] = struct{}{}
	}
	o.giveTurn(req.Namespace, l)
}

// Touch is called when a request is added that is in a line already.
func (o *order) Touch(req reconcile.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	changed := o.arrive(req)
	l := o.lines[req.Namespace]
	if _, late := l.isUnchanged[req]; late && changed {
		delete(l.isUnchanged, req)
		l.changed = append(l.changed, req)
	}
}

// Len is not 0 if there is a request to be taken. A namespace of which most are worked on has none.
func (o *order) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.turns)
}

// Pop takes the next request of the namespace whose turn it is. Len was not 0.
func (o *order) Pop() reconcile.Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	namespace := o.turns[0]
	o.turns = o.turns[1:]
	l := o.lines[namespace]
	l.inTurn = false
	l.running++
	req := l.take()
	o.giveTurn(namespace, l)
	return req
}

// done notes that a request of a namespace is worked on no more.
func (o *order) done(namespace string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.lines[namespace]
	l.running--
	if l.running == 0 && l.waiting() == 0 {
		delete(o.lines, namespace)
		return
	}
	o.giveTurn(namespace, l)
}

// giveTurn puts a namespace behind all others that have a turn, if it has something that may be taken. It is called with the lock
// held.
func (o *order) giveTurn(namespace string, l *line) {
	if !l.inTurn && l.waiting() > 0 && l.running < o.most {
		l.inTurn = true
		o.turns = append(o.turns, namespace)
	}
}

func (o *order) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, l := range o.lines {
		n += l.waiting()
	}
	return n
}
