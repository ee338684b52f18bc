// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

func TestAFieldIsARowWithItsTypeBoundsAndMeaning(t *testing.T) {
	tests := map[string]struct{ schema, want string }{
		"a required number with both bounds": {
			schema: "{type: object, required: [num], properties: {num: {type: integer, format: int32, minimum: 1, maximum: 9, description: num is a number.}}}",
			want:   "| `num` | int32 | required; at least 1; at most 9 | a number. |\n",
		},
		"the bounds of a type itself aren't told, and a default makes a field optional": {
			schema: "{type: object, required: [num], properties: {num: {type: integer, format: int32, minimum: -2147483648, maximum: 2147483647, default: 3}}}",
			want:   "| `num` | int32 | default `3` |  |\n",
		},
		"a choice": {
			schema: "{type: object, properties: {num: {type: string, enum: [A, B], default: A, description: How it is done.}}}",
			want:   "| `num` | string | default `A`; `A`, `B` | How it is done. |\n",
		},
		"a list of objects has a section of its own": {
			schema: "{type: object, properties: {num: {type: array, maxItems: 7, x-kubernetes-list-map-keys: [k], description: num are some., items: {type: object, description: One of them., properties: {k: {type: string, description: 'a | b < c'}}}}}}",
			want: "| `num` | list of [object](#kindspecnum) | at most 7 entries; one entry for each `k` | some. |\n\n" +
				"### Kind.spec.num\n\nOne of them.\n\n| field | type | default and bounds | meaning |\n|---|---|---|---|\n| `k` | string |  | a \\| b &lt; c |\n",
		},
		"a type of Kubernetes is named, not told": {
			schema: "{type: object, properties: {env: {type: array, items: {type: object, properties: {name: {type: string}}}}}}",
			want:   "| `env` | list of [EnvVar](https://pkg.go.dev/k8s.io/api/core/v1#EnvVar) |  |  |\n",
		},
		"a number or a percentage": {
			schema: "{type: object, properties: {num: {x-kubernetes-int-or-string: true, pattern: '^\\d%$', x-kubernetes-validations: [{rule: r, message: must be good}]}}}",
			want:   "| `num` | integer or string | a string matches `^\\d%$`; must be good |  |\n",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var schema apiextensionsv1.JSONSchemaProps
			if err := yaml.UnmarshalStrict([]byte(tc.schema), &schema); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			writeSection(&out, section{"Kind.spec", schema})
			const head = "### Kind.spec\n\n\n\n| field | type | default and bounds | meaning |\n|---|---|---|---|\n"
			if diff := cmp.Diff(head+tc.want+"\n", out.String()); diff != "" {
				t.Errorf("section (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConstantsAreToldByTheirValues(t *testing.T) {
	const source = `package p

// Labels.
const (
	// NameLabel is the name; see OtherLabel.
	NameLabel = "x.io/name"

	// FirstLabel and OtherLabel hold numbers.
	FirstLabel = "x.io/first"
	OtherLabel = "x.io/other"

	// MaxThings is no string.
	MaxThings = 7
)

// Single: on its own.
const Single = "single"
`
	want := "## Names\n\nLabels.\n\n| name | meaning |\n|---|---|\n" +
		"| `x.io/name` | the name; see `x.io/other`. |\n" +
		"| `x.io/first`, `x.io/other` | hold numbers. |\n\n" +
		"Others.\n\n| name | meaning |\n|---|---|\n| `single` | on its own. |\n\n"
	var out strings.Builder
	if err := writeConstants(&out, "Names", []byte(source)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("constants (-want +got):\n%s", diff)
	}
}
