// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
)

const (
	// sampleEvery is the time between two samples of every pool.
	sampleEvery = 2 * time.Second

	// maxSamples is how many samples of a pool are kept: 15 minutes of them, 7 KiB.
	maxSamples = 450

	// maxHistories is how many pools have a history: 7 MiB of them. The pools after those, by namespace and name, are shown without one.
	maxHistories = 1000
)

// sample is what a pool had at one moment.
type sample struct {
	held, idle, starting, waiting int32
}

// history is the samples of one pool, the last maxSamples of them.
type history struct {
	ring  [maxSamples]sample
	taken int // since the pool was first seen
}

func (h *history) add(s sample) {
	h.ring[h.taken%maxSamples] = s
	h.taken++
}

// at returns the sample of a number; it must be one that is kept.
func (h *history) at(number int) sample { return h.ring[number%maxSamples] }

// first is the number of the oldest sample that is kept.
func (h *history) first() int { return max(0, h.taken-maxSamples) }

// columns returns the history in columns of step samples, oldest first, at most count of them: of each column its last sample. A
// column begins at a multiple of step, so that between two multiples only the last one changes.
func (h *history) columns(step, count int) []sample {
	if h.taken == 0 {
		return nil
	}
	last := (h.taken - 1) / step
	var columns []sample
	for column := max(last-count+1, (h.first()+step-1)/step); column <= last; column++ {
		columns = append(columns, h.at(min((column+1)*step, h.taken)-1))
	}
	return columns
}

// recorder keeps the histories of all pools.
type recorder struct {
	mu    sync.Mutex
	pools map[types.NamespacedName]*history
}

func newRecorder() *recorder { return &recorder{pools: make(map[types.NamespacedName]*history)} }

// record takes a sample of each pool, and forgets pools that are no more.
func (r *recorder) record(pools []*v1alpha1.Pool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	live := make(map[types.NamespacedName]bool, len(pools))
	for _, pool := range pools {
		name := keyOf(pool)
		live[name] = true
		h := r.pools[name]
		if h == nil {
			if len(r.pools) >= maxHistories {
				continue
			}
			h = &history{}
			r.pools[name] = h
		}
		h.add(sampleOf(pool))
	}
	for name := range r.pools {
		if !live[name] {
			delete(r.pools, name)
		}
	}
}

func sampleOf(pool *v1alpha1.Pool) sample {
	s := &pool.Status
	return sample{held: s.Allocated, idle: s.Available, starting: s.Starting, waiting: s.Waiting}
}

// chart draws the history of a pool.
func (r *recorder) chart(pool *v1alpha1.Pool) chartView {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.pools[keyOf(pool)]
	if h == nil {
		h = &history{}
	}
	return newChart(h, pool.Spec.CapacitySpec)
}
