// SPDX-License-Identifier: Apache-2.0

package history

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/controller/batchsandbox"
	"opensandbox.io/controller/internal/controller/pool"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

const namespace = "ns"

// world is a cluster: an API server, kubelets, users, and one controller process after the other. It runs in a synctest
// bubble. Nothing in it moves but by the hand of the test.
type world struct {
	t       *rapid.T
	server  *server
	gate    gate
	audit   audit
	process *process
	tasks   int
	names   int

	// underway are writes whose senders gave up or died, and that may land yet.
	underway []*call

	// containers are what the kubelets know, by UID of the pod.
	containers map[types.UID]*containers
	executors  executors
	addresses  int

	predicates struct{ batch, pool, poolOfBatch, failing predicate.Predicate }
}

// containers are those of one pod.
type containers struct {
	pod  types.UID
	ip   string
	life int

	// up: the executor answers. tasks are those it knows.
	up       bool
	tasks    []taskexecutor.Task
	revision int

	// left are tasks that nobody wants any more, of which processes still run. They are listed until those have ended.
	left []taskexecutor.Task

	// asked is the recycling that the executor was asked for; it exits as soon as the kubelet looks.
	asked string
	// halfway: the executor is a new one, and the other containers are not yet.
	halfway bool
	// alone: the kubelet restarts the executor and no other container.
	alone bool
	// cameFrom is the recycling that this executor came back from, and unclean says that it found something.
	cameFrom string
	unclean  bool
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, server: newServer(), containers: map[types.UID]*containers{}}
	w.executors = executors{byIP: map[string]*containers{}, changed: make(chan struct{})}
	w.audit = newAudit(w)
	w.server.written = w.audit.written
	w.server.gone = func(obj objectOf) { w.goesDown(obj.GetUID()) }
	w.predicates.batch, w.predicates.poolOfBatch = batchsandbox.ChangedByUsers(), batchsandbox.PoolMatters()
	w.predicates.pool, w.predicates.failing = pool.Edited(), batchsandbox.FailingChanged()
	return w
}

func (w *world) logf(format string, args ...any) {
	if verbose {
		w.t.Logf(format, args...)
	}
}

// verbose has every history told step by step.
var verbose = true

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), w.dump())
}

// dump tells what there is.
func (w *world) dump() string {
	var b strings.Builder
	for _, obj := range w.server.list(kindPool) {
		p := obj.(*v1alpha1.Pool)
		fmt.Fprintf(&b, "pool %s rv %s going %t %+v %+v status %s\n", p.Name, p.ResourceVersion, p.DeletionTimestamp != nil, p.Spec.CapacitySpec, p.Spec.RecycleStrategy, asJSON(p.Status))
		fmt.Fprintf(&b, "  ledger %+v\n", w.process.ledger.Counts(types.NamespacedName{Namespace: namespace, Name: p.Name}))
	}
	for _, obj := range w.server.list(kindBatch) {
		sb := obj.(*v1alpha1.BatchSandbox)
		fmt.Fprintf(&b, "batch %s %s rv %s going %t spec %s %v %v status %s\n", sb.Name, sb.UID, sb.ResourceVersion, sb.DeletionTimestamp != nil, asJSON(sb.Spec), sb.Annotations, sb.Finalizers, asJSON(sb.Status))
	}
	for _, obj := range w.server.list(kindPod) {
		pod := obj.(*corev1.Pod)
		fmt.Fprintf(&b, "pod %s %s rv %s going %t phase %s ready %t ip %s labels %v marks %v contaminated by %q\n", pod.Name, pod.UID, pod.ResourceVersion,
			pod.DeletionTimestamp != nil, pod.Status.Phase, isReady(pod), pod.Status.PodIP, pod.Labels, pod.Annotations, w.audit.contaminated[pod.UID])
	}
	p := w.process
	fmt.Fprintf(&b, "behind: pods %d, ledger %d, batches %d, pools %d; waiting %v, later %v\n", p.behind(kindPod), len(p.cache.unfed), p.behind(kindBatch), p.behind(kindPool), p.queue.waiting, p.queue.later)
	return b.String()
}

func (w *world) suffix() string {
	w.names++
	return fmt.Sprintf("%05d", w.names)
}

// passes says whether a change wakes those who watch with this predicate.
func (w *world) passes(p predicate.Predicate, c change) bool {
	switch {
	case c.before == nil:
		return p.Create(event.CreateEvent{Object: c.after})
	case c.after == nil:
		return p.Delete(event.DeleteEvent{Object: c.before})
	default:
		return p.Update(event.UpdateEvent{ObjectOld: c.before, ObjectNew: c.after})
	}
}

// --- kubelets ---------------------------------------------------------------------------------------------

func (w *world) pods(wanted func(pod *corev1.Pod) bool) []*corev1.Pod {
	var pods []*corev1.Pod
	for _, obj := range w.server.list(kindPod) {
		if pod := obj.(*corev1.Pod); wanted(pod) {
			pods = append(pods, pod)
		}
	}
	return pods
}

func (w *world) updatePod(pod *corev1.Pod, change func(pod *corev1.Pod)) {
	w.server.update(kindPod, pod.Name, func(obj objectOf) bool {
		change(obj.(*corev1.Pod))
		return false
	})
}

// becomeReady runs a pod: it gets a node and an address, and its containers get IDs, as far as they have none.
func (w *world) becomeReady(pod *corev1.Pod) {
	at := w.containers[pod.UID]
	if at == nil {
		w.addresses++
		at = &containers{pod: pod.UID, ip: fmt.Sprintf("10.0.0.%d", w.addresses), up: true}
		w.containers[pod.UID] = at
		w.executors.change(func() { w.executors.byIP[at.ip] = at })
	}
	w.updatePod(pod, func(pod *corev1.Pod) {
		pod.Spec.NodeName = "node"
		pod.Status.Phase = corev1.PodRunning
		pod.Status.PodIP = at.ip
		setReady(pod, corev1.ConditionTrue)
		w.setContainers(pod, at)
	})
}

// setContainers writes the containers' IDs. Halfway the executor is a new one, and the others have ended.
func (w *world) setContainers(pod *corev1.Pod, at *containers) {
	pod.Status.ContainerStatuses = nil
	for i := range pod.Spec.Containers {
		name, life := pod.Spec.Containers[i].Name, at.life
		status := corev1.ContainerStatus{Name: name, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
		switch {
		case at.halfway && name == v1alpha1.TaskExecutorContainer:
			life++
		case at.halfway && !at.alone:
			status.Ready, status.State = false, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
		}
		status.ContainerID = fmt.Sprintf("c://%s/%d", name, life)
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, status)
	}
}

func setReady(pod *corev1.Pod, status corev1.ConditionStatus) {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			if c.Status != status {
				c.Status, c.LastTransitionTime = status, now()
			}
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: status, LastTransitionTime: now()})
}

func isReady(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// restart is what comes of the restart of a pod's containers.
type restart int

const (
	restartClean restart = iota

	// restartUnclean: the executor finds something that outlived the containers.
	restartUnclean

	// restartAlone: the kubelet doesn't know the rule to restart all containers.
	restartAlone
)

// restart takes a pod whose executor has exited to be recycled a step further: first the executor is a new one, then all
// containers are. What the last user left is gone with them, unless it outlives containers.
func (w *world) restart(pod *corev1.Pod, how restart) {
	at := w.containers[pod.UID]
	if !at.halfway {
		at.halfway, at.alone = true, how == restartAlone
		w.updatePod(pod, func(pod *corev1.Pod) {
			w.setContainers(pod, at)
			setReady(pod, corev1.ConditionFalse)
		})
		return
	}
	if at.alone {
		at.asked = ""
		w.updatePod(pod, func(pod *corev1.Pod) { setReady(pod, corev1.ConditionTrue) })
		return
	}
	w.executors.change(func() {
		at.halfway = false
		at.life += 2
		at.cameFrom, at.asked, at.unclean = at.asked, "", how == restartUnclean
		at.tasks, at.left = nil, nil
		at.revision++
	})
	if _, held := w.audit.holders[pod.Name]; !held && how != restartUnclean {
		delete(w.audit.contaminated, pod.UID)
	}
	w.updatePod(pod, func(pod *corev1.Pod) {
		w.setContainers(pod, at)
		setReady(pod, corev1.ConditionTrue)
	})
}

func (w *world) fails(pod *corev1.Pod) {
	w.goesDown(pod.UID)
	w.updatePod(pod, func(pod *corev1.Pod) {
		pod.Status.Phase, pod.Status.Reason = corev1.PodFailed, "Evicted"
		setReady(pod, corev1.ConditionFalse)
		for i := range pod.Status.ContainerStatuses {
			s := &pod.Status.ContainerStatuses[i]
			s.Ready, s.State = false, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, StartedAt: metav1.NewTime(pod.CreationTimestamp.Time), FinishedAt: now()}}
		}
	})
}

// collectGarbage deletes pods whose owners are all gone, as the garbage collector does. It says whether there were any.
func (w *world) collectGarbage() bool {
	orphans := w.pods(func(pod *corev1.Pod) bool {
		for _, owner := range pod.OwnerReferences {
			k := map[string]kind{"Pool": kindPool, "BatchSandbox": kindBatch, "Namespace": kindNamespace}[owner.Kind]
			if obj, err := w.server.get(k, owner.Name); err == nil && obj.GetUID() == owner.UID {
				return false
			}
		}
		return pod.DeletionTimestamp == nil
	})
	for _, pod := range orphans {
		if err := w.server.remove(nil, kindPod, pod.Name, nil); err != nil {
			w.fail("garbage collection: %v", err)
		}
	}
	return len(orphans) > 0
}

func (w *world) sleep(d time.Duration) { time.Sleep(d) }
