// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"time"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
)

const (
	// calmAfter is how long batches must have taken nothing for a pool to be refilled as fast as it can be.
	calmAfter = time.Second

	// longestRest is how long a pool rests that has its whole buffer, in times of the create before.
	longestRest = 4
)

// refill is what tells when making pods takes something from deliveries. Lost with the process, it costs nothing.
type refill struct {
	// claimed is how many pods batches had been given when one was last, at claimedAt.
	claimed   int
	claimedAt time.Time

	// took is how long the last create took that was sent alone, madeAt when what followed it ended.
	took   time.Duration
	madeAt time.Time
}

func (r *refill) observe(claimed int, now time.Time) {
	if claimed != r.claimed {
		r.claimed, r.claimedAt = claimed, now
	}
}

func (r *refill) made(took time.Duration, now time.Time) { r.took, r.madeAt = took, now }

// yield is how a refill yields to deliveries, as one reconcile sees it.
type yield struct {
	// on says that batches take pods.
	on bool
	// urgent is how many pods are to be made at once all the same.
	urgent int
	// rest is how long the pool rests after a create, in times of that create.
	rest float64
	// wait is how long it still rests.
	wait time.Duration
}

// yield tells how a pool yields to deliveries:
//
//	reserve = a quarter of the buffer that the spec asks for + what batches take while a pod starts
//	rest    = longestRest x (buffer - reserve) / (what the spec asks for - reserve), between 0 and longestRest
//
// Every pod that is made costs the API server four writes, and the deliveries that come meanwhile their time. A pool has its buffer so
// that it can make them when there is time: the more is left of it the longer it rests.
func (r *refill) yield(now time.Time, spec v1alpha1.CapacitySpec, n scheduler.Counts, soon scheduler.Forecast) yield {
	if now.Sub(r.claimedAt) >= calmAfter {
		return yield{}
	}
	full := max(int(spec.BufferMin), int(spec.PoolMin)-n.Held)
	reserve := (full+3)/4 + soon.Target()
	spare := float64(n.Buffer()-reserve) / float64(max(1, full-reserve))
	y := yield{on: true, urgent: max(0, reserve-n.Buffer()), rest: longestRest * min(max(spare, 0), 1)}
	y.wait = max(0, r.restUntil(y.rest).Sub(now))
	return y
}

// restUntil is when a pool goes on that rests so many times as long as its last create took.
func (r *refill) restUntil(times float64) time.Time {
	return r.madeAt.Add(time.Duration(times * float64(r.took)))
}

// maxCreate is how many pods may be made now:
//
//	| batches take pods | buffer     | result                      |
//	| no                | -          | any number                  |
//	| yes               | < reserve  | what is missing of that     |
//	| yes               | >= reserve | one, if the pool has rested |
func (y yield) maxCreate() int {
	switch {
	case !y.on:
		return maxBurst
	case y.urgent > 0:
		return min(y.urgent, maxBurst)
	case y.wait > 0:
		return 0
	}
	return 1
}
