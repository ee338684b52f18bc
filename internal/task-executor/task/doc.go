// SPDX-License-Identifier: Apache-2.0

// Package task runs the desired set of tasks: a pure state machine per task, a goroutine that feeds it, and a manager
// that turns the desired set into starts and removals.
//
// A task's goroutine alone touches its machine; what others see is a status it publishes. An end is on disk before it
// is seen. A removed task stays listed until its last process is gone.
package task
