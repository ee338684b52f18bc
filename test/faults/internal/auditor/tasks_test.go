// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

// tasked has a batch with a task in x, whose backoffLimit is as given, and y beside it.
func tasked(s *story, limit int32, edits ...func(*wrappers.BatchWrapper)) {
	s.makePool("p", 2)
	s.makePods("p", "x", "y")
	s.ask("a", "p", append([]func(*wrappers.BatchWrapper){withTask(limit)}, edits...)...)
	s.name("a", "x")
}

func resize(n int32) func(*v1alpha1.BatchSandboxSpec) {
	return func(spec *v1alpha1.BatchSandboxSpec) { spec.Replicas = &n }
}

func TestTasksThatRunTooOften(t *testing.T) {
	often := one(RunTooOften, "BatchSandbox default/a", "index 0")
	in := func(pods ...string) []want {
		return one(RunTooOften, append([]string{"BatchSandbox default/a", "index 0"}, pods...)...)
	}
	cases{
		"one try runs once": {func(s *story) { tasked(s, 0); s.run("a", 1, "x", "Completed"); s.succeeded("a"); s.rest() }, nil},
		"one try runs in two pods": {func(s *story) {
			tasked(s, 0)
			s.run("a", 1, "x", "Completed")
			s.run("a", 1, "y", "Completed")
			s.succeeded("a")
		}, in("Pod default/x", "Pod default/y")},
		"one try runs twice in one pod": {func(s *story) {
			tasked(s, 0)
			s.run("a", 1, "x", "")
			s.run("a", 1, "x", "")
		}, in("Pod default/x", "Pod default/x")},
		"it fails as often as it may": {func(s *story) {
			tasked(s, 1)
			s.run("a", 1, "x", "NonZeroExit")
			s.tries("a", 1, 0)
			s.run("a", 2, "x", "NonZeroExit")
			s.failed("a", "NonZeroExit")
		}, nil},
		"it fails once more than it may": {func(s *story) {
			tasked(s, 0)
			s.run("a", 1, "x", "NonZeroExit")
			s.tries("a", 1, 0)
			s.run("a", 2, "x", "NonZeroExit")
		}, often},
		"a patch of its index allows it more tries": {func(s *story) {
			tasked(s, 0, func(b *wrappers.BatchWrapper) { b.TaskPatches(`{"spec":{"backoffLimit":1}}`) })
			s.run("a", 1, "x", "NonZeroExit")
			s.tries("a", 1, 0)
			s.run("a", 2, "x", "NonZeroExit")
		}, nil},
		"it fails in a pod that is lost before anybody heard of it": {func(s *story) {
			tasked(s, 0)
			s.run("a", 1, "x", "NonZeroExit")
			s.remove("Pod", "x")
			s.tries("a", 0, 1)
			s.name("a", "y")
			s.run("a", 2, "y", "NonZeroExit")
			s.failed("a", "NonZeroExit")
		}, nil},
		"it succeeds, and its pod is lost while nobody leads who could hear of it": {func(s *story) {
			tasked(s, 0)
			s.run("a", 1, "x", "Completed")
			s.pass(10 * time.Second)
			s.remove("Pod", "x")
			s.tries("a", 0, 1)
			s.name("a", "y")
			s.run("a", 2, "y", "Completed")
			s.succeeded("a")
		}, nil},
		"it succeeds, and its pod is lost long after": {func(s *story) {
			tasked(s, 0)
			s.run("a", 1, "x", "Completed")
			s.pass(20 * time.Second)
			s.remove("Pod", "x")
			s.tries("a", 0, 1)
			s.name("a", "y")
			s.run("a", 2, "y", "Completed")
			s.succeeded("a")
		}, in("Pod default/y")},
		"it is lost as often as it may": {func(s *story) {
			tasked(s, 0)
			for try := range 4 {
				s.run("a", try+1, "x", "ExecutorLost")
				s.tries("a", 0, int32(try)+1)
			}
			s.run("a", 4+1, "x", "Completed")
			s.marks = s.marks[:4]
			s.tries("a", 0, 3)
		}, nil},
		"it is lost once more than it may": {func(s *story) {
			tasked(s, 0)
			for try := range 5 {
				s.run("a", try+1, "x", "ExecutorLost")
				s.tries("a", 0, int32(try)+1)
			}
		}, often},
		"it runs again after it succeeded": {func(s *story) {
			tasked(s, 0)
			s.run("a", 1, "x", "Completed")
			s.tries("a", 0, 1)
			s.run("a", 2, "y", "Completed")
		}, in("Pod default/y")},
		"it runs again after its index was given up and asked for again": {func(s *story) {
			tasked(s, 0)
			s.run("a", 1, "x", "Completed")
			s.editSpec("a", resize(0))
			s.status("a", func(status *v1alpha1.BatchSandboxStatus) {
				status.TaskTries = []v1alpha1.TaskTries{{Withdrawn: 1}}
			})
			s.editSpec("a", resize(1))
			s.run("a", 2, "x", "Completed")
			s.succeeded("a")
		}, nil},
		"a try begins long before the status counts the one before": {func(s *story) {
			tasked(s, 1)
			s.run("a", 1, "x", "NonZeroExit")
			s.run("a", 2, "x", "NonZeroExit")
			s.pass(10 * time.Second)
			s.tries("a", 1, 0)
		}, in("Pod default/x")},
	}.run(t)
}

func TestMisreportedEnds(t *testing.T) {
	wrong := one(EndMisreported, "BatchSandbox default/a", "index 0")
	after := func(how string, tell func(*story)) func(*story) {
		return func(s *story) { tasked(s, 0); s.run("a", 1, "x", how); tell(s) }
	}
	success := func(s *story) { s.succeeded("a") }
	failure := func(reason string) func(*story) { return func(s *story) { s.failed("a", reason) } }
	cases{
		"success, and it was one":                       {after("Completed", success), nil},
		"success, and it failed":                        {after("NonZeroExit", success), wrong},
		"success, and it runs":                          {after("", success), wrong},
		"success, and it never ran":                     {func(s *story) { tasked(s, 0); s.succeeded("a") }, wrong},
		"a failure, and it failed so":                   {after("TimedOut", failure("TimedOut")), nil},
		"a failure, and it failed otherwise":            {after("TimedOut", failure("NonZeroExit")), wrong},
		"a failure, and it succeeded":                   {after("Completed", failure("NonZeroExit")), wrong},
		"that it was lost, and it ran to no end":        {after("", failure("SandboxLost")), nil},
		"that it was lost, and it succeeded":            {after("Completed", failure("SandboxLost")), wrong},
		"that it could not be started, and it did not":  {func(s *story) { tasked(s, 0); s.failed("a", "StartError") }, nil},
		"that it could not be started, and it ran well": {after("Completed", failure("StartError")), wrong},
		"that it was lost, and it succeeded in a pod that is gone": {after("Completed", func(s *story) {
			s.remove("Pod", "x")
			s.failed("a", "SandboxLost")
		}), nil},
		"success of the second try, and the first succeeded": {func(s *story) {
			tasked(s, 1)
			s.run("a", 1, "x", "NonZeroExit")
			s.tries("a", 1, 0)
			s.succeeded("a")
		}, wrong},
		"an end, and later none": {after("Completed", func(s *story) {
			s.succeeded("a")
			s.status("a", func(status *v1alpha1.BatchSandboxStatus) { status.CompletedIndexes = "" })
		}), wrong},
		"an end, and later another": {after("Completed", func(s *story) {
			s.succeeded("a")
			s.status("a", func(status *v1alpha1.BatchSandboxStatus) { status.CompletedIndexes = "" })
			s.history = s.history[:len(s.history)-1]
			s.failed("a", "NonZeroExit")
		}), wrong},
		"an end, and none any more after its index was given up": {after("Completed", func(s *story) {
			s.succeeded("a")
			s.editSpec("a", resize(0))
			s.status("a", func(status *v1alpha1.BatchSandboxStatus) { status.CompletedIndexes = "" })
		}), nil},
		"nothing, long after it ended": {after("Completed", func(s *story) { s.rest() }), wrong},
		"nothing, a moment after it ended": {func(s *story) {
			s.rest()
			tasked(s, 0)
			s.run("a", 1, "x", "Completed")
		}, nil},
		"nothing, and it runs": {after("", func(s *story) { s.rest() }), nil},
	}.run(t)
}

func TestStuckTasks(t *testing.T) {
	stuck := one(Stuck, "BatchSandbox default/a", "index 0")
	cases{
		"its first try never begins": {func(s *story) { tasked(s, 0); s.rest() }, stuck},
		"its first try never begins, and its pod isn't Ready": {func(s *story) {
			tasked(s, 0)
			s.editPod("x", func(pod *corev1.Pod) { pod.Status.Conditions = nil })
			s.rest()
		}, nil},
		"its sandbox was lost, and it is not run in the next": {func(s *story) {
			tasked(s, 0)
			s.run("a", 1, "x", "")
			s.remove("Pod", "x")
			s.name("a", "y")
			s.rest()
		}, stuck},
		"its sandbox was lost, and it is run in the next": {func(s *story) {
			tasked(s, 0)
			s.run("a", 1, "x", "")
			s.remove("Pod", "x")
			s.tries("a", 0, 1)
			s.name("a", "y")
			s.run("a", 2, "y", "")
			s.rest()
		}, nil},
		"its second try never begins": {func(s *story) {
			tasked(s, 1)
			s.run("a", 1, "x", "NonZeroExit")
			s.tries("a", 1, 0)
			s.rest()
		}, stuck},
		"its next try waits for its time": {func(s *story) {
			tasked(s, 9)
			s.run("a", 1, "x", "NonZeroExit")
			s.tries("a", 9, 0)
			s.marks[0].Try = 9
			s.rest()
			s.marks[0].End = s.now.Add(-time.Minute)
			s.marks[0].Begin = s.marks[0].End
		}, nil},
	}.run(t)
}
