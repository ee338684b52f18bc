// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

const (
	// executorTimeout bounds one call of an executor.
	executorTimeout = time.Second

	// maxCalls bounds the calls in flight, and maxCallsOfPool those of one pool: executors that don't answer keep the others of
	// their own pool waiting at most.
	maxCalls       = 64
	maxCallsOfPool = 16
)

// Executor is what recycling needs of a task-executor.
type Executor interface {
	Recycle(ctx context.Context, id string) error
	Recycled(ctx context.Context) (taskexecutor.RecycleState, error)
}

// Dial connects to the executor of a pod.
type Dial func(ip string, pod types.UID) Executor

// Dialer returns a Dial whose calls are signed, and go over a transport that wrap may watch.
func Dialer(sign func(token.Call) (string, error), wrap func(http.RoundTripper) http.RoundTripper) Dial {
	base := taskexecutor.NewTransport()
	base.DisableKeepAlives = true // the executor exits
	transport := wrap(base)
	return func(ip string, pod types.UID) Executor {
		return taskexecutor.New(taskexecutor.BaseURL(ip), taskexecutor.WithTransport(transport), taskexecutor.WithTimeout(executorTimeout),
			taskexecutor.WithTokens(token.ForPod(sign, string(pod))))
	}
}

// call is one call of a pod's executor.
type call struct {
	pool types.NamespacedName
	pod  types.UID
	ip   string

	// recycling is the ID of the recycling the executor is asked to exit for; "" asks it whether it came back clean.
	recycling string

	// version is the resourceVersion of the pod that the call is about.
	version string
}

// answer is what came of a call.
type answer struct {
	call
	report taskexecutor.RecycleState
	err    error
}

// Calls makes the calls of executors outside of reconciles, and wakes the pool of each that was answered: an executor that
// doesn't answer keeps nobody waiting but itself. At most maxCalls are in flight, the pools take turns, and nothing runs
// while there are none. It is safe for concurrent use.
type Calls struct {
	ctx  context.Context //nolint:containedctx // the calls live as long as the process leads, not as a reconcile
	dial Dial
	wake func(pool types.NamespacedName)
	wg   sync.WaitGroup

	mu       sync.Mutex
	pools    map[types.NamespacedName]*poolCalls
	turns    []types.NamespacedName // of the pools that have calls waiting, the next one first
	inFlight int
}

// poolCalls are the calls of one pool.
type poolCalls struct {
	waiting  []call
	inFlight int
	pods     map[types.UID]struct{} // that have a call waiting or in flight
	answers  map[types.UID]answer   // that nobody took yet
}

// NewCalls returns Calls that end with ctx.
func NewCalls(ctx context.Context, wake func(pool types.NamespacedName), dial Dial) *Calls {
	return &Calls{ctx: ctx, dial: dial, wake: wake, pools: map[types.NamespacedName]*poolCalls{}}
}

// Wait returns when no call is in flight nor waiting: some time after the end of the context of NewCalls for good.
func (c *Calls) Wait() { c.wg.Wait() }

// make has a call made. A pod has one at a time: another one meanwhile is dropped, since its answer brings the pool back.
func (c *Calls) make(q call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pools[q.pool]
	if p == nil {
		p = &poolCalls{pods: map[types.UID]struct{}{}, answers: map[types.UID]answer{}}
		c.pools[q.pool] = p
	}
	if _, already := p.pods[q.pod]; already {
		return
	}
	p.pods[q.pod] = struct{}{}
	p.waiting = append(p.waiting, q)
	if len(p.waiting) == 1 {
		c.turns = append(c.turns, q.pool)
	}
	c.start()
}

// take returns the answers for a pool since it was last asked.
func (c *Calls) take(pool types.NamespacedName) map[types.UID]answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pools[pool]
	if p == nil || len(p.answers) == 0 {
		return nil
	}
	answers := p.answers
	p.answers = map[types.UID]answer{}
	c.forgetIdle(pool, p)
	return answers
}

// start starts the calls there is room for, pool by pool. It is called with the lock held.
func (c *Calls) start() {
	for c.inFlight < maxCalls && c.ctx.Err() == nil {
		at := slices.IndexFunc(c.turns, func(pool types.NamespacedName) bool { return c.pools[pool].inFlight < maxCallsOfPool })
		if at < 0 {
			return
		}
		pool := c.turns[at]
		p := c.pools[pool]
		q := p.waiting[0]
		p.waiting = p.waiting[1:]
		c.turns = slices.Delete(c.turns, at, at+1)
		if len(p.waiting) > 0 {
			c.turns = append(c.turns, pool)
		}
		c.inFlight++
		p.inFlight++
		c.wg.Go(func() { c.done(c.send(q)) })
	}
}

func (c *Calls) send(q call) answer {
	executor := c.dial(q.ip, q.pod)
	a := answer{call: q}
	if q.recycling != "" {
		a.err = executor.Recycle(c.ctx, q.recycling)
	} else {
		a.report, a.err = executor.Recycled(c.ctx)
	}
	return a
}

func (c *Calls) done(a answer) {
	c.mu.Lock()
	p := c.pools[a.pool]
	c.inFlight--
	p.inFlight--
	delete(p.pods, a.pod)
	p.answers[a.pod] = a
	c.start()
	c.mu.Unlock()
	c.wake(a.pool)
}

// forgetIdle drops what is known of a pool that has no call left. It is called with the lock held.
func (c *Calls) forgetIdle(pool types.NamespacedName, p *poolCalls) {
	if len(p.pods) == 0 && len(p.answers) == 0 {
		delete(c.pools, pool)
	}
}
