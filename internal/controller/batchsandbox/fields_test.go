// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

func fromField(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

func TestFieldsOfAPod(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "p-0", Namespace: "team", UID: "u",
			Labels: map[string]string{"app": "web", "a.b/c": "x"}, Annotations: map[string]string{"Note": "hello\nyou"},
		},
		Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "robot"},
		Status: corev1.PodStatus{
			HostIP: "10.1.0.1", HostIPs: []corev1.HostIP{{IP: "10.1.0.1"}, {IP: "fd00::1"}},
			PodIP: "10.2.0.1", PodIPs: []corev1.PodIP{{IP: "10.2.0.1"}, {IP: "fd00::2"}},
		},
	}
	for path, want := range map[string]string{
		"metadata.name": "p-0", "metadata.namespace": "team", "metadata.uid": "u",
		"metadata.labels['app']": "web", "metadata.labels['a.b/c']": "x", "metadata.labels['none']": "",
		"metadata.annotations['Note']": "hello\nyou", "metadata.annotations['none']": "",
		"spec.nodeName": "n1", "spec.host": "n1", "spec.serviceAccountName": "robot",
		"status.hostIP": "10.1.0.1", "status.hostIPs": "10.1.0.1,fd00::1", "status.podIP": "10.2.0.1", "status.podIPs": "10.2.0.1,fd00::2",
	} {
		t.Run(path, func(t *testing.T) {
			checked, err := checkFieldRef(&corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path})
			if err != nil {
				t.Fatal(err)
			}
			if got := fieldOf(pod, checked); got != want {
				t.Errorf("%s is %q, want %q", path, got, want)
			}
			if got := fieldOf(&corev1.Pod{}, checked); got != "" {
				t.Errorf("%s of an empty pod is %q", path, got)
			}
		})
	}
}

func TestAValueFromThatIsRefused(t *testing.T) {
	secret := &corev1.SecretKeySelector{Key: "k"}
	cases := map[string]struct {
		from  corev1.EnvVarSource
		value string
		want  string
	}{
		"a Secret":                    {from: corev1.EnvVarSource{SecretKeyRef: secret}, want: "envFrom of the sandbox container"},
		"a ConfigMap":                 {from: corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{}}, want: "envFrom of the sandbox container"},
		"a file":                      {from: corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{}}, want: "fileKeyRef"},
		"a resource":                  {from: corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{}}, want: "resourceFieldRef"},
		"nothing":                     {want: "without a source"},
		"a Secret and a field":        {from: corev1.EnvVarSource{SecretKeyRef: secret, FieldRef: fromField("", "metadata.name").ValueFrom.FieldRef}, want: "Secret"},
		"a value and a field":         {from: *fromField("", "metadata.name").ValueFrom, value: "v", want: "both a value and a valueFrom"},
		"an unknown field":            {from: *fromField("", "spec.node").ValueFrom, want: `"spec.node": there is no such field; there are metadata.labels['KEY']`},
		"an empty field":              {from: *fromField("", "").ValueFrom, want: "no such field"},
		"all labels":                  {from: *fromField("", "metadata.labels").ValueFrom, want: "no such field"},
		"an unclosed key":             {from: *fromField("", "metadata.labels['x").ValueFrom, want: "no such field"},
		"a key of another field":      {from: *fromField("", "spec.nodeSelector['x']").ValueFrom, want: "no such field"},
		"a label key that can't be":   {from: *fromField("", "metadata.labels['a b']").ValueFrom, want: "the key is wrong"},
		"an empty annotation key":     {from: *fromField("", "metadata.annotations['']").ValueFrom, want: "the key is wrong"},
		"a field of another version":  {from: corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v2", FieldPath: "metadata.name"}}, want: "apiVersion"},
		"the phase, as no pod can do": {from: *fromField("", "status.phase").ValueFrom, want: "no such field"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sb := taskBatch().Obj()
			sb.Spec.TaskTemplate.Spec.Process.Env = []corev1.EnvVar{{Name: "V", Value: c.value, ValueFrom: &c.from}}
			task, _, problem := desiredTask(sb, 0, 1)
			if problem == nil {
				t.Fatalf("made %+v", task)
			}
			if problem.reason != v1alpha1.ReasonInvalidTask || !strings.Contains(problem.message, c.want) || !strings.Contains(problem.message, "V") {
				t.Errorf("problem %+v, want InvalidTask with V and %q", *problem, c.want)
			}
		})
	}
}

func TestAPatchNamesAnotherSource(t *testing.T) {
	cases := map[string]struct {
		env   string // of the patch
		value string // of A, whose value is 1 in the template
		path  string // of B, which has the pod's name in the template
		wrong string // in the message
	}{
		"without a change each keeps its own":         {`{"name":"C","value":"c"}`, "1", "metadata.name", ""},
		"a valueFrom replaces the value":              {`{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}`, "from status.podIP", "metadata.name", ""},
		"a value replaces the valueFrom":              {`{"name":"B","value":"b"}`, "1", "", ""},
		"an empty value too":                          {`{"name":"B","value":""}`, "1", "", ""},
		"a null valueFrom leaves an empty value":      {`{"name":"B","valueFrom":null}`, "1", "", ""},
		"another field replaces the field":            {`{"name":"B","valueFrom":{"fieldRef":{"fieldPath":"metadata.uid"}}}`, "1", "metadata.uid", ""},
		"both in the patch are one too many":          {`{"name":"A","value":"x","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}`, "", "", "both a value and a valueFrom"},
		"a patch can't bring a Secret in either":      {`{"name":"A","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}`, "", "", "Secret"},
		"a field that is none is told of its index":   {`{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"pod.name"}}}`, "", "", "the task of index 0 takes A"},
		"a variable of the template can be taken out": {`{"name":"B","$patch":"delete"}`, "1", "", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			sb := taskBatch(`{"spec":{"process":{"env":[` + c.env + `]}}}`).Obj()
			sb.Spec.TaskTemplate.Spec.Process.Env = []corev1.EnvVar{{Name: "A", Value: "1"}, fromField("B", "metadata.name")}
			task, refs, problem := desiredTask(sb, 0, 1)
			if c.wrong != "" {
				if problem == nil || !strings.Contains(problem.message, c.wrong) {
					t.Fatalf("problem %+v, want %q", problem, c.wrong)
				}
				return
			}
			if problem != nil {
				t.Fatal(problem.message)
			}
			for _, ref := range refs {
				task.Process.Env[ref.entry].Value = "from " + ref.path
			}
			got := map[string]string{}
			for _, e := range task.Process.Env {
				got[e.Name] = e.Value
			}
			if path := strings.TrimPrefix(got["B"], "from "); got["A"] != c.value || (path != c.path && got["B"] != "b") {
				t.Errorf("environment %v, want A=%s and B from %q", got, c.value, c.path)
			}
		})
	}
}

// envOf is what the executor at an address was told to lay over the environment.
func (w *world) envOf(ip string) map[string]string {
	w.t.Helper()
	e := w.executor(ip)
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.tasks) != 1 {
		w.t.Fatalf("the executor at %s has %d tasks, want one", ip, len(e.tasks))
	}
	env := map[string]string{}
	for _, v := range e.tasks[0].Process.Env {
		env[v.Name] = v.Value
	}
	return env
}

func TestATaskGetsTheFieldsOfItsOwnPod(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		sb := pooledBatch(2).Task("true").Obj()
		sb.Spec.TaskTemplate.Spec.Process.Env = []corev1.EnvVar{
			{Name: "KIND", Value: "rollout"}, fromField("POD", "metadata.name"), fromField("IP", "status.podIP"),
			fromField("INDEX", "metadata.labels['"+v1alpha1.PodIndexLabel+"']"), fromField("BATCH", "metadata.labels['"+v1alpha1.BatchNameLabel+"']"),
			fromField("POOL", "metadata.labels['"+v1alpha1.PoolNameLabel+"']"),
		}
		w.create(sb)
		w.reconcile()
		for ip, want := range map[string]map[string]string{
			"10.0.0.10": {"KIND": "rollout", "POD": "p-0", "IP": "10.0.0.10", "INDEX": "0", "BATCH": "b", "POOL": "p"},
			"10.0.0.11": {"KIND": "rollout", "POD": "p-1", "IP": "10.0.0.11", "INDEX": "1", "BATCH": "b", "POOL": "p"},
		} {
			if diff := cmp.Diff(want, w.envOf(ip)); diff != "" {
				t.Errorf("environment at %s (-want +got):\n%s", ip, diff)
			}
		}
	})
}

// A cache that doesn't show the pod yet holds its task up and no other.
func TestATaskWaitsUntilItsPodIsSeen(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 2)
		sb := pooledBatch(2).Task("true").TaskPatches(`{"spec":{"process":{"env":[{"name":"POD","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]}}}`).Obj()
		w.create(sb)
		pod := w.pods()[0]
		if err := w.client.Delete(t.Context(), &pod); err != nil { // the ledger doesn't know
			t.Fatal(err)
		}
		res, err := w.tryReconcileBlind()
		if err != nil || res != staleRetry {
			t.Fatalf("looks again after %s (%v), want %s", res, err, staleRetry)
		}
		if n := w.executor("10.0.0.10").setCount(); n != 0 {
			t.Errorf("told the executor of an unseen pod %d times", n)
		}
		if n := w.executor("10.0.0.11").setCount(); n != 1 {
			t.Errorf("told the other executor %d times, want once", n)
		}
	})
}

func TestAFieldThatIsNoneIsToldBeforeAnySandboxIsTaken(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 3)
		sb := pooledBatch(3).Task("true").TaskPatches(`{}`, `{"spec":{"process":{"env":[{"name":"X","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]}}}`).Obj()
		w.create(sb)
		w.reconcile()
		w.wantCondition(v1alpha1.ConditionReady, "False/InvalidTask")
		if c := condition(w.batch(), v1alpha1.ConditionReady); !strings.Contains(c.Message, "the task of index 1 takes X from a Secret") {
			t.Errorf("message %q", c.Message)
		}
		if diff := cmp.Diff([]string{v1alpha1.ReasonInvalidTask}, w.toldEvents()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		if c := w.counts(); c.Held != 0 || c.Idle != 3 {
			t.Errorf("counts %+v, want none held", c)
		}
	})
}

// The fields of a pod may change while a try runs, and a controller that starts anew asks for it with what they are then.
func TestARunningTryKeepsWhatItGot(t *testing.T) {
	inWorld(t, func(w *world) {
		w.addPool(v1alpha1.RecycleNoop, 1)
		pods := w.pods()
		note := func(text string) {
			pod := &corev1.Pod{}
			if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(&pods[0]), pod); err != nil {
				t.Fatal(err)
			}
			pod.Annotations = map[string]string{"note": text}
			if err := w.client.Update(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
		}
		note("first")
		sb := pooledBatch(1).Task("true").Obj()
		sb.Spec.TaskTemplate.Spec.Process.Env = []corev1.EnvVar{fromField("NOTE", "metadata.annotations['note']")}
		w.create(sb)
		w.reconcile()
		e := w.executor("10.0.0.10")
		e.becomes(running)
		w.reconcile()
		note("second")
		e.change(func() { e.refuse = &taskexecutor.StatusError{Status: http.StatusConflict} }) // it knows the name with another process

		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		w.runner = NewRunner(ctx, w.runner.clock, func(types.NamespacedName) {}, w.dial)
		w.startController()
		w.news()
		w.reconcile()
		if got := w.envOf("10.0.0.10"); got["NOTE"] != "first" || e.setCount() != 1 {
			t.Errorf("the try has %v after %d calls", got, e.setCount())
		}
		if s := w.runner.states(sb.UID)[0]; s.phase != taskRunning {
			t.Errorf("state %+v, want running", s)
		}
		e.becomes(endedWith(taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted}))
		w.settled()
		w.wantCondition(v1alpha1.ConditionTasksCompleted, "True/TasksSucceeded")
		cancel()
		synctest.Wait()
	})
}
