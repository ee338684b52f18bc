// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"encoding/json"
	"fmt"
	"slices"

	"opensandbox.io/controller/api/v1alpha1"
)

// allocStatus is the value of AllocStatusAnnotation. Further members are tolerated.
type allocStatus struct {
	Pods []string `json:"pods"`
}

// parseAllocStatus reads AllocStatusAnnotation; no annotation means no pods.
func parseAllocStatus(sb *v1alpha1.BatchSandbox) ([]string, error) {
	value, ok := sb.Annotations[v1alpha1.AllocStatusAnnotation]
	if !ok {
		return nil, nil
	}
	var status allocStatus
	if err := json.Unmarshal([]byte(value), &status); err != nil {
		return nil, fmt.Errorf("annotation %s is not {\"pods\":[...]}: %w; remove or repair it", v1alpha1.AllocStatusAnnotation, err)
	}
	seen := map[string]bool{}
	for _, pod := range status.Pods {
		if pod != "" && seen[pod] {
			return nil, fmt.Errorf("annotation %s names pod %q twice; remove or repair it", v1alpha1.AllocStatusAnnotation, pod)
		}
		seen[pod] = true
	}
	return status.Pods, nil
}

func formatAllocStatus(pods []string) string { return mustJSON(allocStatus{Pods: notNil(pods)}) }

func formatEndpoints(ips []string) string { return mustJSON(notNil(ips)) }

// ownEndpoints are the addresses that a batch without pool tells. What can't be read is none: it is written anew.
func ownEndpoints(sb *v1alpha1.BatchSandbox) []string {
	value, ok := sb.Annotations[v1alpha1.EndpointsAnnotation]
	if sb.Spec.PoolRef != "" || !ok {
		return nil
	}
	var ips []string
	if err := json.Unmarshal([]byte(value), &ips); err != nil {
		return nil
	}
	return ips
}

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// mustJSON encodes values that are made of strings, numbers, lists and maps alone, which always can be.
func mustJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// allocationPatch is the body of the one patch that delivers: finalizers, alloc-status and endpoints together. The
// resourceVersion makes it fail if anything else changed the batch.
func allocationPatch(sb *v1alpha1.BatchSandbox, annotations map[string]any, finalizers []string) []byte {
	metadata := map[string]any{"resourceVersion": sb.ResourceVersion}
	if len(annotations) > 0 {
		metadata["annotations"] = annotations
	}
	if missing := withFinalizers(sb.Finalizers, finalizers); len(missing) != len(sb.Finalizers) {
		metadata["finalizers"] = missing
	}
	return []byte(mustJSON(map[string]any{"metadata": metadata}))
}

func withFinalizers(have, want []string) []string {
	all := slices.Clone(have)
	for _, f := range want {
		if !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}
