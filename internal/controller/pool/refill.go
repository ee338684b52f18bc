// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"time"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
)

const (
	// slowCreate is how long a create takes that an API server answers which has more to do than it can.
	slowCreate = 10 * time.Millisecond

	// calmAfter is how long batches must have taken nothing for a pool to be refilled as fast as it can be.
	calmAfter = time.Second
)

// refill is what tells whether making pods takes something from deliveries. Lost with the process, it costs nothing.
type refill struct {
	// claimed is how many pods batches had been given when one was last, at claimedAt.
	claimed   int
	claimedAt time.Time

	// took is how long the last create took that was sent alone; next is when the pool may make another one while it yields.
	took time.Duration
	next time.Time
}

func (r *refill) observe(claimed int, now time.Time) {
	if claimed != r.claimed {
		r.claimed, r.claimedAt = claimed, now
	}
}

// made notes that a create took so long, and that what followed it ended now. The pool rests for as long as the create took.
func (r *refill) made(took time.Duration, now time.Time) { r.took, r.next = took, now.Add(took) }

// yield says whether the pool yields to deliveries, and how long until it may make a pod all the same.
func (r *refill) yield(now time.Time) yield {
	return yield{
		on:   r.took >= slowCreate && now.Sub(r.claimedAt) < calmAfter,
		wait: max(0, r.next.Sub(now)),
	}
}

// yield is a refill as one reconcile sees it.
type yield struct {
	on   bool
	wait time.Duration
}

// maxCreate is how many pods may be made now:
//
//	| batches take pods, and creates are slow | buffer   | result                        |
//	| no                                      | -        | any number                    |
//	| yes                                     | < enough | what is missing of that       |
//	| yes                                     | enough   | one, if the last was long ago |
//
// where enough is half of what the spec asks for, and what batches take while a pod starts. Every pod that is made costs the API server four
// writes and the deliveries that come meanwhile their time. A pool has its buffer so that it can make them when there is time.
func (y yield) maxCreate(spec v1alpha1.CapacitySpec, n scheduler.Counts, soon scheduler.Forecast) int {
	if !y.on {
		return maxBurst
	}
	buffer := max(int(spec.BufferMin), int(spec.PoolMin)-n.Held)
	enough := (buffer+1)/2 + soon.Target()
	urgent := enough - n.Buffer()
	if y.wait == 0 {
		urgent = max(urgent, 1)
	}
	return max(0, min(urgent, maxBurst))
}
