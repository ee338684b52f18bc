// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/test/wrappers"
)

func TestDesiredPod(t *testing.T) {
	pool := wrappers.MakePool(namespace, "p").Template(`{
		"metadata": {
			"name": "mine", "namespace": "theirs", "finalizers": ["example.com/keep"],
			"labels": {
				"app": "sandbox",
				"sandbox.opensandbox.io/pool-name": "other",
				"sandbox.opensandbox.io/pool-revision": "other",
				"batch-sandbox.sandbox.opensandbox.io/name": "b",
				"batch-sandbox.sandbox.opensandbox.io/pod-index": "1",
				"pool.opensandbox.io/evict": ""
			},
			"annotations": {"note": "kept", "sandbox.opensandbox.io/recycling": "{}", "sandbox.opensandbox.io/task-failures": "{}"}
		},
		"spec": {"containers": [{"name": "sandbox", "image": "ubuntu"}, {"name": "task-executor", "image": "executor"}]}
	}`).Obj()
	template, err := podtemplate.Decode(pool.Spec.Template)
	if err != nil {
		t.Fatal(err)
	}
	before := template.DeepCopy()
	want := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "p-abcde", Finalizers: []string{"example.com/keep"},
			Labels: map[string]string{
				"app": "sandbox", "sandbox.opensandbox.io/pool-name": "p", "sandbox.opensandbox.io/pool-revision": "rev",
			},
			Annotations: map[string]string{"note": "kept"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "sandbox.opensandbox.io/v1alpha1", Kind: "Pool", Name: "p", UID: "uid-p",
				Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
			}},
		},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{
				{Name: "sandbox", Image: "ubuntu"},
				{
					Name: "task-executor", Image: "executor",
					Env:           []corev1.EnvVar{{Name: "SANDBOX_SIDECAR_MODE", Value: "true"}},
					VolumeMounts:  []corev1.VolumeMount{{Name: "task-executor-records", MountPath: "/var/lib/sandbox/tasks"}},
					RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways),
					RestartPolicyRules: []corev1.ContainerRestartRule{{
						Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
						ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{88}},
					}},
				},
			},
			Volumes: []corev1.Volume{{
				Name: "task-executor-records", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}},
			}},
		},
	}
	if diff := cmp.Diff(want, desiredPod(pool, template, "rev", "p-abcde")); diff != "" {
		t.Errorf("pod (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, template); diff != "" {
		t.Errorf("the template was changed (-before +after):\n%s", diff)
	}
}

func TestPodName(t *testing.T) {
	tests := map[string]struct{ pool, want string }{
		"a short name is kept":                 {"p", "p-abcde"},
		"the longest name that fits is kept":   {strings.Repeat("p", 57), strings.Repeat("p", 57) + "-abcde"},
		"a longer one is cut":                  {strings.Repeat("p", 63), strings.Repeat("p", 57) + "-abcde"},
		"a cut leaves no separator at the end": {strings.Repeat("p", 55) + "-.pppppp", strings.Repeat("p", 55) + "-abcde"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := podName(tt.pool, "abcde")
			if got != tt.want {
				t.Errorf("podName(%q) is %q, want %q", tt.pool, got, tt.want)
			}
			if msgs := validation.IsDNS1123Subdomain(got); len(msgs) > 0 || len(got) > maxPodName {
				t.Errorf("%q is no pod name: %v", got, msgs)
			}
		})
	}
}

func TestMaxStarting(t *testing.T) {
	pool := func(value string) *v1alpha1.Pool {
		return wrappers.MakePool(namespace, "p").Buffer(10, 10).Size(0, 100).MaxUnavailable(value).Obj()
	}
	tests := map[string]struct {
		pool   *v1alpha1.Pool
		counts scheduler.Counts
		want   int
	}{
		"unset is no limit":                     {wrappers.MakePool(namespace, "p").Obj(), scheduler.Counts{}, -1},
		"a number is itself":                    {pool("3"), scheduler.Counts{}, 3},
		"none may start":                        {pool("0"), scheduler.Counts{}, 0},
		"a part of the pods an empty pool gets": {pool("25%"), scheduler.Counts{}, 3},
		"a part of the pods, held ones too":     {pool("25%"), scheduler.Counts{Idle: 10, Held: 30}, 10},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := maxStarting(tt.pool, tt.counts, 0); got != tt.want {
				t.Errorf("maxStarting is %d, want %d", got, tt.want)
			}
		})
	}
}

func TestEndedEarly(t *testing.T) {
	created := time.Unix(1000, 0)
	ran := func(d time.Duration) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			StartedAt: metav1.NewTime(created), FinishedAt: metav1.NewTime(created.Add(d)),
		}}}}
	}
	tests := map[string]struct {
		statuses []corev1.ContainerStatus
		age      time.Duration
		want     bool
	}{
		"it ran for a second, after a slow pull":       {ran(time.Second), time.Hour, true},
		"it ran for an hour":                           {ran(time.Hour), time.Hour, false},
		"one container stayed":                         {append(ran(time.Second), ran(time.Hour)...), time.Hour, false},
		"a node refused it":                            {nil, 5 * time.Second, true},
		"its node went, and its statuses never came":   {nil, time.Hour, false},
		"it never started, and was evicted much later": {[]corev1.ContainerStatus{{}}, time.Hour, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(created)},
				Status:     corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: tt.statuses},
			}
			if got := endedEarly(pod, created.Add(tt.age)); got != tt.want {
				t.Errorf("ended early: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	now := time.Unix(1000, 0)
	b.fail(now)
	b.fail(now.Add(999 * time.Millisecond))
	if got := b.at(now); got.wait != firstWait || !got.failing {
		t.Errorf("after two failures of one try: %+v, want a wait of %v", got, firstWait)
	}
	for range 100 {
		now = b.until
		b.fail(now)
	}
	if got := b.at(now); got.wait != longestWait {
		t.Errorf("after a hundred failures: %+v, want a wait of %v", got, longestWait)
	}
	if got := b.at(b.until.Add(time.Hour)); got.wait != 0 || !got.failing {
		t.Errorf("after the wait: %+v, want no wait, and still failing", got)
	}
}

func TestReadyCondition(t *testing.T) {
	pool := wrappers.MakePool(namespace, "p").Buffer(2, 4).Size(0, 5).Obj()
	tests := map[string]struct {
		counts scheduler.Counts
		view   view
		want   string
	}{
		"bufferMin pods are idle":                     {counts: scheduler.Counts{Idle: 2}, want: "True/BufferReady"},
		"pods that start are not idle":                {counts: scheduler.Counts{Idle: 1, Starting: 3}, want: "False/BufferLow"},
		"idle pods that batches wait for don't count": {counts: scheduler.Counts{Idle: 3, Waiting: 2}, want: "False/BufferLow"},
		"the pool is as full as it may be":            {counts: scheduler.Counts{Idle: 1, Held: 4}, want: "True/BufferReady"},
		"the pool will be full":                       {counts: scheduler.Counts{Starting: 1, Held: 4}, want: "False/BufferLow"},
		"pods are refused": {
			view: view{refused: &problem{v1alpha1.ReasonPodsForbidden, "no"}}, want: "False/PodsForbidden",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			obs := observed{now: time.Unix(1000, 0), counts: tt.counts}
			status := poolStatus(pool, obs, scheduler.CapacityPlan{Limited: scheduler.LimitNone}, tt.view)
			c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
			if got := string(c.Status) + "/" + c.Reason; got != tt.want {
				t.Errorf("Ready is %s, want %s", got, tt.want)
			}
		})
	}
}

func TestShortenKeepsCharactersWhole(t *testing.T) {
	for n := 3; n < 12; n++ {
		got := shorten("aä中🙂bcdefgh", n)
		if len(got) > n || !utf8.ValidString(got) || !strings.HasSuffix(got, "...") {
			t.Errorf("shorten to %d bytes is %q", n, got)
		}
	}
	if got := shorten("abc", 3); got != "abc" {
		t.Errorf("a text that fits is %q, want it unchanged", got)
	}
}
