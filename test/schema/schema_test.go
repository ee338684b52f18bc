// SPDX-License-Identifier: Apache-2.0

// Package schema holds what the definitions promise of the types.
package schema

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"

	"opensandbox.io/controller/api/v1alpha1"
)

// validatorOf validates objects by a definition, as an API server does, but for its rules.
func validatorOf(f testing.TB, plural string) *validate.SchemaValidator {
	f.Helper()
	data, err := os.ReadFile(filepath.Join("../../config/crd/bases", "sandbox.opensandbox.io_"+plural+".yaml"))
	if err != nil {
		f.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema *spec.Schema `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		f.Fatal(err)
	}
	return validate.NewSchemaValidator(crd.Spec.Versions[0].Schema.OpenAPIV3Schema, nil, "", strfmt.Default)
}

// mustBeRead reads as clients do: names are case-sensitive, and what is not known is left out. It fails if an object that the schema takes can't be read: one such object would keep the controller from the list of all.
func mustBeRead(t *testing.T, validator *validate.SchemaValidator, raw []byte, into any) {
	t.Helper()
	var object struct {
		Spec   any `json:"spec,omitempty"`
		Status any `json:"status,omitempty"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return
	}
	data, err := json.Marshal(object) // what an API server does with metadata is no business of the definition
	if err != nil {
		t.Fatal(err)
	}
	var value map[string]any
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatal(err)
	}
	if !validator.Validate(value).IsValid() {
		return
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("the schema takes %s, which can't be read: %v", data, err)
	}
}

func FuzzBatchesThatTheSchemaTakesCanBeRead(f *testing.F) {
	validator := validatorOf(f, "batchsandboxes")
	for _, seed := range []string{
		`{"spec":{"replicas":3,"poolRef":"p","expireTime":"2030-01-01T00:00:00.5+02:00","minAvailable":1,"priority":-1,"allocationTimeoutSeconds":9,"ttlSecondsAfterFinished":0}}`,
		`{"spec":{"template":{"spec":{"containers":7}},"shardPatches":[{"a":[1]}],"taskResourcePolicyWhenCompleted":"Retain"}}`,
		`{"spec":{"taskTemplate":{"spec":{"process":{"command":["a"],"args":[],"env":[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"x"}}}],"workingDir":"/"},"timeoutSeconds":9223372036854775807,"backoffLimit":2147483647}},"shardTaskPatches":[{}]}}`,
		`{"spec":{"expireTime":"2030-01-01t00:00:00z"}}`, `{"spec":{"expireTime":"2030-02-30T25:61:00Z"}}`, `{"spec":{"replicas":1e0}}`, `{"spec":{"replicas":2.0}}`,
		`{"spec":{"taskTemplate":{"spec":{"process":{"command":["a"]},"timeoutSeconds":9223372036854775808}}}}`, `{"spec":{"allocationTimeoutSeconds":1e19}}`,
		`{"spec":{"taskTemplate":{"spec":{"process":{"command":["a"],"env":[{"name":"A","valueFrom":{"resourceFieldRef":{"resource":"r","divisor":"1e99999"}}}]}}}}}`,
		`{"status":{"replicas":1,"conditions":[{"type":"Ready","status":"True","reason":"R","message":"","lastTransitionTime":"2030-01-01T00:00:00Z"}],"failedTasks":[{"index":0,"tries":1}],"queue":{"position":1,"waiting":2}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { mustBeRead(t, validator, raw, &v1alpha1.BatchSandbox{}) })
}

func FuzzPoolsThatTheSchemaTakesCanBeRead(f *testing.F) {
	validator := validatorOf(f, "pools")
	const capacity = `"template":{},"capacitySpec":{"bufferMin":1,"bufferMax":2,"poolMin":0,"poolMax":9}`
	for _, seed := range []string{
		`{"spec":{` + capacity + `}}`,
		`{"spec":{` + capacity + `,"scaleStrategy":{"maxUnavailable":"30%"},"updateStrategy":{"maxUnavailable":2147483647},"recycleStrategy":{"type":"Noop"}}}`,
		`{"spec":{` + capacity + `,"scaleStrategy":{"maxUnavailable":1.0}}}`, `{"spec":{` + capacity + `,"scaleStrategy":{"maxUnavailable":null}}}`,
		`{"spec":{"template":{},"capacitySpec":{"bufferMin":1e2,"bufferMax":2147483648,"poolMin":0,"poolMax":9}}}`,
		`{"spec":{` + capacity + `},"status":{"total":1,"revision":"x","conditions":[]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { mustBeRead(t, validator, raw, &v1alpha1.Pool{}) })
}

// What the schemas refuse is refused here too: else the targets would prove nothing.
func TestTheValidatorRefusesWhatTheDefinitionsRefuse(t *testing.T) {
	for raw, plural := range map[string]string{
		`{"spec":{"replicas":-1}}`:                                     "batchsandboxes",
		`{"spec":{"replicas":2147483648}}`:                             "batchsandboxes",
		`{"spec":{"template":"nginx"}}`:                                "batchsandboxes",
		`{"spec":{"taskTemplate":{"spec":{"process":{"command":7}}}}}`: "batchsandboxes",
		`{"spec":{"expireTime":"2030-01-01t00:00:00z"}}`:               "batchsandboxes",
		`{"spec":{"template":{}}}`:                                     "pools",
	} {
		var value map[string]any
		if err := json.Unmarshal([]byte(raw), &value); err != nil {
			t.Fatal(err)
		}
		if validatorOf(t, plural).Validate(value).IsValid() {
			t.Errorf("%s is taken", raw)
		}
	}
}
