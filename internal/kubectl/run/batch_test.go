// SPDX-License-Identifier: Apache-2.0

package run

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
)

func TestBatch(t *testing.T) {
	index := corev1.EnvVar{Name: "JOB_COMPLETION_INDEX", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
		FieldPath: "metadata.labels['batch-sandbox.sandbox.opensandbox.io/pod-index']",
	}}}
	process := func(p v1alpha1.Process) *v1alpha1.TaskTemplate {
		return &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{Process: p}}
	}
	cases := map[string]struct {
		settings settings
		want     v1alpha1.BatchSandbox
	}{
		"the least: a name is made up, and nothing is set that has a default": {
			settings{pool: "small", replicas: 1, ttl: -1, command: []string{"echo", "hi"}},
			v1alpha1.BatchSandbox{
				ObjectMeta: metav1.ObjectMeta{Namespace: "here", GenerateName: "run-"},
				Spec: v1alpha1.BatchSandboxSpec{
					Replicas: ptr.To(int32(1)), PoolRef: "small", TaskTemplate: process(v1alpha1.Process{Command: []string{"echo", "hi"}, Env: []corev1.EnvVar{index}}),
				},
			},
		},
		"an index of one's own": {
			settings{pool: "small", replicas: 1, ttl: -1, env: []string{"JOB_COMPLETION_INDEX=7"}, command: []string{"true"}},
			v1alpha1.BatchSandbox{
				ObjectMeta: metav1.ObjectMeta{Namespace: "here", GenerateName: "run-"},
				Spec: v1alpha1.BatchSandboxSpec{
					Replicas: ptr.To(int32(1)), PoolRef: "small",
					TaskTemplate: process(v1alpha1.Process{Command: []string{"true"}, Env: []corev1.EnvVar{{Name: "JOB_COMPLETION_INDEX", Value: "7"}}}),
				},
			},
		},
		"everything; times are rounded up to seconds": {
			settings{
				name: "mine", pool: "small", replicas: 3, ttl: 1500 * time.Millisecond, timeout: time.Millisecond, priority: -1,
				env: []string{"A=b=c", "EMPTY="}, workdir: "/tmp", command: []string{"true"},
			},
			v1alpha1.BatchSandbox{
				ObjectMeta: metav1.ObjectMeta{Namespace: "here", Name: "mine"},
				Spec: v1alpha1.BatchSandboxSpec{
					Replicas: ptr.To(int32(3)), PoolRef: "small", Priority: ptr.To(int32(-1)), TTLSecondsAfterFinished: ptr.To(int32(2)),
					TaskTemplate: &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{
						Process:        v1alpha1.Process{Command: []string{"true"}, WorkingDir: "/tmp", Env: []corev1.EnvVar{{Name: "A", Value: "b=c"}, {Name: "EMPTY"}, index}},
						TimeoutSeconds: ptr.To(int64(1)),
					}},
				},
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := tc.settings.batch("here")
			if err != nil {
				t.Fatal(err)
			}
			tc.want.TypeMeta = metav1.TypeMeta{APIVersion: "sandbox.opensandbox.io/v1alpha1", Kind: "BatchSandbox"}
			if diff := cmp.Diff(&tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTemplate compares with config/samples/task-batch.yaml, which is run in the end-to-end tests.
func TestTemplate(t *testing.T) {
	s := settings{image: "python:3.13", executorImage: "executor:v1", replicas: 1, command: []string{"true"}}
	sb, err := s.batch("here")
	if err != nil {
		t.Fatal(err)
	}
	var got corev1.PodTemplateSpec
	if err := json.Unmarshal(sb.Spec.Template.Raw, &got); err != nil {
		t.Fatal(err)
	}
	want := corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		ShareProcessNamespace: ptr.To(true),
		Containers: []corev1.Container{
			{Name: "sandbox", Image: "python:3.13", Command: []string{"sleep", "2147483647"}},
			{
				Name: "task-executor", Image: "executor:v1",
				SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_PTRACE"}}},
			},
		},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if sb.Spec.PoolRef != "" {
		t.Errorf("it has the pool %q", sb.Spec.PoolRef)
	}
}

func TestMistakesOfTheCommandLine(t *testing.T) {
	good := settings{pool: "small", replicas: 1, command: []string{"true"}}
	for name, tc := range map[string]struct {
		change func(*settings)
		want   string
	}{
		"neither pool nor image":  {func(s *settings) { s.pool = "" }, "--pool=NAME"},
		"both":                    {func(s *settings) { s.image = "busybox" }, "exclude each other"},
		"no command":              {func(s *settings) { s.command = nil }, "COMMAND is missing"},
		"an empty command":        {func(s *settings) { s.command = []string{""} }, "COMMAND is missing"},
		"no replicas":             {func(s *settings) { s.replicas = 0 }, "at least 1"},
		"a negative timeout":      {func(s *settings) { s.timeout = -time.Second }, "must not be negative"},
		"a name that is too long": {func(s *settings) { s.name = strings.Repeat("x", 64) }, "at most 63"},
		"a variable without =":    {func(s *settings) { s.env = []string{"A"} }, "NAME=VALUE"},
		"a variable without name": {func(s *settings) { s.env = []string{"=b"} }, "NAME=VALUE"},
		"a variable given twice":  {func(s *settings) { s.env = []string{"A=1", "A=2"} }, "given twice"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := good
			tc.change(&bad)
			if _, err := bad.batch("here"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want an error with %q", err, tc.want)
			}
		})
	}
	if _, err := good.batch("here"); err != nil {
		t.Error(err)
	}
}

func TestExecutorImage(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3":            "opensandbox/task-executor:v1.2.3",
		"v1.2.3-rc.1":       "opensandbox/task-executor:v1.2.3-rc.1",
		"dev":               "opensandbox/task-executor:dev",
		"1a2b3c4-dirty":     "opensandbox/task-executor:dev",
		"":                  "opensandbox/task-executor:dev",
		"v1.2.3-4-g1a2b3c4": "opensandbox/task-executor:dev",
		"v1.2.3-dirty":      "opensandbox/task-executor:dev",
	} {
		if got := executorImage(version); got != want {
			t.Errorf("%q: %s, want %s", version, got, want)
		}
	}
}
