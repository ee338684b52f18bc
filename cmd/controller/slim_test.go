// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/internal/utils/recycling"
)

// fullPod is a pool's pod as a cluster has it: what the template says, what the controller and the API server add, and what
// the kubelet reports.
func fullPod() *corev1.Pod {
	start := metav1.NewTime(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))
	token := corev1.VolumeMount{Name: "kube-api-access-x7x2p", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "true"}}}, PeriodSeconds: 10}
	sizes := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "p-x7x2p", UID: "9f1e9c43-0f0c-4f6c-9d61-6d0f5b7a1a50", ResourceVersion: "123456", CreationTimestamp: start,
			Labels:          map[string]string{v1alpha1.PoolNameLabel: "p", v1alpha1.PoolRevisionLabel: "5d5d5d5d5d", "app": "sandbox"},
			Annotations:     map[string]string{"example.com/team": "a"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "sandbox.opensandbox.io/v1alpha1", Kind: "Pool", Name: "p", UID: "u", Controller: ptr.To(true)}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "controller", Operation: metav1.ManagedFieldsOperationUpdate}},
		},
		Spec: corev1.PodSpec{
			NodeName: "node-7", ServiceAccountName: "default", DeprecatedServiceAccount: "default", RestartPolicy: corev1.RestartPolicyAlways,
			SchedulerName: "default-scheduler", DNSPolicy: corev1.DNSClusterFirst, Priority: ptr.To(int32(0)), EnableServiceLinks: ptr.To(true),
			TerminationGracePeriodSeconds: ptr.To(int64(30)), SecurityContext: &corev1.PodSecurityContext{}, PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority),
			Tolerations: []corev1.Toleration{
				{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(300))},
				{Key: "node.kubernetes.io/unreachable", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(300))},
			},
			Volumes: []corev1.Volume{
				{Name: v1alpha1.TaskRecordsVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: token.Name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
					DefaultMode: ptr.To(int32(420)), Sources: []corev1.VolumeProjection{
						{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: ptr.To(int64(3607)), Path: "token"}},
						{ConfigMap: &corev1.ConfigMapProjection{
							LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
						}},
						{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
							{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
						}}},
					},
				}}},
			},
			Containers: []corev1.Container{
				{
					Name: "sandbox", Image: "registry.example.com/sandbox:1", Command: []string{"sleep", "infinity"}, VolumeMounts: []corev1.VolumeMount{token},
					Env:       []corev1.EnvVar{{Name: "SANDBOX_MAIN_CONTAINER", Value: "sandbox"}, {Name: "LANG", Value: "C.UTF-8"}},
					Resources: corev1.ResourceRequirements{Requests: sizes, Limits: sizes}, ReadinessProbe: probe, LivenessProbe: probe,
					ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
				},
				{
					Name: v1alpha1.TaskExecutorContainer, Image: "registry.example.com/task-executor:1",
					VolumeMounts:    []corev1.VolumeMount{token, {Name: v1alpha1.TaskRecordsVolume, MountPath: v1alpha1.TaskRecordsPath}},
					SecurityContext: &corev1.SecurityContext{RunAsUser: ptr.To(int64(0)), Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_PTRACE"}}},
				},
			},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.7", PodIPs: []corev1.PodIP{{IP: "10.0.0.7"}}, HostIP: "10.1.0.7", HostIPs: []corev1.HostIP{{IP: "10.1.0.7"}},
			StartTime: &start, QOSClass: corev1.PodQOSBurstable,
		},
	}
	recycling.AddRestartRules(&pod.Spec)
	podtemplate.AddRoot(&pod.Spec, "the root's certificate")
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(start.Add(3 * time.Second))})
	}
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, ImageID: c.Image + "@sha256:0123456789abcdef", ContainerID: "containerd://" + c.Name, Ready: true, RestartCount: 1,
			State:              corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: start}},
			AllocatedResources: sizes, Resources: &corev1.ResourceRequirements{Limits: sizes}, Started: ptr.To(true),
		})
	}
	return pod
}

// answers are what the controllers find out about a pod.
type answers struct {
	Facts    scheduler.Pod
	Obstacle string
	Rules    bool
	Mark     recycling.Mark
	Progress recycling.Progress
	Meta     metav1.ObjectMeta
	Fields   []string
	HostIPs  []corev1.HostIP
	PodIPs   []corev1.PodIP
}

func ask(pod *corev1.Pod, mark recycling.Mark) answers {
	return answers{
		Facts: scheduler.PodOf(pod), Obstacle: recycling.Obstacle(pod), Rules: recycling.HasRestartRules(&pod.Spec),
		Mark: recycling.MarkOf(pod, "batch", time.Time{}), Progress: recycling.ProgressOf(mark, pod), Meta: pod.ObjectMeta,
		Fields:  []string{pod.Spec.NodeName, pod.Spec.ServiceAccountName, pod.Status.HostIP, pod.Status.PodIP, pod.Status.Reason, pod.Status.Message},
		HostIPs: pod.Status.HostIPs, PodIPs: pod.Status.PodIPs,
	}
}

func slimmed(t testing.TB, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	obj, err := slimPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*corev1.Pod) //nolint:forcetypeassert // as it came
}

func TestASlimPodTellsWhatTheWholeOneDoes(t *testing.T) {
	before := recycling.MarkOf(fullPod(), "batch", time.Time{})
	sandbox := func(pod *corev1.Pod) *corev1.Container { return &pod.Spec.Containers[0] }
	addVolume := func(pod *corev1.Pod, v corev1.VolumeSource) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "more", VolumeSource: v})
		sandbox(pod).VolumeMounts = append(sandbox(pod).VolumeMounts, corev1.VolumeMount{Name: "more", MountPath: "/more"})
	}
	cases := map[string]struct {
		change   func(*corev1.Pod)
		obstacle bool
	}{
		"as it is": {func(*corev1.Pod) {}, false},
		"with a volume of a ConfigMap": {func(pod *corev1.Pod) {
			addVolume(pod, corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}})
		}, false},
		"with a projected volume": {func(pod *corev1.Pod) {
			addVolume(pod, corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}})
		}, false},
		"with a volume that outlives containers": {func(pod *corev1.Pod) {
			addVolume(pod, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
		}, true},
		"with a device": {func(pod *corev1.Pod) { sandbox(pod).VolumeDevices = []corev1.VolumeDevice{{Name: "disk"}} }, true},
		"with records mounted elsewhere": {func(pod *corev1.Pod) {
			pod.Spec.InitContainers = []corev1.Container{{Name: "init", VolumeMounts: []corev1.VolumeMount{{Name: v1alpha1.TaskRecordsVolume, ReadOnly: true}}}}
		}, true},
		"on the node's network": {func(pod *corev1.Pod) { pod.Spec.HostNetwork = true }, true},
		"with the node's PIDs":  {func(pod *corev1.Pod) { pod.Spec.HostPID = true }, true},
		"with the node's IPC":   {func(pod *corev1.Pod) { pod.Spec.HostIPC = true }, true},
		"privileged": {func(pod *corev1.Pod) {
			sandbox(pod).SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
		}, true},
		"with more power": {func(pod *corev1.Pod) {
			sandbox(pod).SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}}}
		}, true},
		"with an ephemeral container": {func(pod *corev1.Pod) {
			pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug"}}}
		}, true},
		"that is never restarted":     {func(pod *corev1.Pod) { pod.Spec.RestartPolicy = corev1.RestartPolicyNever }, true},
		"without rules":               {func(pod *corev1.Pod) { recycling.RemoveRestartRules(&pod.Spec) }, true},
		"with a container without ID": {func(pod *corev1.Pod) { pod.Status.ContainerStatuses[0].ContainerID = "" }, true},
		"restarted": {func(pod *corev1.Pod) {
			for i := range pod.Status.ContainerStatuses {
				pod.Status.ContainerStatuses[i].ContainerID += "-2"
			}
		}, false},
		"that failed": {func(pod *corev1.Pod) {
			pod.Status.Phase, pod.Status.Reason, pod.Status.Message = corev1.PodFailed, "Evicted", "low on memory"
		}, true},
		"that crashes": {func(pod *corev1.Pod) {
			pod.Status.Conditions = nil
			s := &pod.Status.ContainerStatuses[0]
			s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
			s.LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Message: "no such file"}}
		}, false},
		"whose init container can't be pulled": {func(pod *corev1.Pod) {
			pod.Status.Conditions, pod.Spec.InitContainers = nil, []corev1.Container{{Name: "init"}}
			pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}
		}, true},
		"that no node takes": {func(pod *corev1.Pod) {
			pod.Spec.NodeName = ""
			pod.Status = corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes: 3 node(s) didn't match Pod's required features"}}}
		}, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			pod := fullPod()
			c.change(pod)
			want := ask(pod, before)
			want.Meta.ManagedFields = nil
			if (want.Obstacle != "") != c.obstacle || want.Facts.Root == "" {
				t.Fatalf("the whole pod has the obstacle %q and the root %q", want.Obstacle, want.Facts.Root)
			}
			once := slimmed(t, pod)
			if diff := cmp.Diff(want, ask(once, before)); diff != "" {
				t.Errorf("a slim pod (-whole +slim):\n%s", diff)
			}
			if diff := cmp.Diff(want, ask(slimmed(t, once), before)); diff != "" {
				t.Errorf("a pod made slim twice (-whole +slim):\n%s", diff)
			}
		})
	}
}

func TestOfForeignPodsTheIdentityIsKept(t *testing.T) {
	pod := fullPod()
	pod.Labels = map[string]string{"app": "x"}
	want := &corev1.Pod{ObjectMeta: *pod.ObjectMeta.DeepCopy()}
	want.ManagedFields, want.Annotations = nil, nil
	if diff := cmp.Diff(want, slimmed(t, pod)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOfABatchOnlyWhatNobodyReadsIsDropped(t *testing.T) {
	sb := &v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{
		Name: "b", Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: "{}", v1alpha1.EndpointsAnnotation: "[]"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}, Spec: v1alpha1.BatchSandboxSpec{PoolRef: "p"}}
	want := sb.DeepCopy()
	want.Annotations, want.ManagedFields = map[string]string{v1alpha1.EndpointsAnnotation: "[]"}, nil
	got, err := slim(sb)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(any(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, err := slim("no object"); err != nil || got != "no object" {
		t.Errorf("%v, %v of what is no object, want it as it is", got, err)
	}
}

// BenchmarkPodsInTheCache tells the memory of a pool's pod, decoded from what a watch brings.
func BenchmarkPodsInTheCache(b *testing.B) {
	data, err := fullPod().Marshal()
	if err != nil {
		b.Fatal(err)
	}
	for name, transform := range map[string]func(*corev1.Pod) *corev1.Pod{
		"whole": func(pod *corev1.Pod) *corev1.Pod { pod.ManagedFields = nil; return pod },
		"slim":  func(pod *corev1.Pod) *corev1.Pod { return slimmed(b, pod) },
	} {
		b.Run(name, func(b *testing.B) {
			pods := make([]*corev1.Pod, 0, b.N)
			before := heap()
			for b.Loop() {
				pod := &corev1.Pod{}
				if err := pod.Unmarshal(data); err != nil {
					b.Fatal(err)
				}
				pods = append(pods, transform(pod))
			}
			b.ReportMetric(float64(heap()-before)/float64(len(pods)), "B/pod")
			runtime.KeepAlive(pods)
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far below 2^63
}
