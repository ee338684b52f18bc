// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"opensandbox.io/controller/api/v1alpha1"
)

func TestParseAllocStatus(t *testing.T) {
	if pods, err := parseAllocStatus(makeBatch("b").Obj()); err != nil || pods != nil {
		t.Errorf("without annotation: %v, %v", pods, err)
	}
	cases := map[string]struct {
		value string
		want  []string
	}{
		"pods by index":                  {`{"pods":["a","b"]}`, []string{"a", "b"}},
		"empty entries stay":             {`{"pods":["","b",""]}`, []string{"", "b", ""}},
		"further members are tolerated":  {`{"pods":["a"],"poolRef":{"x":1}}`, []string{"a"}},
		"no pods":                        {`{"pods":[]}`, []string{}},
		"an object without pods is none": {`{}`, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := parseAllocStatus(makeBatch("b").AllocStatus(c.value).Obj())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("pods (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseAllocStatusRefuses(t *testing.T) {
	for name, value := range map[string]string{
		"nothing":                ``,
		"text":                   `pods`,
		"a list":                 `["a"]`,
		"pods that are no list":  `{"pods":"a"}`,
		"pods that are no names": `{"pods":[1]}`,
		"broken JSON":            `{"pods":["a"]`,
		"two values":             `{"pods":["a"]}{}`,
		"a pod named twice":      `{"pods":["a","","a"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			pods, err := parseAllocStatus(makeBatch("b").AllocStatus(value).Obj())
			if err == nil {
				t.Fatalf("read %v", pods)
			}
			for _, want := range []string{v1alpha1.AllocStatusAnnotation, "remove or repair it"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q doesn't say %q", err, want)
				}
			}
		})
	}
}

func TestFormatNeverWritesNull(t *testing.T) {
	if got, want := formatAllocStatus(nil), `{"pods":[]}`; got != want {
		t.Errorf("formatAllocStatus(nil) = %s, want %s", got, want)
	}
	if got, want := formatEndpoints(nil), `[]`; got != want {
		t.Errorf("formatEndpoints(nil) = %s, want %s", got, want)
	}
	if got, want := formatEndpoints([]string{"10.0.0.1", ""}), `["10.0.0.1",""]`; got != want {
		t.Errorf("formatEndpoints = %s, want %s", got, want)
	}
}

func TestAllocationPatchGolden(t *testing.T) {
	annotations := map[string]any{v1alpha1.AllocStatusAnnotation: `{"pods":["a"]}`, v1alpha1.EndpointsAnnotation: `["10.0.0.1"]`}
	cases := map[string]struct {
		have        []string
		annotations map[string]any
		want        string
	}{
		"a delivery writes finalizer and both annotations in one patch": {
			annotations: annotations,
			want: `{"metadata":{"annotations":{"sandbox.opensandbox.io/alloc-status":"{\"pods\":[\"a\"]}",` +
				`"sandbox.opensandbox.io/endpoints":"[\"10.0.0.1\"]"},` +
				`"finalizers":["pool.sandbox.opensandbox.io/pool-allocation"],"resourceVersion":"7"}}`,
		},
		"the finalizers of others are kept": {
			have: []string{"x/y"},
			want: `{"metadata":{"finalizers":["x/y","pool.sandbox.opensandbox.io/pool-allocation"],"resourceVersion":"7"}}`,
		},
		"finalizers that are there are not sent": {
			have:        []string{v1alpha1.PoolAllocationFinalizer},
			annotations: map[string]any{v1alpha1.EndpointsAnnotation: `[]`},
			want:        `{"metadata":{"annotations":{"sandbox.opensandbox.io/endpoints":"[]"},"resourceVersion":"7"}}`,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sb := makeBatch("b").Finalizers(c.have...).Obj()
			sb.ResourceVersion = "7"
			got := string(allocationPatch(sb, c.annotations, []string{v1alpha1.PoolAllocationFinalizer}))
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("patch (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWithFinalizersLeavesItsArgumentAlone(t *testing.T) {
	have := append(make([]string, 0, 4), "a")
	if diff := cmp.Diff([]string{"a", "b"}, withFinalizers(have, []string{"a", "b"})); diff != "" {
		t.Errorf("finalizers (-want +got):\n%s", diff)
	}
	if extra := have[:2][1]; extra != "" {
		t.Errorf("wrote %q behind its argument", extra)
	}
}

func TestAllocationOf(t *testing.T) {
	cases := map[string]struct {
		sandboxes []sandbox
		replicas  int
		want      allocation
	}{
		"one entry per index": {
			[]sandbox{readySandbox("a"), {}}, 2, allocation{[]string{"a", ""}, []string{"10.0.0.1", ""}},
		},
		"a lost sandbox keeps its pod and loses its address": {
			[]sandbox{lostSandbox("a")}, 1, allocation{[]string{"a"}, []string{""}},
		},
		"higher indexes are listed while they are held": {
			[]sandbox{{}, {}, readySandbox("c")}, 1, allocation{[]string{"", "", "c"}, []string{"", "", "10.0.0.1"}},
		},
		"empty entries above replicas are dropped": {
			[]sandbox{readySandbox("a"), {}, {}}, 1, allocation{[]string{"a"}, []string{"10.0.0.1"}},
		},
		"no replicas make empty lists": {nil, 0, allocation{[]string{}, []string{}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, allocationOf(c.sandboxes, c.replicas), cmp.AllowUnexported(allocation{})); diff != "" {
				t.Errorf("allocation (-want +got):\n%s", diff)
			}
		})
	}
}
