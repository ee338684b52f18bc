// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/queue"
	"opensandbox.io/controller/internal/utils/podutil"
)

// trouble is what keeps one pod from being Ready.
type trouble struct {
	reason string

	// what completes "pod p: ", and names the pod no more.
	what     string
	evidence string

	// mild: it may well become Ready by itself.
	mild bool
}

// troubleOf says what keeps a pod from being Ready; false if nothing does. The first row that matches:
//
//	| the pod                                                    | reason                                            |
//	| is Ready, is being deleted, or has succeeded               | none                                              |
//	| Failed                                                     | PodFailed                                         |
//	| PodScheduled=False                                         | PodUnschedulable                                  |
//	| its node is not Ready, or gone                             | NodeNotReady                                      |
//	| a container's image can't be pulled                        | ImagePullFailed                                   |
//	| a container can't be made                                  | ContainerConfigInvalid                            |
//	| a container ends again and again, or ended and stays so    | ContainerCrashing                                 |
//	| an event tells of a volume or a network that is not there  | PodBlocked                                        |
//	| its containers run                                         | PodNotReady                                       |
//	| else                                                       | PodsStarting, which is mild                       |
func (f *Facts) troubleOf(pod *corev1.Pod) (trouble, bool) {
	if podutil.IsReady(pod) || pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded {
		return trouble{}, false
	}
	for _, look := range []func(*corev1.Pod) (trouble, bool){
		failedPod, unscheduledPod, f.onLostNode, f.containersOf, f.blockedPod, f.runningPod,
	} {
		if t, found := look(pod); found {
			return t, true
		}
	}
	return trouble{
		reason: ReasonPodsStarting, mild: true, what: "is starting for " + ago(f.Now, pod.CreationTimestamp.Time),
		evidence: "phase " + string(pod.Status.Phase) + " of pod " + pod.Name,
	}, true
}

func failedPod(pod *corev1.Pod) (trouble, bool) {
	if pod.Status.Phase != corev1.PodFailed {
		return trouble{}, false
	}
	why := cmp.Or(strings.Trim(pod.Status.Reason+": "+tidy(pod.Status.Message), ": "), endOfContainers(pod), "its status doesn't say why")
	return trouble{reason: ReasonPodFailed, what: "has failed (" + why + ")", evidence: "phase Failed of pod " + pod.Name}, true
}

// endOfContainers tells the first container that didn't end well.
func endOfContainers(pod *corev1.Pod) string {
	for i := range pod.Status.ContainerStatuses {
		c := &pod.Status.ContainerStatuses[i]
		if t := c.State.Terminated; t != nil && t.ExitCode != 0 {
			return fmt.Sprintf("container %s ended with exit code %d, %s", c.Name, t.ExitCode, t.Reason)
		}
	}
	return ""
}

func unscheduledPod(pod *corev1.Pod) (trouble, bool) {
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type != corev1.PodScheduled || c.Status != corev1.ConditionFalse {
			continue
		}
		what := "no node takes it (" + tidy(c.Message) + ")"
		if c.Reason == corev1.PodReasonSchedulingGated {
			what = "its schedulingGates hold it back: whoever set them has to remove them"
		}
		return trouble{
			reason: ReasonPodUnschedulable, what: what,
			evidence: fmt.Sprintf("condition PodScheduled=False of pod %s: %s", pod.Name, c.Reason),
		}, true
	}
	return trouble{}, false
}

func (f *Facts) onLostNode(pod *corev1.Pod) (trouble, bool) {
	for i := range f.Nodes {
		node := &f.Nodes[i]
		if node.Name != pod.Spec.NodeName {
			continue
		}
		for j := range node.Status.Conditions {
			if c := &node.Status.Conditions[j]; c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				return trouble{
					reason:   ReasonNodeNotReady,
					what:     fmt.Sprintf("its node %s is not Ready for %s", node.Name, ago(f.Now, c.LastTransitionTime.Time)),
					evidence: fmt.Sprintf("condition Ready=%s of node %s: %s", c.Status, node.Name, tidy(c.Message)),
				}, true
			}
		}
	}
	return trouble{}, false
}

// containersOf finds the first container with trouble, init containers first.
func (f *Facts) containersOf(pod *corev1.Pod) (trouble, bool) {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if t, found := f.containerTrouble(pod, &statuses[i]); found {
				return t, true
			}
		}
	}
	return trouble{}, false
}

func (f *Facts) containerTrouble(pod *corev1.Pod, c *corev1.ContainerStatus) (trouble, bool) {
	if w := c.State.Waiting; w != nil {
		t := trouble{evidence: fmt.Sprintf("container %s of pod %s waits: %s", c.Name, pod.Name, w.Reason)}
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
			t.reason = ReasonImagePullFailed
			t.what = fmt.Sprintf("image %s of container %s can't be pulled (%s)", imageOf(pod, c), c.Name, f.pullMessage(pod, w))
			return t, true
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			t.reason = ReasonContainerConfigInvalid
			t.what = fmt.Sprintf("container %s can't be started (%s)", c.Name, cmp.Or(tidy(w.Message), w.Reason))
			return t, true
		case "CrashLoopBackOff":
			t.reason = ReasonContainerCrashing
			t.what = fmt.Sprintf("container %s ends again and again%s", c.Name, lastEnd(c))
			return t, true
		}
	}
	ended := c.State.Terminated
	if ended == nil || ended.ExitCode == 0 && isInit(pod, c.Name) {
		return trouble{}, false
	}
	t := trouble{
		reason: ReasonContainerCrashing, evidence: fmt.Sprintf("container %s of pod %s is terminated: %s", c.Name, pod.Name, ended.Reason),
		what: fmt.Sprintf("container %s has ended with exit code %d (%s)", c.Name, ended.ExitCode, ended.Reason),
	}
	if pod.Spec.RestartPolicy == corev1.RestartPolicyNever || pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure && ended.ExitCode == 0 {
		t.what += fmt.Sprintf(", and restartPolicy %s leaves it so", pod.Spec.RestartPolicy)
	}
	return t, true
}

func isInit(pod *corev1.Pod, container string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == container })
}

func imageOf(pod *corev1.Pod, c *corev1.ContainerStatus) string {
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if containers[i].Name == c.Name {
				return containers[i].Image
			}
		}
	}
	return c.Image
}

// pullMessage is what the kubelet says of a pull: a bare back-off says less than the event of the try before.
func (f *Facts) pullMessage(pod *corev1.Pod, w *corev1.ContainerStateWaiting) string {
	if e := f.lastEvent("Pod", pod.Name, "Failed"); e != nil && strings.Contains(e.Message, "pull image") {
		if _, why, found := strings.Cut(tidy(e.Message), `": `); found && w.Reason == "ImagePullBackOff" {
			return why
		}
	}
	return cmp.Or(tidy(w.Message), w.Reason)
}

func lastEnd(c *corev1.ContainerStatus) string {
	if t := c.LastTerminationState.Terminated; t != nil {
		return fmt.Sprintf(", last with exit code %d (%s)", t.ExitCode, t.Reason)
	}
	return ""
}

// blockedPod goes by the kubelet's events of the last minutes about a pod none of whose containers runs.
func (f *Facts) blockedPod(pod *corev1.Pod) (trouble, bool) {
	const fresh = 5 * time.Minute
	if slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Running != nil }) {
		return trouble{}, false
	}
	e := f.lastEvent("Pod", pod.Name, "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "NetworkNotReady", "FailedBinding")
	if e == nil || f.Now.Sub(eventTime(e)) > fresh {
		return trouble{}, false
	}
	return trouble{reason: ReasonPodBlocked, what: "can't be started (" + tidy(e.Message) + ")", evidence: fromEvent(e)}, true
}

// runningPod finds a container that runs and is not ready. One that just began may be.
func (f *Facts) runningPod(pod *corev1.Pod) (trouble, bool) {
	for i := range pod.Status.ContainerStatuses {
		c := &pod.Status.ContainerStatuses[i]
		if c.Ready || c.State.Running == nil {
			continue
		}
		t := trouble{
			reason: ReasonPodNotReady, what: fmt.Sprintf("container %s runs for %s and is not ready", c.Name, ago(f.Now, c.State.Running.StartedAt.Time)),
			evidence: fmt.Sprintf("field ready of container %s of pod %s", c.Name, pod.Name),
		}
		if e := f.lastEvent("Pod", pod.Name, "Unhealthy"); e != nil {
			t.what, t.evidence = t.what+" ("+tidy(e.Message)+")", fromEvent(e)
		}
		return t, true
	}
	return trouble{}, false
}

// --- pods of one object -----------------------------------------------------------------------------------

// troubled are pods with the same trouble.
type troubled struct {
	trouble
	pods  []string
	marks []string // of the sandboxes: "index 3"; of pods of no batch: nothing
}

// groupTroubles puts pods with the same trouble together, in the order of the first pod of each.
func (f *Facts) groupTroubles(pods []corev1.Pod, index map[string]int) []troubled {
	var groups []troubled
	for i := range pods {
		t, found := f.troubleOf(&pods[i])
		if !found {
			continue
		}
		at := slices.IndexFunc(groups, func(g troubled) bool {
			return g.reason == t.reason && (t.mild || similar(g.what) == similar(t.what))
		})
		if at < 0 {
			groups, at = append(groups, troubled{trouble: t}), len(groups)
		}
		groups[at].pods = append(groups[at].pods, pods[i].Name)
		if n, known := index[pods[i].Name]; known {
			groups[at].marks = append(groups[at].marks, strconv.Itoa(n))
		}
	}
	slices.SortStableFunc(groups, func(a, b troubled) int { return cmp.Compare(rank(a.trouble), rank(b.trouble)) })
	return groups
}

// rank puts what is mild last.
func rank(t trouble) int {
	if t.mild {
		return 1
	}
	return 0
}

// similar leaves the numbers out, which differ from pod to pod.
func similar(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

// indexesOf are the indexes of a batch's pods.
func indexesOf(f *Facts) map[string]int {
	index := map[string]int{}
	if f.Batch == nil {
		return index
	}
	for i, pod := range queue.Pods(f.Batch) {
		if pod != "" {
			index[pod] = i
		}
	}
	for i := range f.Pods {
		if n, err := strconv.Atoi(f.Pods[i].Labels[v1alpha1.PodIndexLabel]); err == nil && f.Batch.Spec.PoolRef == "" {
			index[f.Pods[i].Name] = n
		}
	}
	return index
}

// causeOf tells of pods with the same trouble. whose is the template that they are made from: "pool/p" or "batch/b".
func (f *Facts) causeOf(g troubled, whose string) Cause {
	subject := "pod " + g.pods[0]
	if len(g.pods) > 1 {
		subject = fmt.Sprintf("%d pods (%s)", len(g.pods), list(g.pods))
	}
	if len(g.marks) == 1 {
		subject = fmt.Sprintf("the sandbox of index %s (pod %s)", g.marks[0], g.pods[0])
	} else if len(g.marks) > 1 {
		subject = fmt.Sprintf("the sandboxes of %d indexes (%s), of which the first is pod %s", len(g.marks), list(g.marks), g.pods[0])
	}
	c := Cause{Reason: g.reason, Sentence: subject + ": " + g.what, Evidence: []string{g.evidence}}
	c.Remedy, c.Commands = f.podRemedy(g.reason, whose, g.pods[0])
	return c
}

// podRemedy says what to do about pods of a template.
func (f *Facts) podRemedy(reason, whose, pod string) (remedy string, commands []string) {
	edit := f.kubectl("edit", whose)
	describe := f.kubectl("describe", "pod", pod)
	again := "; the pool replaces its pods by itself"
	if !strings.HasPrefix(whose, "pool/") {
		again = "; then delete the pod, and the next one is made from the new template"
	}
	replace := []string{edit}
	if !strings.HasPrefix(whose, "pool/") {
		replace = append(replace, f.kubectl("delete", "pod", pod))
	}
	switch reason {
	case ReasonImagePullFailed:
		return "correct the image's name and tag in the template, or give the pods the right to pull it (imagePullSecrets)" + again, replace
	case ReasonPodUnschedulable:
		return "add nodes that can take it, or lower what the template asks for (requests, nodeSelector, affinity, tolerations)", []string{describe, edit}
	case ReasonContainerCrashing:
		return "read what the container wrote last, and give the template a command that keeps running" + again,
			append([]string{f.kubectl("logs", pod, "--all-containers", "--previous")}, replace...)
	case ReasonContainerConfigInvalid:
		return "correct what the message names in the template, or make the Secret or ConfigMap that it asks for" + again, append([]string{describe}, replace...)
	case ReasonPodBlocked:
		return "make what the message names available", []string{describe}
	case ReasonNodeNotReady:
		return "repair the node, or delete the Node object if it is gone for good: sandboxes are replaced after 60 s, their pods stay until the node is back or gone",
			[]string{"kubectl get nodes", describe}
	case ReasonPodFailed:
		return "find out why it ended; the controller replaces it", []string{describe}
	case ReasonPodNotReady:
		return "read what the container writes, and compare with its readinessProbe", []string{f.kubectl("logs", pod, "--all-containers"), describe}
	default:
		return "wait, or look at its events if it takes longer than pods of this template do", []string{describe}
	}
}
