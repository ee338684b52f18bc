// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

var begin = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const ns = "default"

// story tells a history, sentence by sentence. A second passes after each.
type story struct {
	now      time.Time
	revision int64
	history  History
	marks    []Mark
	objects  map[string]client.Object // the latest of each, by kind and name
	uids     int
	ids      int
}

func newStory() *story {
	return &story{now: begin, revision: 100, objects: map[string]client.Object{}}
}

// audit judges what was told, as if the run had ended with the last sentence.
func (s *story) audit() []Finding { return Audit(s.history, s.marks, Settings{End: s.now}) }

func (s *story) change(t ChangeType, obj client.Object) {
	s.now = s.now.Add(time.Second)
	s.revision++
	obj.SetResourceVersion(strconv.FormatInt(s.revision, 10))
	s.history = append(s.history, Change{Time: s.now, Revision: s.revision, Type: t, Object: obj.DeepCopyObject().(client.Object)})
	key := kindOf(obj) + " " + obj.GetName()
	s.objects[key] = obj
	if t == Deleted {
		delete(s.objects, key)
	}
}

func (s *story) add(obj client.Object) {
	s.uids++
	obj.SetUID(types.UID("uid-" + obj.GetName() + "-" + strconv.Itoa(s.uids)))
	if at := obj.GetCreationTimestamp(); at.IsZero() {
		obj.SetCreationTimestamp(metav1.NewTime(s.now))
	}
	s.change(Added, obj)
}

func (s *story) pass(d time.Duration) { s.now = s.now.Add(d) }

// rest is long enough for everything to have settled.
func (s *story) rest() { s.pass(2 * time.Minute) }

func (s *story) batch(n string) *v1alpha1.BatchSandbox {
	return s.objects["BatchSandbox "+n].(*v1alpha1.BatchSandbox)
}
func (s *story) pod(n string) *corev1.Pod     { return s.objects["Pod "+n].(*corev1.Pod) }
func (s *story) pool(n string) *v1alpha1.Pool { return s.objects["Pool "+n].(*v1alpha1.Pool) }

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // what stories are made of can always be encoded
	}
	return string(text)
}

// --- pools and pods ---

// makePool makes a Pool that never wants more pods than it is told to have, and counts as many as it may have.
func (s *story) makePool(n string, poolMax int32, edits ...func(*v1alpha1.Pool)) {
	p := wrappers.MakePool(ns, n).Buffer(0, poolMax).Size(0, poolMax).Finalizer().Obj()
	p.Status.Total = poolMax
	for _, edit := range edits {
		edit(p)
	}
	s.add(p)
}

func (s *story) editPool(n string, edit func(*v1alpha1.Pool)) {
	p := s.pool(n)
	edit(p)
	s.change(Modified, p)
}

func recycles(how v1alpha1.RecycleType) func(*v1alpha1.Pool) {
	return func(p *v1alpha1.Pool) { p.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: how} }
}

func buffer(least, most int32) func(*v1alpha1.Pool) {
	return func(p *v1alpha1.Pool) {
		p.Spec.CapacitySpec.BufferMin, p.Spec.CapacitySpec.BufferMax = least, most
	}
}

// makePods makes pods of a pool that are Ready.
func (s *story) makePods(pool string, names ...string) {
	for _, n := range names {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: n, Labels: map[string]string{v1alpha1.PoolNameLabel: pool}}}
		pod.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.1", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		}
		s.giveIDs(pod, "sandbox", "task-executor")
		s.add(pod)
	}
}

func (s *story) giveIDs(pod *corev1.Pod, containers ...string) {
	for _, c := range containers {
		s.ids++
		status := corev1.ContainerStatus{Name: c, ContainerID: "containerd://" + strconv.Itoa(s.ids)}
		pod.Status.ContainerStatuses = slices.DeleteFunc(pod.Status.ContainerStatuses, func(o corev1.ContainerStatus) bool { return o.Name == c })
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, status)
	}
}

func (s *story) editPod(n string, edit func(*corev1.Pod)) {
	pod := s.pod(n)
	edit(pod)
	s.change(Modified, pod)
}

func label(key, value string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Labels[key] = value }
}

// mark has a batch mark a pod as dirty.
func (s *story) mark(pod, batch string) {
	text := asJSON(mark{Batch: s.batch(batch).UID, Containers: containerIDs(s.pod(pod)), Since: s.now.Format(time.RFC3339)})
	s.editPod(pod, func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.RecyclingAnnotation: text} })
}

func (s *story) restart(pod string, containers ...string) {
	s.editPod(pod, func(p *corev1.Pod) { s.giveIDs(p, containers...) })
}

func (s *story) unmark(pod string) {
	s.editPod(pod, func(p *corev1.Pod) { delete(p.Annotations, v1alpha1.RecyclingAnnotation) })
}

func (s *story) remove(kind, n string) { s.change(Deleted, s.objects[kind+" "+n]) }

// --- nodes ---

func (s *story) makeNode(n string) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	s.add(node)
}

func (s *story) cordon(n string) {
	node := s.objects["Node "+n].(*corev1.Node)
	node.Spec.Unschedulable = true
	s.change(Modified, node)
}

// --- batches ---

// ask makes a batch of a pool.
func (s *story) ask(n, pool string, edits ...func(*wrappers.BatchWrapper)) {
	b := wrappers.MakeBatch(ns, n).Pool(pool)
	for _, edit := range edits {
		edit(b)
	}
	s.add(b.Obj())
}

func (s *story) editBatch(n string, edit func(*v1alpha1.BatchSandbox)) {
	sb := s.batch(n)
	edit(sb)
	s.change(Modified, sb)
}

// editSpec is an edit by a user, that the controller has seen at once.
func (s *story) editSpec(n string, edit func(*v1alpha1.BatchSandboxSpec)) {
	s.editBatch(n, func(sb *v1alpha1.BatchSandbox) {
		edit(&sb.Spec)
		sb.Generation++
		sb.Status.ObservedGeneration = sb.Generation
	})
}

// name has a batch name these pods, by index.
func (s *story) name(n string, pods ...string) {
	s.editBatch(n, func(sb *v1alpha1.BatchSandbox) {
		text := asJSON(map[string]any{"pods": pods})
		ips := make([]string, len(pods))
		for i, pod := range pods {
			if pod != "" {
				ips[i] = "10.0.0.1"
			}
		}
		if sb.Annotations == nil {
			sb.Annotations = map[string]string{}
		}
		sb.Annotations[v1alpha1.AllocStatusAnnotation], sb.Annotations[v1alpha1.EndpointsAnnotation] = text, asJSON(ips)
		if !slices.Contains(sb.Finalizers, v1alpha1.PoolAllocationFinalizer) {
			sb.Finalizers = append(sb.Finalizers, v1alpha1.PoolAllocationFinalizer)
		}
	})
}

// queue has batches tell that they wait, in this order.
func (s *story) queue(names ...string) {
	for i, n := range names {
		s.status(n, func(status *v1alpha1.BatchSandboxStatus) {
			status.Queue = &v1alpha1.QueueStatus{Position: int32(i) + 1, Waiting: int32(len(names))}
		})
	}
}

func (s *story) status(n string, edit func(*v1alpha1.BatchSandboxStatus)) {
	s.editBatch(n, func(sb *v1alpha1.BatchSandbox) {
		sb.Status.ObservedGeneration = sb.Generation
		edit(&sb.Status)
	})
}

// del is a deletion by a user: finalizers keep the object.
func (s *story) del(kind, n string) {
	obj := s.objects[kind+" "+n]
	obj.SetDeletionTimestamp(ptr.To(metav1.NewTime(s.now)))
	s.change(Modified, obj)
}

// letGo removes our finalizers, with which the object goes.
func (s *story) letGo(batch string) {
	sb := s.batch(batch)
	sb.Finalizers = nil
	s.change(Deleted, sb)
}

// --- tasks ---

func withTask(limit int32) func(*wrappers.BatchWrapper) {
	return func(b *wrappers.BatchWrapper) {
		b.Task("true").TaskSpec(func(spec *v1alpha1.TaskSpec) { spec.BackoffLimit = &limit })
	}
}

// run is a run of index 0 of a batch, in some pod, that lasts a second; "" runs on.
func (s *story) run(batch string, try int, pod, how string) {
	m := Mark{Batch: s.batch(batch).UID, Try: try, Pod: s.pod(pod).UID, Begin: s.now, How: how}
	s.now = s.now.Add(time.Second)
	if how != "" {
		m.End = s.now
	}
	s.marks = append(s.marks, m)
}

// tries tells of index 0 how many tries failed and were lost.
func (s *story) tries(batch string, failed, lost int32) {
	s.status(batch, func(status *v1alpha1.BatchSandboxStatus) {
		status.TaskTries = []v1alpha1.TaskTries{{Failed: failed, Lost: lost}}
	})
}

func (s *story) succeeded(batch string) {
	s.status(batch, func(status *v1alpha1.BatchSandboxStatus) { status.CompletedIndexes = "0" })
}

func (s *story) failed(batch, reason string) {
	s.status(batch, func(status *v1alpha1.BatchSandboxStatus) {
		status.FailedIndexes = "0"
		status.FailedReasons = []v1alpha1.FailedReason{{Reason: reason, Indexes: "0"}}
	})
}
