// SPDX-License-Identifier: Apache-2.0

// Package schema holds what the definitions promise of the types.
package schema

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"sigs.k8s.io/yaml"

	"opensandbox.io/controller/api/v1alpha1"
)

// validatorOf validates objects by a definition, as an API server does, but for its rules.
func validatorOf(f *testing.F, plural string) validation.SchemaValidator {
	f.Helper()
	data, err := os.ReadFile(filepath.Join("../../config/crd/bases", "sandbox.opensandbox.io_"+plural+".yaml"))
	if err != nil {
		f.Fatal(err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.Unmarshal(data, crd); err != nil {
		f.Fatal(err)
	}
	internal := &apiextensions.JSONSchemaProps{}
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(crd.Spec.Versions[0].Schema.OpenAPIV3Schema, internal, nil); err != nil {
		f.Fatal(err)
	}
	validator, _, err := validation.NewSchemaValidator(internal)
	if err != nil {
		f.Fatal(err)
	}
	return validator
}

// mustBeRead fails if an object that the schema takes can't be read: one such object would keep the controller from the list of all.
func mustBeRead(t *testing.T, validator validation.SchemaValidator, raw []byte, into any) {
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
