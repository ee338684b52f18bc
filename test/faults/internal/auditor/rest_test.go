// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

func TestStuckDeletions(t *testing.T) {
	ready := func(s *story) {
		s.makePool("p", 2)
		s.makePods("p", "x")
		s.ask("a", "p")
		s.name("a", "x")
	}
	cases{
		"a batch is deleted and stays": {func(s *story) { ready(s); s.del("BatchSandbox", "a"); s.rest() },
			one(Stuck, "BatchSandbox default/a")},
		"a batch is deleted and goes": {func(s *story) {
			ready(s)
			s.del("BatchSandbox", "a")
			s.letGo("a")
			s.rest()
		}, nil},
		"a batch was deleted a moment ago": {func(s *story) { ready(s); s.rest(); s.del("BatchSandbox", "a") }, nil},
		"somebody else's finalizer keeps a batch": {func(s *story) {
			ready(s)
			s.del("BatchSandbox", "a")
			s.editBatch("a", func(sb *v1alpha1.BatchSandbox) { sb.Finalizers = []string{"somebody.else/finalizer"} })
			s.rest()
		}, nil},
		"a Pool is deleted and stays, though nobody holds its pods": {func(s *story) {
			s.makePool("p", 2)
			s.del("Pool", "p")
			s.rest()
		}, one(Stuck, "Pool default/p")},
		"a Pool is deleted and stays for the batch that holds its pod": {func(s *story) { ready(s); s.del("Pool", "p"); s.rest() }, nil},
	}.run(t)
}

func TestUnmetDemand(t *testing.T) {
	waits := one(Stuck, "BatchSandbox default/a")
	onNode := func(s *story, edits ...func(*wrappers.BatchWrapper)) {
		s.makeNode("n")
		s.makePool("p", 1)
		s.makePods("p", "x")
		s.editPod("x", func(pod *corev1.Pod) { pod.Spec.NodeName = "n" })
		s.ask("a", "p", edits...)
	}
	replicas := func(n int32) func(*wrappers.BatchWrapper) {
		return func(b *wrappers.BatchWrapper) { b.Replicas(n) }
	}
	cases{
		"a batch waits and a pod is idle":       {func(s *story) { onNode(s); s.rest() }, waits},
		"a batch waits and a pod is idle now":   {func(s *story) { s.rest(); onNode(s) }, nil},
		"a batch has the pod":                   {func(s *story) { onNode(s); s.name("a", "x"); s.rest() }, nil},
		"the pod is on a cordoned node":         {func(s *story) { onNode(s); s.cordon("n"); s.rest() }, nil},
		"the pod is to be evicted, and stays":   {func(s *story) { onNode(s); s.editPod("x", label(v1alpha1.EvictLabel, "")); s.rest() }, one(Stuck, "Pod default/x")},
		"the batch that waits is being deleted": {func(s *story) { onNode(s); s.del("BatchSandbox", "a"); s.rest() }, nil},
		"a gang waits for more pods than are idle": {func(s *story) {
			onNode(s, func(b *wrappers.BatchWrapper) { b.Replicas(2).MinAvailable(2) })
			s.editPool("p", func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax = 2; p.Status.Total = 2 })
			s.makePods("p", "y")
			s.ask("b", "p")
			s.name("b", "y")
			s.rest()
		}, nil},
		"a gang waits and all its pods are idle": {func(s *story) {
			onNode(s, func(b *wrappers.BatchWrapper) { b.Replicas(2).MinAvailable(2) })
			s.editPool("p", func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax = 2; p.Status.Total = 2 })
			s.makePods("p", "y")
			s.rest()
		}, waits},
		"a gang above poolMax waits for ever": {func(s *story) {
			onNode(s, func(b *wrappers.BatchWrapper) { b.Replicas(2).MinAvailable(2) })
			s.rest()
		}, nil},
		"a gang above poolMax keeps nobody from being the head": {func(s *story) {
			onNode(s, func(b *wrappers.BatchWrapper) { b.Replicas(2).MinAvailable(2) })
			s.ask("b", "p")
			s.rest()
		}, one(Stuck, "BatchSandbox default/b")},
		"the part above poolMax waits for ever": {func(s *story) { onNode(s, replicas(2)); s.name("a", "x"); s.rest() }, nil},
		"the batch waited for longer than it may": {func(s *story) {
			onNode(s, func(b *wrappers.BatchWrapper) { b.AllocationTimeout(5) })
			s.rest()
		}, nil},
		"a batch gave its sandbox back after its task": {func(s *story) {
			onNode(s, withTask(0), func(b *wrappers.BatchWrapper) { b.Releases() })
			s.name("a", "x")
			s.run("a", 1, "x", "Completed")
			s.succeeded("a")
			s.name("a", "")
			s.rest()
		}, nil},
		"a batch's sandbox has ended and another is idle": {func(s *story) {
			onNode(s)
			s.editPool("p", func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax = 2; p.Status.Total = 2 })
			s.name("a", "x")
			s.makePods("p", "y")
			s.editPod("x", func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodFailed })
			s.rest()
		}, waits},
		"a batch's node was lost and another pod is idle": {func(s *story) {
			onNode(s)
			s.editPool("p", func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax = 2; p.Status.Total = 2 })
			s.name("a", "x")
			s.makePods("p", "y")
			s.remove("Node", "n")
			s.rest()
		}, waits},
	}.run(t)
}

func TestPoolsOutOfBounds(t *testing.T) {
	out := one(Stuck, "Pool default/p")
	size := func(least, most int32) func(*v1alpha1.Pool) {
		return func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMin, p.Spec.CapacitySpec.PoolMax = least, most }
	}
	failing := func(p *v1alpha1.Pool) {
		p.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionPodsFailing, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPodsEnded}}
	}
	with := func(pods []string, edits ...func(*v1alpha1.Pool)) func(*story) {
		return func(s *story) { s.makePool("p", 3, edits...); s.makePods("p", pods...); s.rest() }
	}
	x, xy := []string{"x"}, []string{"x", "y"}
	cases{
		"a buffer in the band":                      {with(x, buffer(1, 1)), nil},
		"a buffer below bufferMin":                  {with(x, buffer(2, 3)), out},
		"a buffer below bufferMin, poolMax reached": {with(x, buffer(2, 3), size(0, 1)), nil},
		"a buffer below bufferMin, pods fail":       {with(x, buffer(2, 3), failing), nil},
		"a buffer above bufferMax":                  {with(xy, buffer(0, 1)), out},
		"a buffer above bufferMax, at poolMin":      {with(xy, buffer(0, 1), size(2, 3)), nil},
		"a pool below poolMin":                      {with(x, buffer(0, 3), size(2, 3)), out},
		"a pool above poolMax that was lowered": {func(s *story) {
			s.makePool("p", 2)
			s.makePods("p", xy...)
			s.editPool("p", func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax, p.Spec.CapacitySpec.BufferMax = 1, 1 })
			s.rest()
		}, out},
		"a pool above poolMax that was lowered, all held": {func(s *story) {
			s.makePool("p", 2)
			s.makePods("p", xy...)
			s.ask("a", "p", func(b *wrappers.BatchWrapper) { b.Replicas(2) })
			s.name("a", xy...)
			s.editPool("p", func(p *v1alpha1.Pool) { p.Spec.CapacitySpec.PoolMax, p.Spec.CapacitySpec.BufferMax = 1, 1 })
			s.rest()
		}, nil},
		"a batch waits and its pool could grow": {func(s *story) { s.makePool("p", 1); s.ask("a", "p"); s.rest() }, out},
		"a batch waits and a pod starts for it": {func(s *story) {
			s.makePool("p", 1)
			s.ask("a", "p")
			s.makePods("p", "x")
			s.editPod("x", func(pod *corev1.Pod) { pod.Status.Conditions = nil })
			s.rest()
		}, nil},
		"a pod is recycled for ever": {func(s *story) {
			s.makePool("p", 1)
			s.makePods("p", "x")
			s.ask("a", "p")
			s.name("a", "x")
			s.mark("x", "a")
			s.letGo("a")
			s.rest()
		}, one(Stuck, "Pod default/x")},
		"a pod is recycled, and the time for it is not over": {func(s *story) {
			s.makePool("p", 1)
			s.makePods("p", "x")
			s.ask("a", "p")
			s.name("a", "x")
			s.mark("x", "a")
			s.letGo("a")
			s.pass(30 * time.Second)
		}, nil},
		"a pod has ended and stays": {func(s *story) {
			s.makePool("p", 1)
			s.makePods("p", "x")
			s.editPod("x", func(pod *corev1.Pod) { pod.Status.Phase = corev1.PodFailed })
			s.rest()
		}, one(Stuck, "Pod default/x")},
	}.run(t)
}

func TestBatchesThatKeepWhatTheyShouldNot(t *testing.T) {
	stuck := one(Stuck, "BatchSandbox default/a")
	has := func(s *story, edits ...func(*wrappers.BatchWrapper)) {
		s.makePool("p", 2)
		s.makePods("p", "x", "y")
		s.ask("a", "p", append(edits, func(b *wrappers.BatchWrapper) { b.Replicas(2) })...)
		s.name("a", "x", "y")
	}
	expires := func(s *story, after time.Duration) {
		end := metav1.NewTime(s.now.Add(after))
		s.editSpec("a", func(spec *v1alpha1.BatchSandboxSpec) { spec.ExpireTime = &end })
	}
	cases{
		"its expireTime is over":           {func(s *story) { has(s); expires(s, time.Second); s.rest() }, stuck},
		"its expireTime comes later":       {func(s *story) { has(s); expires(s, time.Hour); s.rest() }, nil},
		"its expireTime was over just now": {func(s *story) { has(s); s.rest(); expires(s, 0) }, nil},
		"its expireTime is over, and it goes": {func(s *story) {
			has(s)
			expires(s, time.Second)
			s.del("BatchSandbox", "a")
			s.letGo("a")
			s.rest()
		}, nil},
		"its tasks completed long ago, and it was to live on for a moment": {func(s *story) {
			has(s, withTask(0))
			s.editSpec("a", func(spec *v1alpha1.BatchSandboxSpec) { spec.TTLSecondsAfterFinished = new(int32) })
			s.run("a", 1, "x", "Completed")
			s.status("a", func(status *v1alpha1.BatchSandboxStatus) {
				status.CompletedIndexes = "0"
				status.Conditions = []metav1.Condition{{
					Type: v1alpha1.ConditionTasksCompleted, Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(s.now),
				}}
			})
			s.editSpec("a", resize(1))
			s.name("a", "x")
			s.rest()
		}, stuck},
		"it keeps a pod after it was made smaller": {func(s *story) { has(s); s.editSpec("a", resize(1)); s.rest() }, stuck},
		"it was made smaller just now":             {func(s *story) { has(s); s.rest(); s.editSpec("a", resize(1)) }, nil},
		"it gave the pod back": {func(s *story) {
			has(s)
			s.editSpec("a", resize(1))
			s.mark("y", "a")
			s.name("a", "x")
			s.restart("y", "sandbox", "task-executor")
			s.unmark("y")
			s.rest()
		}, nil},
	}.run(t)
}

func TestPodsOfAnOldTemplate(t *testing.T) {
	image := func(image string) func(*v1alpha1.Pool) {
		return func(p *v1alpha1.Pool) {
			p.Spec.Template.Raw = []byte(`{"spec":{"containers":[{"name":"sandbox","image":"` + image + `"}]}}`)
		}
	}
	ready := func(s *story, edits ...func(*v1alpha1.Pool)) {
		s.makePool("p", 1, append(edits, image("new"))...)
		s.makePods("p", "x")
		s.editPod("x", func(pod *corev1.Pod) { pod.Spec.Containers = []corev1.Container{{Name: "sandbox", Image: "old"}} })
	}
	cases{
		"nobody holds it":  {func(s *story) { ready(s); s.rest() }, one(Stuck, "Pod default/x")},
		"a batch holds it": {func(s *story) { ready(s); s.ask("a", "p"); s.name("a", "x"); s.rest() }, nil},
		"edited just now":  {func(s *story) { ready(s); s.editPool("p", image("old")); s.rest(); s.editPool("p", image("new")) }, nil},
		"new pods would fail": {func(s *story) {
			ready(s)
			s.editPool("p", func(p *v1alpha1.Pool) {
				p.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionPodsFailing, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPodsEnded}}
			})
			s.rest()
		}, nil},
	}.run(t)
}
