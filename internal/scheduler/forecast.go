// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"math"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// claimHalfLife is the time after which a claim weighs half as much in the claim rate. It is longer than most pods take to
// start, so that a steady stream is seen as one, and short enough that a burst is forgotten within minutes.
const claimHalfLife = time.Minute

// startSamples is the number of start times that the median is taken of.
const startSamples = 15

// Forecast is what the claims of the near future are judged by. The zero value predicts nothing.
type Forecast struct {
	// ClaimRate is the number of pods that batches take in a second.
	ClaimRate float64

	// StartTime is how long a new pod takes to be Ready.
	StartTime time.Duration
}

// Target is the buffer that lasts until pods made now are Ready:
//
//	target = claim rate x start time, rounded up
//
// This is Little's law: L = lambda x W, the pods on their way at any time in a pool that makes one for each that is taken.
// A smaller buffer runs dry while its replacement starts.
func (f Forecast) Target() int {
	n := math.Ceil(f.ClaimRate * f.StartTime.Seconds())
	if math.IsNaN(n) || n <= 0 {
		return 0
	}
	return int(min(n, math.MaxInt32))
}

func (f Forecast) String() string {
	return fmt.Sprintf("%.2g claims/s x %s to start", f.ClaimRate, f.StartTime)
}

// ClaimRate is an exponentially decaying rate. The zero value is that of a pool nobody has taken from.
//
//	rate(t) = sum over claims of ln(2)/halfLife x 2^-(age/halfLife)
//
// so that a steady stream of r claims a second comes to r, after one half-life to r/2 and after two to 3r/4.
type ClaimRate struct {
	claims    int // seen so far
	perSecond float64
	at        time.Time
}

// Observe takes over how many claims there were in all, now. A number below the last one is a count that began anew.
func (c *ClaimRate) Observe(claims int, now time.Time) {
	if claims == c.claims {
		return
	}
	since := claims - c.claims
	if since < 0 {
		since = claims
	}
	c.perSecond = c.At(now) + float64(since)*math.Ln2/claimHalfLife.Seconds()
	c.claims, c.at = claims, now
}

// At is the rate now, in claims per second.
func (c *ClaimRate) At(now time.Time) float64 {
	age := max(0, now.Sub(c.at))
	return c.perSecond * math.Exp2(-age.Seconds()/claimHalfLife.Seconds())
}

// median of the samples, 0 if there are none; of an even number the smaller of the two in the middle. One slow start (a
// pull of a new image) does not move it, and half of the samples does.
func median(samples []time.Duration) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Clone(samples)
	slices.Sort(sorted)
	return sorted[(len(sorted)-1)/2]
}

// Activity is what has happened in a pool since the ledger knows it.
type Activity struct {
	// Claimed is how many pods batches were given.
	Claimed int

	// Started is how often a pod of the current revision became Ready, recycled pods apart. It never goes down while the
	// pool has pods.
	Started int

	// StartTime is the median time from creation to Ready of the pods made last, 15 at most; 0 while none is known.
	StartTime time.Duration
}

// Activity tells what has happened in a pool.
func (l *Ledger) Activity(name types.NamespacedName) Activity {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pools[name]
	if !ok {
		return Activity{}
	}
	return Activity{Claimed: p.claimed, Started: p.started, StartTime: median(p.startTimes)}
}

// noteStart counts a pod that became Ready, and how long it took if this process made it.
func (p *pool) noteStart(e *entry, before Pod) {
	if known := before.Name != ""; !known || before.State != PodStarting || before.Recycling || e.pod.State != PodReady {
		return
	}
	if p.isUpdated(e.pod) {
		p.started++
	}
	if !e.fresh {
		return
	}
	e.fresh = false
	if len(p.startTimes) == startSamples {
		p.startTimes = p.startTimes[1:]
	}
	p.startTimes = append(p.startTimes, e.pod.StartTime)
}
