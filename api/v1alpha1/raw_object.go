// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import "k8s.io/apimachinery/pkg/runtime"

// RawObject is a JSON object kept as the bytes the user wrote. Unknown fields survive, and a value that
// doesn't have the expected shape is found when it is used, not when it is listed.
//
// +kubebuilder:validation:Type=object
// +kubebuilder:pruning:PreserveUnknownFields
type RawObject struct {
	runtime.RawExtension `json:",inline"`
}
