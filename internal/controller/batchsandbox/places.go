// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"time"

	"k8s.io/utils/clock"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
)

const (
	// placesPace is how long after a change of a queue the batches in it tell their places anew, so that a burst of
	// changes is told once. With the write that follows it stays well within a second.
	placesPace = 500 * time.Millisecond

	// placesPerTurn is the greatest number of batches, of all queues together, that tell their place anew in one turn: 100 a
	// second, however long the queues are and however fast they move.
	placesPerTurn = 50
)

// Places brings batches back whose status tells a place in a queue that they don't have any more. It does nothing while no
// queue changes.
type Places struct {
	ledger *scheduler.Ledger
	clock  clock.Clock
}

// NewPlaces returns a Places, which a manager starts.
func NewPlaces(ledger *scheduler.Ledger, c clock.Clock) *Places {
	return &Places{ledger: ledger, clock: c}
}

// Start runs until the context ends.
func (p *Places) Start(ctx context.Context) error {
	for {
		select {
		case <-p.ledger.QueueMoves():
		case <-ctx.Done():
			return nil
		}
		timer := p.clock.NewTimer(placesPace)
		select {
		case <-timer.C():
			p.ledger.TellPlaces(placesPerTurn)
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// placeTold is the place in the queue that a status tells.
func placeTold(status *v1alpha1.BatchSandboxStatus) scheduler.Place {
	if status.Queue == nil {
		return scheduler.Place{}
	}
	return scheduler.Place{Position: int(status.Queue.Position), Waiting: int(status.Queue.Waiting)}
}

// queueStatus is what a status tells of a place in the queue; nil for a batch that doesn't wait.
func queueStatus(place scheduler.Place) *v1alpha1.QueueStatus {
	if place.Position == 0 {
		return nil
	}
	return &v1alpha1.QueueStatus{Position: int32(place.Position), Waiting: int32(place.Waiting)} //nolint:gosec // counts of pods
}
