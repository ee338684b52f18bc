// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Kind is one way in which the proxy breaks things.
type Kind string

const (
	// Conflict answers a PUT or PATCH with 409 and doesn't send it on.
	Conflict Kind = "conflict"
	// TooManyRequests answers any request with 429 and Retry-After: 1, and doesn't send it on.
	TooManyRequests Kind = "tooManyRequests"
	// InternalError answers any request with 500, and doesn't send it on.
	InternalError Kind = "internalError"
	// LostReply answers 504 to a write that landed.
	LostReply Kind = "lostReply"
	// RepeatedWrite answers 500 with Retry-After: 1 to a write that landed: the client library repeats it, and conflicts with itself.
	RepeatedWrite Kind = "repeatedWrite"
	// CutReply closes the connection, without a reply, of a write that landed.
	CutReply Kind = "cutReply"
	// SlowReply holds the reply of anything but a watch back for a time from Options.Slow; a write has landed by then.
	SlowReply Kind = "slowReply"
	// StaleList answers a list that may come from any time (resourceVersion=0) with an earlier reply to the same list.
	StaleList Kind = "staleList"
	// ExpiredWatch answers 410 to the start of a watch from a resource version.
	ExpiredWatch Kind = "expiredWatch"
	// RefusedWatchList answers 422 to a watch that asks for what there is first (sendInitialEvents), as API servers do that
	// can't: the client lists instead, at resourceVersion=0, and so may meet a StaleList.
	RefusedWatchList Kind = "refusedWatchList"
	// WatchCut closes the connection of a watch.
	WatchCut Kind = "watchCut"
	// ExpiredEvent ends a watch by an ERROR event with 410.
	ExpiredEvent Kind = "expiredEvent"
	// DelayedEvent holds one event of a watch, and with it those behind it, back for a time from Options.EventDelay.
	DelayedEvent Kind = "delayedEvent"
)

// What is drawn together, in this order: one at most is met at a time. The order, and the place of each, decide what a seed
// draws.
var (
	perRequest = []Kind{Conflict, TooManyRequests, InternalError, LostReply, CutReply, SlowReply, StaleList, ExpiredWatch, RefusedWatchList, RepeatedWrite}
	perSpan    = []Kind{WatchCut, ExpiredEvent}
	perEvent   = []Kind{DelayedEvent}
)

// Rates say how often each kind of fault is injected, from 0 (never, as a kind that isn't named) to 1, each time that it could
// be: DelayedEvent at each event of a watch, WatchCut and ExpiredEvent at the end of each span of a watch's life (a time from
// Options.WatchLife, again and again), the others at each request.
type Rates struct {
	// Objects are the rates of all requests but those for leases.
	Objects map[Kind]float64
	// Leases are the rates of requests for leases, by which leaders are elected.
	Leases map[Kind]float64
}

// validate returns what is wrong with the rates.
func (r Rates) validate() error {
	if err := validate(r.Objects); err != nil {
		return fmt.Errorf("rates of objects: %w", err)
	}
	if err := validate(r.Leases); err != nil {
		return fmt.Errorf("rates of leases: %w", err)
	}
	return nil
}

func validate(rates map[Kind]float64) error {
	for kind, rate := range rates {
		if !slices.Contains(slices.Concat(perRequest, perSpan, perEvent), kind) {
			return fmt.Errorf("there is no fault %q", kind)
		}
		if !(rate >= 0 && rate <= 1) { // a NaN is neither
			return fmt.Errorf("the rate of %s must be from 0 to 1, not %v", kind, rate)
		}
	}
	for _, together := range [][]Kind{perRequest, perSpan} {
		sum := 0.0
		for _, kind := range together {
			sum += rates[kind]
		}
		if sum > 1+1e-9 { // tenths don't sum up exactly
			return fmt.Errorf("of %v one at most is met at a time, so they must not sum to more than 1, as %v does", together, sum)
		}
	}
	return nil
}

// of returns the rates for a request.
func (r Rates) of(req request) map[Kind]float64 {
	if req.isLease() {
		return r.Leases
	}
	return r.Objects
}

// Range is where durations are drawn from, evenly, both ends included.
type Range struct{ Min, Max time.Duration }

// at returns the duration at a share of the range, from 0 to 1.
func (r Range) at(share float64) time.Duration {
	return r.Min + time.Duration(share*float64(r.Max-r.Min))
}

// draw is what chance says about one request, whatever the rates are.
type draw struct {
	pick  float64    // which fault
	share float64    // how long it takes, within its range
	stale float64    // which of the earlier replies
	spans *rand.Rand // for the spans of a watch's life
	event *rand.Rand // for the events of a watch
}

// newDraw draws for the next request of a controller. It takes the same amount of chance for every request, so that those
// that follow don't depend on what this one is, nor on how long its watch lives and how many events it has.
func newDraw(source *rand.Rand) draw {
	return draw{
		pick: source.Float64(), share: source.Float64(), stale: source.Float64(),
		spans: rand.New(rand.NewPCG(source.Uint64(), source.Uint64())),
		event: rand.New(rand.NewPCG(source.Uint64(), source.Uint64())),
	}
}

// pickOf returns the kind that a pick falls into, or "" for none: the kinds stand side by side on the line from 0 to 1, each as
// wide as its rate.
func pickOf(kinds []Kind, rates map[Kind]float64, pick float64) Kind {
	for _, kind := range kinds {
		if pick < rates[kind] {
			return kind
		}
		pick -= rates[kind]
	}
	return ""
}

// choose returns the fault of a request, or "" for none: what the pick falls into, if the request can meet it.
//
//	| fault               | can meet it                                                  |
//	|---------------------|--------------------------------------------------------------|
//	| Conflict            | PUT, PATCH                                                   |
//	| TooManyRequests     | all                                                          |
//	| InternalError       | all                                                          |
//	| LostReply, CutReply | writes                                                       |
//	| RepeatedWrite       | writes                                                       |
//	| SlowReply           | all but watches                                              |
//	| StaleList           | lists at resourceVersion=0 that say nothing against old data |
//	| ExpiredWatch        | watches from a resource version                              |
//	| RefusedWatchList    | watches with sendInitialEvents                               |
func choose(req request, rates map[Kind]float64, pick float64) Kind {
	if kind := pickOf(perRequest, rates, pick); canMeet(req, kind) {
		return kind
	}
	return ""
}

// canMeet says whether a request can meet a fault, by the table above [choose].
func canMeet(req request, kind Kind) bool {
	switch kind {
	case TooManyRequests, InternalError:
		return true
	case Conflict:
		return req.verb == verbUpdate
	case LostReply, CutReply, RepeatedWrite:
		return req.isWrite()
	case SlowReply:
		return req.verb != verbWatch
	case StaleList:
		return req.anyVersion()
	case ExpiredWatch:
		return req.verb == verbWatch && req.version != "" && req.version != "0"
	case RefusedWatchList:
		return req.verb == verbWatch && req.initialEvents
	default:
		return false
	}
}
