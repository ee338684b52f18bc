// SPDX-License-Identifier: Apache-2.0

package recycling

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// eligible is a pod with a sandbox, a sidecar, an executor with its records, and the token that every pod has.
func eligible() *corev1.Pod {
	token := corev1.VolumeMount{Name: "token", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true}
	pod := &corev1.Pod{
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "sidecar", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}},
			Containers: []corev1.Container{
				{Name: "sandbox", VolumeMounts: []corev1.VolumeMount{token}},
				{Name: v1alpha1.TaskExecutorContainer, VolumeMounts: []corev1.VolumeMount{
					token, {Name: v1alpha1.TaskRecordsVolume, MountPath: v1alpha1.TaskRecordsPath},
				}},
			},
			Volumes: []corev1.Volume{
				{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}},
				{Name: v1alpha1.TaskRecordsVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
		},
	}
	AddRestartRules(&pod.Spec)
	run(pod, "1")
	return pod
}

// run gives every container a new ID, as the kubelet does when all are restarted.
func run(pod *corev1.Pod, life string) {
	status := func(name string) corev1.ContainerStatus {
		return corev1.ContainerStatus{
			Name: name, ContainerID: "containerd://" + name + life, Ready: true,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}
	}
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.0.0.1", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		InitContainerStatuses: []corev1.ContainerStatus{status("sidecar")},
		ContainerStatuses:     []corev1.ContainerStatus{status("sandbox"), status(v1alpha1.TaskExecutorContainer)},
	}
}

func volume(source corev1.VolumeSource, readOnly bool) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "v", VolumeSource: source})
		sandbox := &pod.Spec.Containers[0]
		sandbox.VolumeMounts = append(sandbox.VolumeMounts, corev1.VolumeMount{Name: "v", MountPath: "/v", ReadOnly: readOnly})
	}
}

func security(context corev1.SecurityContext) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.Containers[0].SecurityContext = &context }
}

func TestObstacle(t *testing.T) {
	emptyDir := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	hostPath := corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv"}}
	claim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   string // part of it; "" for none
	}{
		"a sandbox and an executor":           {func(*corev1.Pod) {}, ""},
		"a writable emptyDir":                 {volume(emptyDir, false), "container sandbox can write to volume v"},
		"an emptyDir that is read":            {volume(emptyDir, true), ""},
		"a writable hostPath":                 {volume(hostPath, false), "volume v"},
		"a hostPath that is read":             {volume(hostPath, true), ""},
		"a claim":                             {volume(claim, false), "volume v"},
		"a secret":                            {volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}, false), ""},
		"a config map":                        {volume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}, false), ""},
		"the downward API":                    {volume(corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{}}, false), ""},
		"a volume of a kind that isn't known": {volume(corev1.VolumeSource{}, false), "volume v"},
		"a writable volume of a sidecar": {func(p *corev1.Pod) {
			volume(emptyDir, true)(p)
			p.Spec.InitContainers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		}, "container sidecar can write to volume v"},
		"a block device": {func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "disk"}}
		}, "volume disk"},
		"the executor's records, mounted in the sandbox too": {func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts,
				corev1.VolumeMount{Name: v1alpha1.TaskRecordsVolume, MountPath: "/v", ReadOnly: true})
		}, "container task-executor can write to volume " + v1alpha1.TaskRecordsVolume},
		"records on a claim": {func(p *corev1.Pod) { p.Spec.Volumes[1].VolumeSource = claim }, "volume " + v1alpha1.TaskRecordsVolume},
		"no rules":           {func(p *corev1.Pod) { RemoveRestartRules(&p.Spec) }, "has no rule"},
		"rules of the template's own": {func(p *corev1.Pod) {
			p.Spec.Containers[1].RestartPolicyRules[0].Action = corev1.ContainerRestartRuleActionRestart
		}, "has no rule"},
		"another exit code":     {func(p *corev1.Pod) { p.Spec.Containers[1].RestartPolicyRules[0].ExitCodes.Values[0] = 1 }, "has no rule"},
		"never restarted":       {func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }, "has no rule"},
		"no executor":           {func(p *corev1.Pod) { p.Spec.Containers[1].Name = "other" }, "no container"},
		"an ephemeral one":      {func(p *corev1.Pod) { p.Spec.EphemeralContainers = make([]corev1.EphemeralContainer, 1) }, "ephemeral"},
		"the node's network":    {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "namespace of its node"},
		"a privileged one":      {security(corev1.SecurityContext{Privileged: ptr.To(true)}), "privileged"},
		"one that may trace":    {security(corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_PTRACE"}}}), ""},
		"one with the network":  {security(corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}}}), "NET_ADMIN"},
		"a container not made":  {func(p *corev1.Pod) { p.Status.ContainerStatuses[0].ContainerID = "" }, "no ID"},
		"a sidecar not told of": {func(p *corev1.Pod) { p.Status.InitContainerStatuses = nil }, "no ID"},
		"on its way out":        {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }, "deleted"},
		"ended":                 {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, "ended"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := eligible()
			c.change(pod)
			if got := Obstacle(pod); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("obstacle %q, want %q", got, c.want)
			}
		})
	}
}

func TestRestartRulesAreAddedOnlyWhereTheyHelp(t *testing.T) {
	executor := corev1.Container{Name: v1alpha1.TaskExecutorContainer}
	own := executor
	own.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyNever)
	for name, c := range map[string]struct {
		spec corev1.PodSpec
		want bool
	}{
		"an executor beside a sandbox":  {corev1.PodSpec{Containers: []corev1.Container{{Name: "s"}, executor}}, true},
		"restartPolicy Always":          {corev1.PodSpec{RestartPolicy: "Always", Containers: []corev1.Container{{Name: "s"}, executor}}, true},
		"restartPolicy Never":           {corev1.PodSpec{RestartPolicy: "Never", Containers: []corev1.Container{{Name: "s"}, executor}}, false},
		"no executor":                   {corev1.PodSpec{Containers: []corev1.Container{{Name: "s"}, {Name: "t"}}}, false},
		"nothing but an executor":       {corev1.PodSpec{Containers: []corev1.Container{executor}}, false},
		"an executor with its own rule": {corev1.PodSpec{Containers: []corev1.Container{{Name: "s"}, own}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.spec.DeepCopy()
			AddRestartRules(&c.spec)
			got := hasRestartRules(&c.spec.Containers[len(c.spec.Containers)-1])
			if got != c.want || RemoveRestartRules(&c.spec) != c.want {
				t.Errorf("rules: %t, want %t", got, c.want)
			}
			if diff := cmp.Diff(before, &c.spec); diff != "" {
				t.Errorf("taken away again, something else differs (-want +got):\n%s", diff)
			}
		})
	}
	if v1alpha1.TaskExecutorRecycleExitCode != taskexecutor.RecycleExitCode {
		t.Error("the executor exits with another code than the rule waits for")
	}
}

// marked is when the marks of these tests were written, as the annotation has it: to the second.
var marked = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestTheTimeOfARecyclingCountsFromItsMark(t *testing.T) {
	for name, c := range map[string]struct {
		since, seen, now time.Time
		want             time.Duration
	}{
		"seen at once":                                 {marked, marked, marked.Add(time.Second), 59 * time.Second},
		"seen late, after a restart":                   {marked, marked.Add(40 * time.Second), marked.Add(45 * time.Second), 15 * time.Second},
		"seen when it was over":                        {marked, marked.Add(time.Hour), marked.Add(time.Hour), -59 * time.Minute},
		"a mark of an older controller":                {time.Time{}, marked, marked.Add(time.Second), 59 * time.Second},
		"a mark from the future":                       {marked.Add(time.Hour), marked, marked.Add(time.Minute), 0},
		"a clock that was set back before it was seen": {marked, marked.Add(-time.Hour), marked.Add(-time.Hour), time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (Mark{Since: c.since}).Left(c.seen, c.now, time.Minute); got != c.want {
				t.Errorf("%v left, want %v", got, c.want)
			}
		})
	}
}

func TestAMarkHasTheTimeInTheFormThatIsDocumented(t *testing.T) {
	pod := eligible()
	zone := time.FixedZone("somewhere", 3600)
	text := MarkOf(pod, "b", marked.Add(123*time.Millisecond).In(zone)).Encode()
	if want := `"since":"2026-01-01T12:00:00Z"`; !strings.Contains(text, want) {
		t.Errorf("mark %s, want %s in it", text, want)
	}
	if text := (Mark{Batch: "b"}).Encode(); strings.Contains(text, "since") {
		t.Errorf("a mark without a time is written as %s", text)
	}
}

func TestProgress(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   Progress
	}{
		"nothing happened":      {func(*corev1.Pod) {}, Untouched},
		"all are new and Ready": {func(p *corev1.Pod) { run(p, "2") }, Restarted},
		"the executor is old": {func(p *corev1.Pod) {
			run(p, "2")
			p.Status.ContainerStatuses[1].ContainerID = "containerd://task-executor1"
		}, Untouched},
		"the sandbox is old, and was ended": {func(p *corev1.Pod) {
			run(p, "2")
			p.Status.ContainerStatuses[0].ContainerID, p.Status.ContainerStatuses[0].State.Running = "containerd://sandbox1", nil
		}, Restarting},
		"the sandbox runs on, and the executor anew": {func(p *corev1.Pod) {
			run(p, "2")
			p.Status.ContainerStatuses[0].ContainerID = "containerd://sandbox1"
		}, Alone},
		"the sandbox runs on, and the executor is ended": {func(p *corev1.Pod) {
			run(p, "2")
			p.Status.ContainerStatuses[0].ContainerID = "containerd://sandbox1"
			p.Status.ContainerStatuses[1].ContainerID, p.Status.ContainerStatuses[1].State.Running = "", nil
		}, Restarting},
		"the sidecar is old, and was ended": {func(p *corev1.Pod) {
			run(p, "2")
			p.Status.InitContainerStatuses[0].ContainerID, p.Status.InitContainerStatuses[0].State.Running = "containerd://sidecar1", nil
		}, Restarting},
		"the sidecar runs on, and the executor anew": {func(p *corev1.Pod) {
			run(p, "2")
			p.Status.InitContainerStatuses[0].ContainerID = "containerd://sidecar1"
		}, Alone},
		"the sidecar is not told of": {func(p *corev1.Pod) { run(p, "2"); p.Status.InitContainerStatuses = nil }, Restarting},
		"the executor is not made":   {func(p *corev1.Pod) { run(p, "2"); p.Status.ContainerStatuses[1].ContainerID = "" }, Restarting},
		"one doesn't run":            {func(p *corev1.Pod) { run(p, "2"); p.Status.ContainerStatuses[0].State.Running = nil }, Restarting},
		"one isn't ready":            {func(p *corev1.Pod) { run(p, "2"); p.Status.ContainerStatuses[0].Ready = false }, Restarting},
		"the pod isn't Ready":        {func(p *corev1.Pod) { run(p, "2"); p.Status.Conditions = nil }, Restarting},
		"the mark lacks one": {func(p *corev1.Pod) {
			run(p, "2")
			p.Status.ContainerStatuses[0].Name = "unheard-of"
		}, Restarting},
	} {
		t.Run(name, func(t *testing.T) {
			pod := eligible()
			mark := MarkOf(pod, "batch", marked)
			pod.Annotations = map[string]string{v1alpha1.RecyclingAnnotation: mark.Encode()}
			parsed, err := Parse(pod)
			if diff := cmp.Diff(mark, parsed); err != nil || diff != "" || len(parsed.Containers) != 3 {
				t.Fatalf("%v: the mark as it is read (-want +got):\n%s", err, diff)
			}
			c.change(pod)
			if got := ProgressOf(parsed, pod); got != c.want {
				t.Errorf("progress %d, want %d", got, c.want)
			}
		})
	}
}

func TestAMarkThatProvesNothingIsAnError(t *testing.T) {
	for _, text := range []string{``, `{}`, `x`, `{"batch":"b"}`, `{"containers":{"a":"b"}}`, `{"batch":"b","containers":{"a":"b"},"since":"soon"}`} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.RecyclingAnnotation: text}}}
		if m, err := Parse(pod); err == nil {
			t.Errorf("%q is read as %+v", text, m)
		}
	}
}
