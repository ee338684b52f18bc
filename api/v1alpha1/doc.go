// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the BatchSandbox and Pool types, their condition types and reasons, and every
// label, annotation and finalizer key of the API group sandbox.opensandbox.io.
//
// Templates and patches are kept as the JSON the user wrote (RawObject): a value this version can't read
// becomes a condition on its one object instead of an error that stops the cache of all objects.
//
// +kubebuilder:object:generate=true
// +groupName=sandbox.opensandbox.io
package v1alpha1
