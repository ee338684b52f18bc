// SPDX-License-Identifier: Apache-2.0

// Package client holds the clients of the API group sandbox.opensandbox.io for Go programs, as k8s.io/client-go has them for
// the kinds of Kubernetes itself:
//
//   - clientset/versioned: create, get, list, watch, patch, apply, scale and delete
//   - informers/externalversions: caches that follow the API server, and tell of changes
//   - listers: reading from these caches
//   - applyconfiguration: what to give to Apply (server-side apply), with only those fields that the program cares about
//
// The types are in api/v1alpha1, and a whole program is in examples/go. All folders below this one are generated from the types:
// make generate.
//
// There is no fake clientset, since that of client-go guesses the plural of BatchSandbox, and guesses wrong. For tests take a real
// API server (sigs.k8s.io/controller-runtime/pkg/envtest) with the definitions in config/crd, or controller-runtime's fake client.
package client
