// SPDX-License-Identifier: Apache-2.0

// Package taskexecutor holds what the controller and the task-executor daemon share: the JSON of the daemon's HTTP API,
// the rules a task must keep, and a client.
//
// A task is known by its name alone. The daemon never runs a known name a second time, so a caller that wants another
// try chooses another name. The desired set is sent whole ([Client.Set]); what is missing from it is stopped, stays
// listed until its last process is gone, and is then forgotten. An empty list therefore means that no process started by
// a task is left.
package taskexecutor
