// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/wrappers"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const ns = "default"

// --- what a case is made of -------------------------------------------------------------------------------

// batchFacts are those of a batch that the controller has answered; with a pool, it refers to that.
func batchFacts(sb *wrappers.BatchWrapper, pool *v1alpha1.Pool) Facts {
	sb.Created(now.Add(-time.Minute))
	sb.Status.ObservedGeneration = sb.Generation
	f := Facts{Now: now, Kind: KindBatch, Namespace: ns, Name: sb.Name, Batch: sb.Obj(), Pool: pool}
	if sb.Spec.PoolRef != "" {
		f.Batches = []v1alpha1.BatchSandbox{*f.Batch}
	}
	return f
}

func poolFacts(pool *v1alpha1.Pool) Facts {
	return Facts{Now: now, Kind: KindPool, Namespace: ns, Name: pool.Name, Pool: pool}
}

func batch(name string) *wrappers.BatchWrapper { return wrappers.MakeBatch(ns, name) }

// says adds a condition with a message.
func says(sb *wrappers.BatchWrapper, kind, reason, message string) *wrappers.BatchWrapper {
	sb.Status.Conditions = append(sb.Status.Conditions, metav1.Condition{
		Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now.Add(-30 * time.Second)),
	})
	return sb
}

func ready(sb *wrappers.BatchWrapper) *wrappers.BatchWrapper {
	sb.Status.Ready = *sb.Spec.Replicas
	return sb.Condition(v1alpha1.ConditionAllocated, metav1.ConditionTrue, v1alpha1.ReasonAllocated, now).
		Condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonPodsReady, now)
}

func waits(name string) *wrappers.BatchWrapper {
	sb := batch(name).Pool("small")
	sb.Status.Queue = &v1alpha1.QueueStatus{Position: 1, Waiting: 1}
	says(sb, v1alpha1.ConditionAllocated, v1alpha1.ReasonWaitingForPool, "waiting for pods of Pool small")
	return says(sb, v1alpha1.ConditionReady, v1alpha1.ReasonPodsNotReady, "0 of 1 sandboxes are Ready")
}

// pool is one of at most 3 pods, that the controller has answered.
func pool(change func(*v1alpha1.Pool)) *v1alpha1.Pool {
	p := wrappers.MakePool(ns, "small").Size(0, 3).Obj()
	p.CreationTimestamp = metav1.NewTime(now.Add(-time.Hour))
	p.Status.ObservedGeneration = p.Generation
	if change != nil {
		change(p)
	}
	return p
}

func poolSays(p *v1alpha1.Pool, kind string, status metav1.ConditionStatus, reason, message string) {
	p.Status.Conditions = append(p.Status.Conditions, metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message})
}

// full is a pool whose 3 pods are held while more are waited for.
func full(p *v1alpha1.Pool) {
	p.Status.Total, p.Status.Allocated, p.Status.Waiting, p.Status.Updated = 3, 3, 1, 3
	poolSays(p, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonBufferReady, "the pool has poolMax (3) pods, as many as it may")
	poolSays(p, v1alpha1.ConditionScalingLimited, metav1.ConditionTrue, v1alpha1.ReasonPoolMaxReached, "poolMax (3) permits no more pods")
}

func starts(p *v1alpha1.Pool) {
	p.Status.Total, p.Status.Starting, p.Status.Waiting, p.Status.Updated = 2, 2, 1, 2
	poolSays(p, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonBufferLow, "fewer than bufferMin (1) pods are idle")
}

func pod(name string, change func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, CreationTimestamp: metav1.NewTime(now.Add(-20 * time.Second))},
		Spec: corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{
			{Name: "sandbox", Image: "registry.test/app:v9"}, {Name: v1alpha1.TaskExecutorContainer, Image: "executor"},
		}},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	change(&p)
	return p
}

func container(name string, state corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: name, State: state})
	}
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func ended(code int32, reason string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}}
}

func unschedulable(p *corev1.Pod) {
	p.Spec.NodeName = ""
	p.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 nodes are available: 1 Insufficient cpu.",
	}}
}

func indexed(index string, change func(*corev1.Pod)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{v1alpha1.PodIndexLabel: index}
		change(p)
	}
}

func event(kind, name, reason, message string) corev1.Event {
	return corev1.Event{
		InvolvedObject: corev1.ObjectReference{Kind: kind, Name: name}, Reason: reason, Message: message,
		EventTime: metav1.NewMicroTime(now.Add(-90 * time.Second)),
	}
}

func lease(renewed time.Duration) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "opensandbox-system", Name: v1alpha1.LeaderElectionID},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: now.Add(-renewed)}, LeaseDurationSeconds: ptr.To[int32](15)},
	}
}

// tasks has a batch of n that ended with failures.
func tasks(n int32, failed v1alpha1.FailedTask, indexes string) *wrappers.BatchWrapper {
	sb := ready(batch("web").Replicas(n).Container("sandbox").Task("run"))
	sb.Status.TaskFailed = 1
	sb.Status.FailedReasons = []v1alpha1.FailedReason{{Reason: failed.Reason, Indexes: indexes}}
	sb.Status.FailedTasks = []v1alpha1.FailedTask{failed}
	return sb
}

// with changes facts.
func with(f Facts, change func(*Facts)) Facts {
	change(&f)
	return f
}

// --- the table --------------------------------------------------------------------------------------------

type explainCase struct {
	facts Facts
	// want are the reasons, in order; says are parts of the first cause: of its sentence, remedy, commands or evidence.
	want []string
	says []string
}

func TestExplainNamesTheCause(t *testing.T) {
	for _, cases := range []map[string]explainCase{objectCases(), poolCases(), supplyCases(), podCases(), failureCases()} {
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				e := Explain(c.facts)
				var got []string
				for _, cause := range e.Causes {
					got = append(got, cause.Reason)
					if cause.Sentence == "" || len(cause.Evidence) == 0 && cause.Reason != ReasonNotFound {
						t.Errorf("%s has no sentence, or no evidence: %+v", cause.Reason, cause)
					}
				}
				if !slices.Equal(got, c.want) {
					t.Fatalf("causes %q, want %q: %+v", got, c.want, e)
				}
				text := e.Summary + "\n" + strings.Join(e.Notes, "\n")
				if len(e.Causes) > 0 {
					first := e.Causes[0]
					text = strings.Join(slices.Concat([]string{first.Sentence, first.Remedy}, first.Commands, first.Evidence), "\n")
				}
				for _, part := range c.says {
					if !strings.Contains(text, part) {
						t.Errorf("%q is not said in:\n%s", part, text)
					}
				}
				if strings.HasPrefix(e.Summary, "nothing is wrong") != (len(e.Causes) == 0) {
					t.Errorf("with %d causes the summary is %q", len(e.Causes), e.Summary)
				}
			})
		}
	}
}

func objectCases() map[string]explainCase {
	soon := metav1.NewTime(now.Add(-5 * time.Second))
	quota := `the API server forbids the pod: pods "web-0" is forbidden: exceeded quota: compute, requested: pods=1, used: pods=4, limited: pods=4`
	return map[string]explainCase{
		"a batch that is Ready has nothing wrong": {
			facts: batchFacts(ready(batch("web").Replicas(2).Container("sandbox")).Expires(now.Add(41*time.Minute)), nil),
			says:  []string{"nothing is wrong: web has 2 of 2 sandboxes Ready", "expires at 2026-01-01T12:41:00Z, in 41m: kubectl sandbox -n default extend web --by 1h"},
		},
		"a batch that was deleted when its time was over has expired": {
			facts: Facts{Now: now, Kind: KindBatch, Namespace: ns, Name: "web", Events: []corev1.Event{
				event(KindBatch, "web", "Allocated", "Allocated 1 sandboxes from Pool small"), event(KindBatch, "web", "Expired", "Deleted the batch, for its time is over"),
			}},
			want: []string{ReasonExpired},
			says: []string{"deleted at 2026-01-01T11:58:30Z (90s ago)", "event Expired of batchsandbox web"},
		},
		"a batch that is being deleted since its time is over has expired": {
			facts: batchFacts(func() *wrappers.BatchWrapper {
				sb := ready(batch("web").Container("sandbox")).Expires(soon.Time).Finalizers(v1alpha1.TaskCleanupFinalizer)
				sb.DeletionTimestamp = &soon
				return sb
			}(), nil),
			want: []string{ReasonExpired},
			says: []string{"being deleted since 2026-01-01T11:59:55Z", "tasks have stopped"},
		},
		"a batch whose time is over and that is still there has expired, and nobody deletes it": {
			facts: with(batchFacts(batch("web").Container("sandbox").Expires(soon.Time), nil), func(f *Facts) { f.Lease = lease(5 * time.Minute) }),
			want:  []string{ReasonExpired, ReasonControllerNotRunning},
		},
		"a batch that somebody deletes is terminating": {
			facts: batchFacts(func() *wrappers.BatchWrapper {
				sb := ready(batch("web").Container("sandbox")).Finalizers(v1alpha1.TaskCleanupFinalizer)
				sb.DeletionTimestamp = &soon
				return sb
			}(), nil),
			want: []string{ReasonTerminating},
			says: []string{v1alpha1.TaskCleanupFinalizer, "30 s"},
		},
		"no batch of that name, and no trace of one, is not found": {
			facts: Facts{Now: now, Kind: KindBatch, Namespace: ns, Name: "web"},
			want:  []string{ReasonNotFound},
			says:  []string{"there is no BatchSandbox web in namespace default"},
		},
		"no batch but a pool of that name says so": {
			facts: Facts{Now: now, Kind: KindBatch, Namespace: ns, Name: "small", Pool: pool(nil)},
			want:  []string{ReasonNotFound},
			says:  []string{"but a Pool of that name", "explain pool/small"},
		},
		"a lease that nobody renews means that no controller works on what is not Ready": {
			facts: with(batchFacts(says(batch("web").Container("sandbox"), v1alpha1.ConditionReady, v1alpha1.ReasonPodsNotReady, "0 of 1 sandboxes are Ready"), nil),
				func(f *Facts) { f.Lease = lease(5 * time.Minute) }),
			want: []string{ReasonControllerNotRunning},
			says: []string{"for 5m", "renewTime of lease opensandbox-system/" + v1alpha1.LeaderElectionID},
		},
		"a lease that nobody renews is a note where all is well": {
			facts: with(batchFacts(ready(batch("web").Container("sandbox")), nil), func(f *Facts) { f.Lease = lease(5 * time.Minute) }),
			says:  []string{"nothing is wrong", "no controller is at work"},
		},
		"a lease that ended a moment ago says nothing": {
			facts: with(batchFacts(says(batch("web").Container("sandbox"), v1alpha1.ConditionReady, v1alpha1.ReasonPodsNotReady, "0 of 1 sandboxes are Ready"), nil),
				func(f *Facts) { f.Lease = lease(40 * time.Second) }),
			want: []string{v1alpha1.ReasonPodsNotReady},
		},
		"a spec that was not looked at for long means that the controller is behind": {
			facts: with(batchFacts(ready(batch("web").Container("sandbox")), nil), func(f *Facts) { f.Batch.Generation = 2 }),
			want:  []string{ReasonControllerBehind},
			says:  []string{"status.observedGeneration is 1, metadata.generation is 2", "--watch-namespaces"},
		},
		"a spec that was changed a moment ago may still be looked at": {
			facts: with(batchFacts(ready(batch("web").Container("sandbox")), nil), func(f *Facts) {
				f.Batch.Generation = 2
				f.Batch.ManagedFields = []metav1.ManagedFieldsEntry{{Time: ptr.To(metav1.NewTime(now.Add(-2 * time.Second)))}}
			}),
			says: []string{"nothing is wrong"},
		},
		"a batch that is just made has not been answered": {
			facts: with(batchFacts(batch("web").Container("sandbox"), nil), func(f *Facts) { f.Batch.CreationTimestamp = soon }),
			want:  []string{ReasonControllerBehind},
			says:  []string{"made 5s ago"},
		},
		"a mistake in the spec is told in the controller's words": {
			facts: batchFacts(says(batch("web"), v1alpha1.ConditionAllocated, v1alpha1.ReasonNoTemplate, "spec has neither poolRef nor template: set one of them"), nil),
			want:  []string{v1alpha1.ReasonNoTemplate},
			says:  []string{"neither poolRef nor template", "kubectl -n default edit batchsandbox/web"},
		},
		"a task that can't be run needs a new batch": {
			facts: batchFacts(says(batch("web").Container("sandbox"), v1alpha1.ConditionReady, v1alpha1.ReasonInvalidTask, "the task of index 0 has a backoffLimit of -1"), nil),
			want:  []string{v1alpha1.ReasonInvalidTask},
			says:  []string{"tasks can't be edited"},
		},
		"a quota that forbids the pods is named": {
			facts: with(batchFacts(says(batch("web").Container("sandbox"), v1alpha1.ConditionReady, v1alpha1.ReasonPodsForbidden, quota), nil), func(f *Facts) {
				f.Quotas = []corev1.ResourceQuota{{ObjectMeta: metav1.ObjectMeta{Name: "compute"}, Status: corev1.ResourceQuotaStatus{
					Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("4")}, Used: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("4")},
				}}}
			}),
			want: []string{ReasonQuotaExceeded},
			says: []string{"ResourceQuota compute of namespace default", "limited: pods=4", "describe resourcequota compute", "pods 4 of 4 is used"},
		},
		"other pods that are forbidden stay what they are": {
			facts: batchFacts(says(batch("web").Container("sandbox"), v1alpha1.ConditionReady, v1alpha1.ReasonPodsForbidden, "the API server forbids the pod: violates PodSecurity"), nil),
			want:  []string{v1alpha1.ReasonPodsForbidden},
			says:  []string{"violates PodSecurity"},
		},
	}
}

func poolCases() map[string]explainCase {
	going := metav1.NewTime(now.Add(-time.Minute))
	return map[string]explainCase{
		"a pool that is Ready has nothing wrong": {
			facts: poolFacts(pool(func(p *v1alpha1.Pool) {
				poolSays(p, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonBufferReady, "")
			})),
			says: []string{"nothing is wrong"},
		},
		"a pool that needs more than poolMax is exhausted": {
			facts: with(poolFacts(pool(full)), func(f *Facts) {
				f.Batches = []v1alpha1.BatchSandbox{
					*batch("a").Pool("small").AllocStatus(`{"pods":["p-1"]}`).Obj(), *batch("b").Pool("small").AllocStatus(`{"pods":["p-2","","p-3"]}`).Obj(),
				}
			}),
			want: []string{ReasonPoolExhausted},
			says: []string{"no more than 3 pods (poolMax)", "batches hold 3", "1 sandbox is waited for; held by b 2, a 1", "condition ScalingLimited=True"},
		},
		"a pool whose template is wrong says so": {
			facts: poolFacts(pool(func(p *v1alpha1.Pool) {
				poolSays(p, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate, "spec.template is no pod template.")
			})),
			want: []string{v1alpha1.ReasonInvalidTemplate},
			says: []string{"spec.template is no pod template", "edit pool/small"},
		},
		"a pool that a quota keeps small says so": {
			facts: poolFacts(pool(func(p *v1alpha1.Pool) {
				poolSays(p, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonPodsForbidden, "exceeded quota: compute, requested: pods=1, used: pods=4, limited: pods=4")
			})),
			want: []string{ReasonQuotaExceeded},
		},
		"a pool that is being deleted waits for who holds its pods": {
			facts: with(poolFacts(pool(func(p *v1alpha1.Pool) { p.DeletionTimestamp, p.Status.Allocated = &going, 1 })), func(f *Facts) {
				f.Batches = []v1alpha1.BatchSandbox{*batch("a").Pool("small").AllocStatus(`{"pods":["p-1"]}`).Obj()}
			}),
			want: []string{ReasonTerminating},
			says: []string{"they hold 1; held by a 1"},
		},
		"a pool whose pods start is starting": {
			facts: poolFacts(pool(starts)),
			want:  []string{ReasonPodsStarting},
			says:  []string{"2 pods of Pool small are starting"},
		},
		"a pool whose old pods are replaced is being updated": {
			facts: poolFacts(pool(func(p *v1alpha1.Pool) {
				starts(p)
				p.Status.Updated, p.Status.Revision = 1, "abc"
			})),
			want: []string{ReasonPoolUpdating},
			says: []string{"revision abc: 1 of 2 pods have it"},
		},
		"a pool whose nodes are cordoned is low for that": {
			facts: poolFacts(pool(func(p *v1alpha1.Pool) {
				p.Status.LastScaleReason = "create no pods"
				poolSays(p, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonBufferLow, "fewer than bufferMin (1) pods are idle; the nodes of 2 other pods are cordoned: uncordon them")
			})),
			want: []string{v1alpha1.ReasonBufferLow},
			says: []string{"the nodes of 2 other pods are cordoned", `"create no pods"`},
		},
		"a pool whose pods fail tells of the pod that is there": {
			facts: with(poolFacts(pool(func(p *v1alpha1.Pool) {
				starts(p)
				poolSays(p, v1alpha1.ConditionPodsFailing, metav1.ConditionTrue, "ErrImagePull", "pod small-x: container sandbox: not found")
			})), func(f *Facts) {
				f.PoolPods = []corev1.Pod{pod("small-y", container("sandbox", waiting("ErrImagePull", "manifest unknown")))}
			}),
			want: []string{ReasonImagePullFailed},
			says: []string{"pods of Pool small don't start: pod small-y: image registry.test/app:v9 of container sandbox can't be pulled (manifest unknown)", "edit pool/small", "condition PodsFailing=True"},
		},
		"a pool whose failing pod is gone tells of it in the words of the condition": {
			facts: poolFacts(pool(func(p *v1alpha1.Pool) {
				starts(p)
				poolSays(p, v1alpha1.ConditionPodsFailing, metav1.ConditionTrue, v1alpha1.ReasonPodsEnded, "pod small-x ended as Succeeded; give the template commands that keep running")
			})),
			want: []string{ReasonContainerCrashing},
			says: []string{"pod small-x ended as Succeeded", "logs small-x "},
		},
		"a held pod that fails is its batch's affair": {
			facts: with(poolFacts(pool(func(p *v1alpha1.Pool) {
				poolSays(p, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonBufferReady, "")
			})), func(f *Facts) {
				f.PoolPods = []corev1.Pod{pod("p-1", container("sandbox", waiting("CrashLoopBackOff", "")))}
				f.Batches = []v1alpha1.BatchSandbox{*batch("a").Pool("small").AllocStatus(`{"pods":["p-1"]}`).Obj()}
			}),
			says: []string{"nothing is wrong"},
		},
	}
}

func supplyCases() map[string]explainCase {
	return map[string]explainCase{
		"a pool that is not there is missing": {
			facts: batchFacts(says(batch("web").Pool("smal"), v1alpha1.ConditionAllocated, v1alpha1.ReasonPoolNotFound, "there is no Pool smal in namespace default: make one, or delete the batch"), nil),
			want:  []string{v1alpha1.ReasonPoolNotFound},
			says:  []string{"there is no Pool smal in namespace default, which web takes its sandboxes from", "poolRef can't be changed", "get pools"},
		},
		"a pool that is being deleted serves nobody": {
			facts: batchFacts(says(batch("web").Pool("small"), v1alpha1.ConditionAllocated, v1alpha1.ReasonPoolTerminating, "Pool small is being deleted"), pool(nil)),
			want:  []string{v1alpha1.ReasonPoolTerminating},
		},
		"more than poolMax can't be had": {
			facts: batchFacts(says(batch("web").Replicas(9).Pool("small"), v1alpha1.ConditionAllocated, v1alpha1.ReasonExceedsPoolMax, "9 sandboxes are asked for, but Pool small has a poolMax of 3"), pool(full)),
			want:  []string{v1alpha1.ReasonExceedsPoolMax},
			says:  []string{"poolMax of 3", "edit pool/small"},
		},
		"a batch that waited for too long has given up": {
			facts: batchFacts(says(batch("web").Pool("small"), v1alpha1.ConditionAllocated, v1alpha1.ReasonAllocationTimedOut, "Pool small could not give 1 of the sandboxes within 5 s"), pool(full)),
			want:  []string{v1alpha1.ReasonAllocationTimedOut},
			says:  []string{"within 5 s", "allocationTimeoutSeconds"},
		},
		"a pool whose pods are all held is exhausted": {
			facts: with(batchFacts(waits("web").AllocationTimeout(60), pool(full)), func(f *Facts) {
				f.Batches = append(f.Batches, *batch("hog").Pool("small").Replicas(3).AllocStatus(`{"pods":["p-1","p-2","p-3"]}`).Obj())
			}),
			want: []string{ReasonPoolExhausted},
			says: []string{"3 of at most 3 pods (poolMax), of which batches hold 3", "web is at position 1 of the queue and wants 1", "held by hog 3",
				"gives up at 2026-01-01T12:00:30Z", "raise poolMax", "queue small", "condition ScalingLimited=True of the pool: PoolMaxReached"},
		},
		"a pool whose pods are starting is": {
			facts: batchFacts(waits("web"), pool(starts)),
			want:  []string{ReasonPodsStarting},
			says:  []string{"2 pods of Pool small are starting, and 1 sandbox is waited for"},
		},
		"a pool that may not start more at once says so": {
			facts: batchFacts(waits("web"), pool(func(p *v1alpha1.Pool) {
				starts(p)
				poolSays(p, v1alpha1.ConditionScalingLimited, metav1.ConditionTrue, v1alpha1.ReasonStartingLimit, "scaleStrategy.maxUnavailable (2)")
			})),
			want: []string{ReasonPodsStarting},
			says: []string{"no more may start at once"},
		},
		"a batch behind others waits in the queue": {
			facts: with(batchFacts(waits("web"), pool(func(p *v1alpha1.Pool) { p.Status.Total, p.Status.Available = 1, 1 })), func(f *Facts) {
				first := waits("first").Priority(5).Replicas(3).MinAvailable(3).Created(now)
				f.Batches = append(f.Batches, *first.Obj())
				f.Batch.Status.Queue.Position = 2
			}),
			want: []string{ReasonWaitingInQueue},
			says: []string{"1 batch of Pool small is served first: first (wants 3, priority 5); web is at position 2"},
		},
		"a pool that makes no pods is not growing": {
			facts: batchFacts(waits("web"), pool(func(p *v1alpha1.Pool) {
				p.Status.LastScaleReason = "create no pods: buffer -1 is below bufferMin 0, but the last could not be created"
			})),
			want: []string{ReasonPoolNotGrowing},
			says: []string{"the last could not be created", "explain pool/small"},
		},
		"a pool whose nodes are cordoned is not growing for that": {
			facts: batchFacts(waits("web"), pool(func(p *v1alpha1.Pool) {
				p.Status.Total = 2
				poolSays(p, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonBufferLow, "fewer than bufferMin (0) pods are idle; the nodes of 2 other pods are cordoned")
			})),
			want: []string{ReasonPoolNotGrowing},
			says: []string{"the nodes of 2 other pods are cordoned", "uncordon", "kubectl get nodes"},
		},
		"a gang waits until all of it is there": {
			facts: batchFacts(waits("web").Replicas(3).MinAvailable(3), pool(func(p *v1alpha1.Pool) {
				full(p)
				p.Status.Allocated, p.Status.Available = 1, 2
			})),
			want: []string{ReasonGangWaiting, ReasonPoolExhausted},
			says: []string{"web takes no sandbox before it can have 3 together (minAvailable), and Pool small has 2 available and 0 starting; batches hold 1, and poolMax is 3", "lower minAvailable"},
		},
		"a gang whose pool can't pull its image waits for the image": {
			facts: with(batchFacts(waits("web").Replicas(3).MinAvailable(3), pool(starts)), func(f *Facts) {
				f.PoolPods = []corev1.Pod{pod("small-y", container("sandbox", waiting("ErrImagePull", "manifest unknown")))}
			}),
			want: []string{ReasonImagePullFailed, ReasonGangWaiting},
		},
		"a batch whose pool finds no node waits for one": {
			facts: with(batchFacts(waits("web"), pool(starts)), func(f *Facts) { f.PoolPods = []corev1.Pod{pod("small-y", unschedulable)} }),
			want:  []string{ReasonPodUnschedulable},
			says:  []string{"pods of Pool small don't start: pod small-y: no node takes it (0/1 nodes are available: 1 Insufficient cpu)"},
		},
		"a batch whose pool has a broken template waits for it to be mended": {
			facts: batchFacts(waits("web"), pool(func(p *v1alpha1.Pool) {
				poolSays(p, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate, "no containers")
			})),
			want: []string{v1alpha1.ReasonInvalidTemplate},
			says: []string{"Pool small: no containers"},
		},
	}
}

func podCases() map[string]explainCase {
	own := func(n int32) *wrappers.BatchWrapper {
		sb := batch("web").Replicas(n).Container("sandbox").Condition(v1alpha1.ConditionAllocated, metav1.ConditionTrue, v1alpha1.ReasonAllocated, now)
		return says(sb, v1alpha1.ConditionReady, v1alpha1.ReasonPodsNotReady, "0 of 3 sandboxes are Ready")
	}
	facts := func(pods ...corev1.Pod) Facts {
		return with(batchFacts(own(int32(len(pods))), nil), func(f *Facts) { f.Pods = pods }) //nolint:gosec // a few
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-10 * time.Second))}}
	return map[string]explainCase{
		"pods that can't pull their image are told together": {
			facts: facts(
				pod("web-0", indexed("0", container("sandbox", waiting("ErrImagePull", "pull QPS exceeded 1")))),
				pod("web-1", indexed("1", container("sandbox", waiting("ErrImagePull", "pull QPS exceeded 2")))),
				pod("web-2", indexed("2", unschedulable))),
			want: []string{ReasonImagePullFailed, ReasonPodUnschedulable},
			says: []string{"the sandboxes of 2 indexes (0, 1), of which the first is pod web-0: image registry.test/app:v9 of container sandbox can't be pulled (pull QPS exceeded 1)",
				"edit batchsandbox/web", "delete pod web-0"},
		},
		"a bare back-off is told with the event of the try before": {
			facts: with(facts(pod("web-0", indexed("0", container("sandbox", waiting("ImagePullBackOff", `Back-off pulling image "registry.test/app:v9"`))))), func(f *Facts) {
				f.Events = []corev1.Event{event("Pod", "web-0", "Failed", `Failed to pull image "registry.test/app:v9": no such host`)}
			}),
			want: []string{ReasonImagePullFailed},
			says: []string{"(no such host)"},
		},
		"a container that crashes is told with its last end": {
			facts: facts(pod("web-0", indexed("0", func(p *corev1.Pod) {
				container("sandbox", waiting("CrashLoopBackOff", "back-off 10s"))(p)
				p.Status.ContainerStatuses[0].LastTerminationState = ended(137, "OOMKilled")
			}))),
			want: []string{ReasonContainerCrashing},
			says: []string{"ends again and again, last with exit code 137 (OOMKilled)", "--previous"},
		},
		"an init container that succeeded is no trouble": {
			facts: facts(pod("web-0", indexed("0", func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{{Name: "init"}}
				p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", State: ended(0, "Completed")}}
				container("sandbox", waiting("PodInitializing", ""))(p)
			}))),
			want: []string{ReasonPodsStarting},
		},
		"a container that can't be made is told": {
			facts: facts(pod("web-0", indexed("0", container("sandbox", waiting("CreateContainerConfigError", `secret "key" not found`))))),
			want:  []string{ReasonContainerConfigInvalid},
			says:  []string{`secret "key" not found`},
		},
		"a container that ended for good is told": {
			facts: facts(pod("web-0", indexed("0", func(p *corev1.Pod) {
				p.Spec.RestartPolicy = corev1.RestartPolicyNever
				container("sandbox", ended(1, "Error"))(p)
			}))),
			want: []string{ReasonContainerCrashing},
			says: []string{"has ended with exit code 1 (Error), and restartPolicy Never leaves it so"},
		},
		"a volume that is not there is told": {
			facts: with(facts(pod("web-0", indexed("0", container("sandbox", waiting("ContainerCreating", ""))))), func(f *Facts) {
				f.Events = []corev1.Event{event("Pod", "web-0", "FailedMount", `MountVolume.SetUp failed: configmap "c" not found`)}
			}),
			want: []string{ReasonPodBlocked},
			says: []string{`configmap "c" not found`, "event FailedMount of pod web-0"},
		},
		"a probe that fails is told": {
			facts: with(facts(pod("web-0", indexed("0", container("sandbox", running)))), func(f *Facts) {
				f.Events = []corev1.Event{event("Pod", "web-0", "Unhealthy", "Readiness probe failed: 503")}
			}),
			want: []string{ReasonPodNotReady},
			says: []string{"runs for 10s and is not ready (Readiness probe failed: 503)"},
		},
		"a node that is not Ready is told": {
			facts: with(facts(pod("web-0", indexed("0", container("sandbox", running)))), func(f *Facts) {
				f.Nodes = []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
					{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: metav1.NewTime(now.Add(-time.Minute))},
				}}}}
			}),
			want: []string{ReasonNodeNotReady},
			says: []string{"its node node-1 is not Ready for 60s"},
		},
		"a pod that failed is told": {
			facts: facts(pod("web-0", indexed("0", func(p *corev1.Pod) {
				p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "Evicted", "The node was low on resource: memory."
			}))),
			want: []string{ReasonPodFailed},
			says: []string{"has failed (Evicted: The node was low on resource: memory)"},
		},
		"a pod that is just starting is told if nothing else is": {
			facts: facts(pod("web-0", indexed("0", container("sandbox", waiting("ContainerCreating", ""))))),
			want:  []string{ReasonPodsStarting},
			says:  []string{"is starting for 20s"},
		},
		"a batch that is not Ready for no reason that can be seen tells its condition": {
			facts: facts(),
			want:  []string{v1alpha1.ReasonPodsNotReady},
			says:  []string{"0 of 3 sandboxes are Ready for 30s"},
		},
	}
}

func failureCases() map[string]explainCase {
	unknown := func(message string) *wrappers.BatchWrapper {
		sb := ready(batch("web").Container("sandbox").Task("run"))
		sb.Status.TaskUnknown = 1
		return says(sb, v1alpha1.ConditionTasksCompleted, v1alpha1.ReasonTasksRunning, "not every task has ended; the task-executor of index 0 "+message)
	}
	timed := tasks(1, v1alpha1.FailedTask{Reason: v1alpha1.TaskReasonTimedOut, Signal: 15, Tries: 1}, "0")
	timed.Spec.TaskTemplate.Spec.TimeoutSeconds = ptr.To[int64](2)
	return map[string]explainCase{
		"tasks that fail are told with the first failure": {
			facts: batchFacts(tasks(9, v1alpha1.FailedTask{Index: 2, Reason: v1alpha1.TaskReasonNonZeroExit, ExitCode: ptr.To[int32](3), Message: "exit status 3", Tries: 2, Output: "one\ntwo\n"}, "2,7"), nil),
			want:  []string{ReasonTaskFailed},
			says: []string{`2 tasks (indexes 2,7) failed, the first (index 2) with exit code 3 after 2 tries; the last it wrote is "two"`, "logs web --failed",
				"status.failedReasons: NonZeroExit 2,7"},
		},
		"a task that took too long has timed out": {
			facts: batchFacts(timed, nil),
			want:  []string{ReasonTaskTimedOut},
			says:  []string{"the task of index 0 did not end in time and was stopped after 2 s (timeoutSeconds) by signal 15 (terminated)", "raise taskTemplate.spec.timeoutSeconds"},
		},
		"a task that could not be started says why": {
			facts: batchFacts(tasks(1, v1alpha1.FailedTask{Reason: v1alpha1.TaskReasonStartError, Message: "denied: SYS_PTRACE is missing"}, "0"), nil),
			want:  []string{ReasonTaskNotStarted},
			says:  []string{"could not be started: denied: SYS_PTRACE is missing"},
		},
		"a task that was lost too often is the infrastructure's": {
			facts: batchFacts(tasks(1, v1alpha1.FailedTask{Reason: v1alpha1.TaskReasonExecutorLost, Tries: 4}, "0"), nil),
			want:  []string{ReasonTaskLost},
			says:  []string{"ended with its task-executor, more than 3 times (ExecutorLost) after 4 tries"},
		},
		"a task that was taken back is cancelled": {
			facts: batchFacts(tasks(1, v1alpha1.FailedTask{Reason: v1alpha1.TaskReasonCancelled}, "0"), nil),
			want:  []string{ReasonTaskCancelled},
		},
		"an older controller's failures are read from their details": {
			facts: with(batchFacts(tasks(1, v1alpha1.FailedTask{Index: 4, Reason: v1alpha1.TaskReasonNonZeroExit, Signal: 9}, ""), nil), func(f *Facts) { f.Batch.Status.FailedReasons = nil }),
			want:  []string{ReasonTaskFailed},
			says:  []string{"the task of index 4 failed by signal 9 (killed)"},
		},
		"an executor that is silent is told with what is wrong with its container": {
			facts: with(batchFacts(unknown("can't be reached: is there one in the pod, and is its port open?"), nil), func(f *Facts) {
				f.Pods = []corev1.Pod{pod("web-0", indexed("0", func(p *corev1.Pod) {
					p.Spec.RestartPolicy = corev1.RestartPolicyNever
					container(v1alpha1.TaskExecutorContainer, ended(137, "Error"))(p)
				}))}
			}),
			want: []string{ReasonExecutorUnreachable},
			says: []string{"the task-executor of 1 sandbox can't be reached", "the first is that of index 0 (pod web-0)", "has ended with exit code 137 (Error), and restartPolicy Never leaves it so",
				"logs web-0 -c task-executor", "delete pod web-0", "status.taskUnknown is 1"},
		},
		"an executor that runs and is silent is told with its pod": {
			facts: with(batchFacts(unknown("can't be reached: is there one in the pod, and is its port open?"), nil), func(f *Facts) {
				f.Pods = []corev1.Pod{pod("web-0", indexed("0", func(p *corev1.Pod) {
					p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
				}))}
			}),
			want: []string{ReasonExecutorUnreachable},
			says: []string{"index 0 (pod web-0)", "NetworkPolicy"},
		},
		"an executor of another root refuses": {
			facts: batchFacts(unknown("refuses the controller, whose root is not the one it got with its pod"), nil),
			want:  []string{ReasonExecutorRefuses},
			says:  []string{"another root key"},
		},
		"tasks that run are nothing wrong": {
			facts: batchFacts(func() *wrappers.BatchWrapper {
				sb := ready(batch("web").Replicas(2).Container("sandbox").Task("run"))
				sb.Status.TaskRunning, sb.Status.TaskSucceed = 1, 1
				return says(sb, v1alpha1.ConditionTasksCompleted, v1alpha1.ReasonTasksRunning, "not every task has ended")
			}(), nil),
			says: []string{"nothing is wrong: web has 2 of 2 sandboxes Ready; tasks: 1 running, 1 succeeded"},
		},
		"tasks that are tried again are noted": {
			facts: batchFacts(func() *wrappers.BatchWrapper {
				sb := ready(batch("web").Container("sandbox").Task("run"))
				sb.Status.TaskPending = 1
				return says(sb, v1alpha1.ConditionTasksCompleted, v1alpha1.ReasonTasksRunning, "not every task has ended; index 0 is tried again")
			}(), nil),
			says: []string{"nothing is wrong", "index 0 is tried again"},
		},
	}
}
