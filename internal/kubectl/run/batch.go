// SPDX-License-Identifier: Apache-2.0

package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
)

// sandboxContainer is the name of the sandbox's container in pods made from --image.
const sandboxContainer = "sandbox"

// executorRepository is where the image of the task-executor is, whose tag is the version of this program.
const executorRepository = "opensandbox/task-executor"

// indexVariable has the index of a task's sandbox in its environment: the name that indexed Jobs give theirs.
const indexVariable = "JOB_COMPLETION_INDEX"

// release is a version that has an image of its own.
var release = regexp.MustCompile(`^v\d+\.\d+\.\d+(-(alpha|beta|rc)[0-9A-Za-z.]*)?$`)

// executorImage is the default of --executor-image: that of the same release, else the one that make deploys.
func executorImage(version string) string {
	if !release.MatchString(version) {
		version = "dev"
	}
	return executorRepository + ":" + version
}

// settings are what flags and arguments say of the batch.
type settings struct {
	name          string
	pool          string
	image         string
	executorImage string
	replicas      int32
	timeout       time.Duration
	ttl           time.Duration // below 0: never
	env           []string
	workdir       string
	priority      int32
	command       []string
}

// batch returns the BatchSandbox to make. An error is a mistake in the command line.
func (s *settings) batch(namespace string) (*v1alpha1.BatchSandbox, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	env, err := parseEnv(s.env)
	if err != nil {
		return nil, err
	}
	sb := &v1alpha1.BatchSandbox{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "BatchSandbox"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: s.name},
		Spec: v1alpha1.BatchSandboxSpec{
			Replicas: ptr.To(s.replicas),
			PoolRef:  s.pool,
			TaskTemplate: &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{
				Process: v1alpha1.Process{Command: s.command, Env: withIndex(env), WorkingDir: s.workdir},
			}},
		},
	}
	if s.name == "" {
		sb.GenerateName = "run-"
	}
	if s.priority != 0 {
		sb.Spec.Priority = ptr.To(s.priority)
	}
	if s.timeout > 0 {
		sb.Spec.TaskTemplate.Spec.TimeoutSeconds = ptr.To(seconds(s.timeout))
	}
	if s.ttl >= 0 {
		sb.Spec.TTLSecondsAfterFinished = ptr.To(int32(min(seconds(s.ttl), math.MaxInt32))) //nolint:gosec // bounded
	}
	if s.image != "" {
		if sb.Spec.Template, err = s.template(); err != nil {
			return nil, err
		}
	}
	return sb, nil
}

// check refuses what the API server would refuse with less clear words, or would take.
func (s *settings) check() error {
	switch {
	case s.pool == "" && s.image == "":
		return errors.New("say where the sandboxes come from: --pool=NAME for a pool, or --image=IMAGE for pods of their own")
	case s.pool != "" && s.image != "":
		return errors.New("--pool and --image exclude each other: a pool's pods have the images of its template")
	case len(s.command) == 0 || s.command[0] == "":
		return errors.New("COMMAND is missing: give it after --, as in: -- echo hi")
	case s.replicas < 1:
		return fmt.Errorf("--replicas=%d: must be at least 1", s.replicas)
	case s.timeout < 0:
		return fmt.Errorf("--timeout=%s: must not be negative; 0 is no limit", s.timeout)
	case len(s.name) > v1alpha1.MaxNameLength:
		return fmt.Errorf("NAME has %d characters: at most %d are possible, for it becomes a label value", len(s.name), v1alpha1.MaxNameLength)
	}
	return nil
}

// seconds rounds up: a limit of half a second is not none.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// parseEnv reads NAME=VALUE.
func parseEnv(pairs []string) ([]corev1.EnvVar, error) {
	var env []corev1.EnvVar
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--env=%q: must be NAME=VALUE", pair)
		}
		for _, have := range env {
			if have.Name == name {
				return nil, fmt.Errorf("--env=%q: %s is given twice", pair, name)
			}
		}
		env = append(env, corev1.EnvVar{Name: name, Value: value})
	}
	return env, nil
}

// withIndex adds the index of the sandbox, unless the user gives that variable another meaning.
func withIndex(env []corev1.EnvVar) []corev1.EnvVar {
	if slices.ContainsFunc(env, func(e corev1.EnvVar) bool { return e.Name == indexVariable }) {
		return env
	}
	path := fmt.Sprintf("metadata.labels['%s']", v1alpha1.PodIndexLabel)
	return append(env, corev1.EnvVar{Name: indexVariable, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}})
}

// template is a pod whose sandbox does nothing but stay up, with a task-executor beside it that may enter it.
func (s *settings) template() (*v1alpha1.RawObject, error) {
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		ShareProcessNamespace: ptr.To(true),
		Containers: []corev1.Container{
			{Name: sandboxContainer, Image: s.image, Command: []string{"sleep", "2147483647"}},
			{
				Name: v1alpha1.TaskExecutorContainer, Image: s.executorImage,
				SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_PTRACE"}}},
			},
		},
	}}
	data, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("write the pod's template: %w", err)
	}
	return &v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: data}}, nil
}
