// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

func fromField(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

func TestATaskGetsFieldsOfItsPod(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 2))
	s.idle("p", 2)
	dir := t.TempDir()
	sb := makeTaskBatch("fields", "p", "echo $NAME $NAMESPACE $IP > "+dir+"/$INDEX", 2)
	sb.Spec.TaskTemplate.Spec.Process.Env = []corev1.EnvVar{
		fromField("NAME", "metadata.name"), fromField("NAMESPACE", "metadata.namespace"), {Name: "IP", Value: "none"},
		fromField("INDEX", "metadata.labels['"+v1alpha1.PodIndexLabel+"']"),
	}
	sb.Spec.ShardTaskPatches = []v1alpha1.RawObject{
		*raw(`{}`), *raw(`{"spec":{"process":{"env":[{"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},{"name":"NAME","value":"mine"}]}}}`),
	}
	s.create(sb)
	if st := s.tasksEnded("fields").Status; st.TaskSucceed != 2 {
		t.Fatalf("status %+v, want 2 succeeded", st)
	}
	pods, ips, err := annotations(s.batch("fields"))
	s.must(err)
	for index, want := range []string{pods[0] + " " + s.name + " none\n", "mine " + s.name + " " + ips[1] + "\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(index))); err != nil || string(got) != want {
			t.Errorf("task %d left %q (%v), want %q", index, got, err, want)
		}
	}
}

// The fields of a pod may change while a try runs, and a controller that starts anew finds others than the one before.
func TestARunningTryKeepsItsFieldsOverARestartOfTheController(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	c := s.startController("")
	s.create(taskPool("p", 1))
	s.idle("p", 1)
	note := func(text string) {
		t.Helper()
		pod := s.pods()[0]
		patch := fmt.Sprintf(`{"metadata":{"annotations":{"note":%q}}}`, text)
		s.must(s.client.Patch(s.ctx, &pod, client.RawPatch("application/merge-patch+json", []byte(patch))))
	}
	note("first")
	dir := t.TempDir()
	sb := makeTaskBatch("b", "p", `echo $NOTE >> `+dir+`/notes; while [ ! -e `+dir+`/go ]; do sleep 0.05; done; echo $NOTE >> `+dir+`/notes`, 1)
	sb.Spec.TaskTemplate.Spec.Process.Env = []corev1.EnvVar{fromField("NOTE", "metadata.annotations['note']")}
	s.create(sb)
	runs := func(want int32) func() error {
		return func() error {
			st := s.batch("b").Status
			if st.TaskRunning != want || st.TaskUnknown != 0 {
				return fmt.Errorf("status %+v", st)
			}
			return nil
		}
	}
	eventually(t, "run the task", runs(1))
	note("second")
	c.kill()
	s.must(c.start())
	s.create(makeBatch("later", "p", 1)) // it has its place in the queue when the new controller is at work
	eventually(t, "work again", func() error {
		if st := s.batch("later").Status; st.ObservedGeneration == 0 {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	eventually(t, "follow the task", runs(1))
	s.must(os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
	if st := s.tasksEnded("b").Status; st.TaskSucceed != 1 || len(st.TaskTries) != 0 {
		t.Errorf("status %+v, want success at the first try", st)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "notes")); err != nil || string(got) != "first\nfirst\n" {
		t.Errorf("the task noted %q (%v), want its first note twice", got, err)
	}
}

func TestATaskThatTakesASecretIsRefusedBeforeASandboxIsTaken(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(taskPool("p", 1))
	s.idle("p", 1)
	sb := makeTaskBatch("b", "p", "true", 1)
	sb.Spec.TaskTemplate.Spec.Process.Env = []corev1.EnvVar{{Name: "TOKEN", ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"},
	}}}
	s.create(sb)
	says := func(text string) error {
		if !strings.Contains(text, "takes TOKEN from a Secret") || !strings.Contains(text, "envFrom of the sandbox container") {
			return fmt.Errorf("%q says nothing about TOKEN and envFrom", text)
		}
		return nil
	}
	eventually(t, "tell of it", func() error {
		for _, c := range s.batch("b").Status.Conditions {
			if c.Type == v1alpha1.ConditionReady && c.Reason == v1alpha1.ReasonInvalidTask {
				return says(c.Message)
			}
		}
		return fmt.Errorf("conditions %+v", s.batch("b").Status.Conditions)
	})
	eventually(t, "tell of it in an event", func() error {
		var list eventsv1.EventList
		if err := s.client.List(s.ctx, &list, client.InNamespace(s.name)); err != nil {
			return err
		}
		for i := range list.Items {
			if e := &list.Items[i]; e.Reason == v1alpha1.ReasonInvalidTask && e.Regarding.Name == "b" {
				return says(e.Note)
			}
		}
		return fmt.Errorf("%d events, none of them that", len(list.Items))
	})
	s.idle("p", 1)
}

// kubectl runs the real kubectl in the test's namespace.
func (s *space) kubectl(args ...string) (string, error) {
	s.t.Helper()
	path := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")
	if _, err := os.Stat(path); err != nil {
		path = "kubectl"
	}
	cmd := exec.CommandContext(s.ctx, path, append([]string{"--kubeconfig", s.kubeconfig, "--namespace", s.name}, args...)...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Whoever waits for the tasks learns of their end whether they succeeded or not, and then reads which.
func TestKubectlWaitsForTheTasks(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 4))
	dir := t.TempDir()
	sb := makeTaskBatch("b", "p", "while [ ! -e "+dir+"/go ]; do sleep 0.05; done; exit $CODE", 4)
	sb.Spec.TaskTemplate.Spec.Process.Env = []corev1.EnvVar{{Name: "CODE", Value: "0"}}
	sb.Spec.ShardTaskPatches = []v1alpha1.RawObject{
		*raw(`{}`),
		*raw(`{"spec":{"process":{"env":[{"name":"CODE","value":"3"}]}}}`),
		*raw(`{"spec":{"process":{"command":["/no/such/program"]}}}`),
	}
	s.create(sb)
	if out, err := s.kubectl("wait", "--for=condition=TasksCompleted", "batchsandbox/b", "--timeout=1s"); err == nil {
		t.Errorf("kubectl doesn't wait for tasks that run: %s", out)
	}
	type answer struct {
		out string
		err error
	}
	waited := make(chan answer, 1)
	go func() {
		out, err := s.kubectl("wait", "--for=condition=TasksCompleted", "batchsandbox/b", "--timeout=60s")
		waited <- answer{out, err}
	}()
	s.must(os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
	if a := <-waited; a.err != nil || !strings.Contains(a.out, "b condition met") {
		t.Fatalf("kubectl wait: %v\n%s", a.err, a.out)
	}
	for path, want := range map[string]string{
		`{.status.conditions[?(@.type=="TasksCompleted")].reason}`:   "TasksFailed",
		`{.status.conditions[?(@.type=="TasksCompleted")].message}`:  "2 of 4 tasks failed: 1 by themselves (NonZeroExit), 1 by the infrastructure (StartError)",
		`{.status.completedIndexes} {.status.failedIndexes}`:         "0,3 1-2",
		`{.status.failedReasons[?(@.reason=="StartError")].indexes}`: "2",
	} {
		if got, err := s.kubectl("get", "batchsandbox/b", "-o", "jsonpath="+path); err != nil || got != want {
			t.Errorf("%s is %q (%v), want %q", path, got, err, want)
		}
	}
	s.create(makeTaskBatch("good", "p", "true", 1))
	if out, err := s.kubectl("wait", "--for=condition=TasksCompleted", "batchsandbox/good", "--timeout=60s"); err != nil {
		t.Errorf("kubectl wait: %v\n%s", err, out)
	}
}

// The last lines of a task that writes what it likes can be shown on any terminal, and fit.
func TestTheOutputOfAFailedTaskIsFitToBeShown(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	s.startController("")
	s.create(taskPool("p", 1))
	s.create(makeTaskBatch("b", "p", `exec >&2; i=0; while [ $i -lt 500 ]; do echo "line $i äöü"; i=$((i+1)); done; printf '\033[31mred\033[0m \377\376 \tend\n'; exit 1`, 1))
	st := s.tasksEnded("b").Status
	if len(st.FailedTasks) != 1 {
		t.Fatalf("failedTasks %+v, want one", st.FailedTasks)
	}
	out := st.FailedTasks[0].Output
	if len(out) > 1024 || len(out) < 512 || !utf8.ValidString(out) || strings.Contains(out, "line 0 ") || !strings.Contains(out, "line 499 äöü\n") {
		t.Errorf("output of %d bytes %q, want the last 1024 at most, as text", len(out), out)
	}
	if !strings.Contains(out, "red") || !strings.Contains(out, "\tend") {
		t.Errorf("output %q, want what the task wrote last", out)
	}
	for _, r := range out {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || r == utf8.RuneError {
			t.Errorf("output %q has %q", out, r)
		}
	}
}
