// SPDX-License-Identifier: Apache-2.0

package pool

import "sigs.k8s.io/controller-runtime/pkg/predicate"

// Edited is the predicate of the watch of pools, for tests that wire the controller by hand.
func Edited() predicate.Predicate { return edited() }
