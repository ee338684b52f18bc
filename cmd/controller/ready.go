// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// syncPatience bounds how long a probe waits for the caches.
const syncPatience = 200 * time.Millisecond

var (
	errNotSynced  = errors.New("the caches are not filled yet: see the log for what can't be listed")
	errNotRebuilt = errors.New("leads, and has not rebuilt the ledger yet: see the log for why")
)

// readiness says whether a controller could do what it is there for: the leader to hand out sandboxes, others to lead.
//
//	| caches filled | leads | ledger rebuilt | ready |
//	|---------------|-------|----------------|-------|
//	| no            |       |                | no    |
//	| yes           | no    |                | yes   |
//	| yes           | yes   | no             | no    |
//	| yes           | yes   | yes            | yes   |
type readiness struct {
	// synced waits until all caches are filled, or the context is done.
	synced func(context.Context) bool
	// elected is closed when this controller leads, rebuilt when it may hand out.
	elected, rebuilt <-chan struct{}
}

// check answers a probe.
func (r readiness) check(req *http.Request) error {
	ctx, cancel := context.WithTimeout(req.Context(), syncPatience)
	defer cancel()
	switch {
	case !r.synced(ctx):
		return errNotSynced
	case closed(r.elected) && !closed(r.rebuilt):
		return errNotRebuilt
	}
	return nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
