// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import (
	"context"
	"fmt"
	"net/http"
)

// MaxRecycleIDBytes bounds the ID of a recycling.
const MaxRecycleIDBytes = 128

// RecycleExitCode is what an executor exits with to have all containers of its pod restarted. The pod's restart rules have
// the same number.
const RecycleExitCode = 88

// RecycleRequest is the body of POST /recycle.
type RecycleRequest struct {
	// id names the recycling; asked for again under the same ID, an executor that came back from it does nothing.
	ID string `json:"id"`
}

// RecycleState is the answer of GET /recycle.
type RecycleState struct {
	// id is that of the recycling this executor came back from; empty if it was started otherwise.
	ID string `json:"id,omitempty"`
	// clean says that nothing is left of the last user as far as the executor can tell.
	Clean bool `json:"clean"`
	// reasons say why not; empty if clean.
	Reasons []string `json:"reasons,omitempty"`
}

// maxReasons bounds the reasons of a state, and maxRecycleReasonBytes each of them.
const (
	maxReasons            = 8
	maxRecycleReasonBytes = 256
)

// Recycle asks the executor to have all containers of its pod restarted. IsConflict tells that it still knows tasks. A
// success says that it is about to exit, or that it came back from this recycling already.
func (c *Client) Recycle(ctx context.Context, id string) error {
	if _, err := c.do(ctx, call{method: http.MethodPost, path: "/recycle", in: RecycleRequest{ID: id}}); err != nil {
		return fmt.Errorf("recycle: %w", err)
	}
	return nil
}

// Recycled asks the executor whether it came back clean.
func (c *Client) Recycled(ctx context.Context) (RecycleState, error) {
	var state RecycleState
	if _, err := c.do(ctx, call{method: http.MethodGet, path: "/recycle", out: &state}); err != nil {
		return RecycleState{}, fmt.Errorf("ask whether the pod is clean: %w", err)
	}
	state.ID = oneLine(state.ID, MaxRecycleIDBytes)
	state.Reasons = state.Reasons[:min(len(state.Reasons), maxReasons)]
	for i := range state.Reasons {
		state.Reasons[i] = oneLine(state.Reasons[i], maxRecycleReasonBytes)
	}
	return state, nil
}
