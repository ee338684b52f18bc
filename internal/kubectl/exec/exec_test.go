// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
)

func podOf(phase corev1.PodPhase, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "here", Name: "p-1"}, Status: corev1.PodStatus{Phase: phase}}
	for _, name := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name})
	}
	return p
}

func TestContainerOf(t *testing.T) {
	for name, tc := range map[string]struct {
		pod       *corev1.Pod
		asked     string
		want, err string
	}{
		"the sandbox's":                {podOf(corev1.PodRunning, "task-executor", "box"), "", "box", ""},
		"the one that is asked for":    {podOf(corev1.PodRunning, "box", "task-executor"), "task-executor", "task-executor", ""},
		"one that there is not":        {podOf(corev1.PodRunning, "box", "task-executor"), "other", "", "pod p-1 has no container other: it has box, task-executor"},
		"of a pod that has not begun":  {podOf(corev1.PodPending, "box"), "", "", "has not started yet: see kubectl sandbox explain web"},
		"of a pod that has ended":      {podOf(corev1.PodSucceeded, "box"), "", "", "current phase of pod p-1 is Succeeded"},
		"of a pod that failed earlier": {podOf(corev1.PodFailed, "box"), "", "", "current phase of pod p-1 is Failed"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options{name: "web", container: tc.asked}
			got, err := o.containerOf(tc.pod)
			if got != tc.want || (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("%q, %v; want %q, %q", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestNoPod(t *testing.T) {
	sb := &v1alpha1.BatchSandbox{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       v1alpha1.BatchSandboxSpec{Replicas: ptr.To(int32(2)), TaskTemplate: &v1alpha1.TaskTemplate{}},
		Status: v1alpha1.BatchSandboxStatus{
			CompletedIndexes: "0",
			Conditions:       []metav1.Condition{{Type: "Allocated", Status: "False", Reason: "WaitingForPool", Message: "waiting for pods of Pool small"}},
		},
	}
	for index, want := range []string{
		"index 0 of batchsandbox web has no sandbox any more: its task ended (see kubectl sandbox results web)",
		"index 1 of batchsandbox web has no sandbox yet: waiting for pods of Pool small (see kubectl sandbox explain web)",
	} {
		if got := noPod(sb, index).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestExitOf(t *testing.T) {
	var exit *cluster.ExitError
	err := exitOf(utilexec.CodeExitError{Err: errors.New("x"), Code: 5})
	if !errors.As(err, &exit) || exit.Code != 5 || err.Error() != "command terminated with exit code 5" {
		t.Errorf("%#v", err)
	}
	broken := errors.New("connection lost")
	if got := exitOf(broken); !errors.Is(got, broken) || errors.As(got, &exit) {
		t.Errorf("%#v", got)
	}
	if got := exitOf(nil); got != nil {
		t.Errorf("%#v", got)
	}
}

func TestExecURL(t *testing.T) {
	core, err := corev1client.NewForConfig(&rest.Config{Host: "https://10.0.0.1:6443"})
	if err != nil {
		t.Fatal(err)
	}
	at := execURL(core, podOf(corev1.PodRunning, "box"), &corev1.PodExecOptions{Container: "box", Command: []string{"ls", "-l"}, Stdout: true})
	if got, want := at.String(), "https://10.0.0.1:6443/api/v1/namespaces/here/pods/p-1/exec?command=ls&command=-l&container=box&stdout=true"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestATerminalIsOnlyPassedOnWhereThereIsOne(t *testing.T) {
	streams, in, _, _ := genericiooptions.NewTestIOStreams()
	if got := newTerminal(streams, false, false); got.in != nil || got.raw {
		t.Errorf("without -i: %+v", got)
	}
	if got := newTerminal(streams, true, true); got.in != in || got.raw {
		t.Errorf("with -it and a file: %+v", got)
	}
}
