// SPDX-License-Identifier: Apache-2.0

package recycling

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/api/v1alpha1"
)

// Whatever stands in a mark, what can be read is read as it would be written, and no mark makes a pod clean whose containers are
// those that it names, or that it doesn't name.
func FuzzMark(f *testing.F) {
	for _, seed := range []string{
		`{"batch":"u","containers":{"sandbox":"sandbox://1","sidecar":"sidecar://1","task-executor":"task-executor://1"},"since":"2026-01-01T00:00:00Z"}`,
		`{"batch":"u","containers":{"task-executor":""}}`, `{"batch":"","containers":{}}`, `{"batch":"u","containers":null}`, `null`, `[]`, ``,
		`{"batch":"u","containers":{"x":"y"},"since":"0001-01-01T00:00:00Z"}`, `{"batch":"u","containers":{"x":"y"},"since":"9999-12-31T23:59:59.999999999-23:59"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		pod := eligible()
		pod.Annotations = map[string]string{v1alpha1.RecyclingAnnotation: value}
		mark, err := Parse(pod)
		if err != nil {
			return
		}
		pod.Annotations[v1alpha1.RecyclingAnnotation] = mark.Encode()
		again, err := Parse(pod)
		if err != nil || !mark.Since.Equal(again.Since) {
			t.Fatalf("%q is read as %+v, and that as %+v, %v", value, mark, again, err)
		}
		again.Since = mark.Since // the same moment, of another zone perhaps
		if diff := cmp.Diff(mark, again); diff != "" {
			t.Fatalf("%q (-read +read again):\n%s", value, diff)
		}
		if ProgressOf(mark, pod) != Restarted {
			return
		}
		ids, _ := containerIDs(pod)
		for name, id := range ids {
			if before, named := mark.Containers[name]; !named || before == id {
				t.Fatalf("%q proves %s clean, which has the ID %s", value, name, id)
			}
		}
	})
}
