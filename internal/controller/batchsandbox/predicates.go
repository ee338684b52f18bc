// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import "sigs.k8s.io/controller-runtime/pkg/predicate"

// ChangedByUsers is the predicate of the watch of batches, for tests that wire the controller by hand.
func ChangedByUsers() predicate.Predicate { return changedByUsers() }

// NotOurs is the predicate of the same watch that is asked after ChangedByUsers, for the same tests.
func (r *Reconciler) NotOurs() predicate.Predicate { return r.echoes.predicate() }

// PoolMatters is the predicate of the watch of pools, for the same tests.
func PoolMatters() predicate.Predicate { return poolMatters() }

// FailingChanged is the predicate of the watch of pools that wakes the batches in their queues, for the same tests.
func FailingChanged() predicate.Predicate { return failingChanged() }
