// SPDX-License-Identifier: Apache-2.0

// Package scheduler decides which pods go to which batch and how large a pool should be. It holds no client,
// reads no clock and starts nothing: its functions are pure, and the Ledger is an index in memory of facts
// whose durable home is the API server.
//
// One word per concept:
//
//   - demand: a batch wants N sandboxes.
//   - allocation: pod P belongs to index i of batch B.
//   - delivery: the moment a client can see the endpoints of all it asked for.
//   - release: a batch gives a sandbox up.
//   - recycle: the pool makes a released pod fit for the next user, or deletes it.
//   - buffer: pool pods that nobody holds, ready or starting.
//   - stranded: a pod that nobody holds, and that nothing but its node keeps from being handed out.
//
// An allocation goes through Assume (held in memory), the write of the batch's alloc-status, and Confirm. Where
// the outcome of the write is in doubt, the batch is read again and Settle takes over what it says.
package scheduler
