// SPDX-License-Identifier: Apache-2.0

package podtemplate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"opensandbox.io/controller/api/v1alpha1"
)

func raw(json string) *v1alpha1.RawObject {
	return &v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: []byte(json)}}
}

func TestDecode(t *testing.T) {
	got, err := Decode(raw(`{"metadata":{"labels":{"app":"x"}},"spec":{"containers":[{"name":"sandbox"}],"unknown":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got.Labels["app"] != "x" || len(got.Spec.Containers) != 1 || got.Spec.Containers[0].Name != "sandbox" {
		t.Errorf("got %+v", got)
	}
}

func TestDecodeErrorsSayWhatToChange(t *testing.T) {
	cases := map[string]struct {
		template *v1alpha1.RawObject
		want     string
	}{
		"no template":                     {nil, "template is empty: give it at least one container"},
		"an empty template":               {raw(``), "template is empty: give it at least one container"},
		"a null template":                 {raw(`null`), "template.spec.containers is empty: give it at least one container"},
		"a template without containers":   {raw(`{"spec":{"containers":[]}}`), "template.spec.containers is empty: give it at least one container"},
		"a list instead of an object":     {raw(`[]`), "template is no pod template: "},
		"a number where containers stand": {raw(`{"spec":{"containers":1}}`), "template is no pod template: "},
		"broken JSON":                     {raw(`{"spec":`), "template is no pod template: "},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got, err := Decode(c.template); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("Decode = %v, %v, want an error that begins with %q", got, err, c.want)
			}
		})
	}
}

func TestRevisionDependsOnTheMeaningAlone(t *testing.T) {
	const template = `{"spec":{"containers":[{"name":"a","image":"x"}]}}`
	same := map[string]string{
		"white space":      ` { "spec" : {"containers":[ {"name":"a",` + "\n\t" + `"image":"x"} ] } } `,
		"order of members": `{"spec":{"containers":[{"image":"x","name":"a"}]}}`,
		"escapes":          `{"spec":{"containers":[{"name":"\u0061","image":"x"}]}}`,
	}
	want := Revision(raw(template))
	if len(want) != revisionLength || strings.Trim(want, "0123456789abcdef") != "" {
		t.Errorf("Revision = %q, want %d hexadecimal digits", want, revisionLength)
	}
	for name, other := range same {
		if got := Revision(raw(other)); got != want {
			t.Errorf("%s changes the revision from %s to %s", name, want, got)
		}
	}
	differs := map[string]string{
		"another value":           `{"spec":{"containers":[{"name":"a","image":"y"}]}}`,
		"another field":           `{"spec":{"containers":[{"name":"a","image":"x","tty":true}]}}`,
		"another order of a list": `{"spec":{"containers":[{"name":"b"},{"name":"a","image":"x"}]}}`,
	}
	for name, other := range differs {
		if got := Revision(raw(other)); got == want {
			t.Errorf("%s leaves the revision at %s", name, want)
		}
	}
}

func TestRevisionOfNoTemplateIsSteady(t *testing.T) {
	if a, b := Revision(nil), Revision(raw(`{`)); a != b || len(a) != revisionLength {
		t.Errorf("revisions %q and %q of nothing and of broken JSON", a, b)
	}
}

// The revision is kept in labels: another value would replace every idle pod when the controller is updated.
func TestRevisionNeverChangesWithTheController(t *testing.T) {
	const want = "21219d2ff6"
	if got := Revision(raw(`{"spec":{"containers":[{"name":"sandbox","image":"ubuntu:latest"}]}}`)); got != want {
		t.Errorf("Revision = %q, want %q for ever", got, want)
	}
}

func TestAddTaskRecords(t *testing.T) {
	volume := corev1.Volume{Name: v1alpha1.TaskRecordsVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
	mount := corev1.VolumeMount{Name: v1alpha1.TaskRecordsVolume, MountPath: v1alpha1.TaskRecordsPath}
	own := corev1.VolumeMount{Name: "mine", MountPath: v1alpha1.TaskRecordsPath}
	executor := func(mounts ...corev1.VolumeMount) corev1.Container {
		return corev1.Container{Name: v1alpha1.TaskExecutorContainer, VolumeMounts: mounts}
	}
	sandbox := corev1.Container{Name: "sandbox"}
	cases := map[string]struct{ spec, want corev1.PodSpec }{
		"a pod without executor stays as it is": {
			spec: corev1.PodSpec{Containers: []corev1.Container{sandbox}},
			want: corev1.PodSpec{Containers: []corev1.Container{sandbox}},
		},
		"the executor alone gets the volume": {
			spec: corev1.PodSpec{Containers: []corev1.Container{sandbox, executor()}},
			want: corev1.PodSpec{Containers: []corev1.Container{sandbox, executor(mount)}, Volumes: []corev1.Volume{volume}},
		},
		"other volumes and mounts stay": {
			spec: corev1.PodSpec{
				Containers: []corev1.Container{executor(corev1.VolumeMount{Name: "x", MountPath: "/x"})}, Volumes: []corev1.Volume{{Name: "x"}},
			},
			want: corev1.PodSpec{
				Containers: []corev1.Container{executor(corev1.VolumeMount{Name: "x", MountPath: "/x"}, mount)},
				Volumes:    []corev1.Volume{{Name: "x"}, volume},
			},
		},
		"a mount of the user's at that path is kept": {
			spec: corev1.PodSpec{Containers: []corev1.Container{executor(own)}},
			want: corev1.PodSpec{Containers: []corev1.Container{executor(own)}},
		},
		"a volume of that name is used": {
			spec: corev1.PodSpec{Containers: []corev1.Container{executor()}, Volumes: []corev1.Volume{{Name: v1alpha1.TaskRecordsVolume}}},
			want: corev1.PodSpec{Containers: []corev1.Container{executor(mount)}, Volumes: []corev1.Volume{{Name: v1alpha1.TaskRecordsVolume}}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			AddTaskRecords(&c.spec)
			if diff := cmp.Diff(c.want, c.spec); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			AddTaskRecords(&c.spec)
			if diff := cmp.Diff(c.want, c.spec); diff != "" {
				t.Errorf("a second time changes it (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddSidecarMode(t *testing.T) {
	container := func(name string, env ...corev1.EnvVar) corev1.Container {
		return corev1.Container{Name: name, Env: env}
	}
	user := corev1.EnvVar{Name: "A", Value: "b"}
	mode := func(value string) corev1.EnvVar { return corev1.EnvVar{Name: "SANDBOX_SIDECAR_MODE", Value: value} }
	executor := v1alpha1.TaskExecutorContainer
	for name, c := range map[string]struct{ spec, want corev1.PodSpec }{
		"beside a sandbox": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("sandbox", user), container(executor, user)}},
			want: corev1.PodSpec{Containers: []corev1.Container{container("sandbox", user), container(executor, user, mode("true"))}},
		},
		"among the init containers": {
			spec: corev1.PodSpec{InitContainers: []corev1.Container{container(executor)}, Containers: []corev1.Container{container("sandbox")}},
			want: corev1.PodSpec{InitContainers: []corev1.Container{container(executor, mode("true"))}, Containers: []corev1.Container{container("sandbox")}},
		},
		"the only container runs tasks in its own": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container(executor, user)}},
			want: corev1.PodSpec{Containers: []corev1.Container{container(executor, user)}},
		},
		"what the template says stays": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("sandbox"), container(executor, mode("false"))}},
			want: corev1.PodSpec{Containers: []corev1.Container{container("sandbox"), container(executor, mode("false"))}},
		},
		"no executor": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("a"), container("b")}},
			want: corev1.PodSpec{Containers: []corev1.Container{container("a"), container("b")}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			AddSidecarMode(&c.spec)
			AddSidecarMode(&c.spec) // twice is as once
			if diff := cmp.Diff(c.want, c.spec); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddRoot(t *testing.T) {
	container := func(name string, env ...corev1.EnvVar) corev1.Container {
		return corev1.Container{Name: name, Env: env}
	}
	forged := corev1.EnvVar{Name: "SANDBOX_CONTROLLER_ROOT", Value: "forged"}
	user := corev1.EnvVar{Name: "A", Value: "b"}
	for name, tc := range map[string]struct {
		spec corev1.PodSpec
		root string
		want map[string]bool // containers that know it
	}{
		"the executor beside a sandbox": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("sandbox", user), container("task-executor", user)}},
			root: "r", want: map[string]bool{"task-executor": true},
		},
		"the only container": {spec: corev1.PodSpec{Containers: []corev1.Container{container("sandbox")}}, root: "r", want: map[string]bool{"sandbox": true}},
		"several containers and no executor": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("a"), container("b")}}, root: "r", want: map[string]bool{},
		},
		"an executor among the init containers": {
			spec: corev1.PodSpec{InitContainers: []corev1.Container{container("task-executor")}, Containers: []corev1.Container{container("a"), container("b")}},
			root: "r", want: map[string]bool{"task-executor": true},
		},
		"a root that the template forged": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("sandbox"), container("task-executor", forged, user)}},
			root: "r", want: map[string]bool{"task-executor": true},
		},
		"no root": {spec: corev1.PodSpec{Containers: []corev1.Container{container("task-executor")}}, want: map[string]bool{}},
	} {
		t.Run(name, func(t *testing.T) {
			AddRoot(&tc.spec, tc.root)
			AddRoot(&tc.spec, tc.root) // twice is as once
			for _, c := range append(tc.spec.InitContainers, tc.spec.Containers...) {
				roots, uids := 0, 0
				for _, e := range c.Env {
					if e.Name == "SANDBOX_CONTROLLER_ROOT" && e.Value == "r" {
						roots++
					}
					if e.Name == "SANDBOX_POD_UID" && e.ValueFrom.FieldRef.FieldPath == "metadata.uid" {
						uids++
					}
					if e.Value == "forged" {
						t.Errorf("container %s keeps a forged root", c.Name)
					}
				}
				if wanted := tc.want[c.Name]; (roots == 1 && uids == 1) != wanted {
					t.Errorf("container %s has %d roots and %d UIDs, want it to know: %t", c.Name, roots, uids, wanted)
				}
			}
			if got := RootOf(&tc.spec); (got == "r") != (len(tc.want) > 0) {
				t.Errorf("root of the pod is %q", got)
			}
		})
	}
}
