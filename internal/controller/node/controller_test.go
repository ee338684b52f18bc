// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"opensandbox.io/controller/internal/scheduler"
)

// world is an API server (a fake one, at the process boundary), a clock, a ledger and the reconciler of node n.
type world struct {
	t      *testing.T
	client client.WithWatch
	clock  *testingclock.FakePassiveClock
	ledger *scheduler.Ledger
	r      *Reconciler
	woken  []string // batches without pool
	onList func() error
}

func (w *world) WakeBatch(types.NamespacedName) {}
func (w *world) WakePool(types.NamespacedName)  {}

func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	w := &world{t: t, clock: testingclock.NewFakePassiveClock(now)}
	w.ledger = scheduler.NewLedger(w)
	w.client = fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(objects...).
		WithIndex(&corev1.Pod{}, nodeIndex, nodeOf).WithStatusSubresource(&corev1.Node{}).Build()
	w.r = New(Options{
		Client: interceptor.NewClient(w.client, interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, o ...client.ListOption) error {
				if w.onList != nil {
					if err := w.onList(); err != nil {
						return err
					}
				}
				return c.List(ctx, list, o...)
			},
		}), Clock: w.clock, Ledger: w.ledger, WakeBatch: func(b types.NamespacedName) { w.woken = append(w.woken, b.String()) },
	})
	return w
}

// wantState reconciles and checks what the ledger was told, who was woken, and when the node is looked at again.
func (w *world) wantState(want scheduler.NodeState, again time.Duration, woken ...string) {
	w.t.Helper()
	w.woken = nil
	res, err := w.r.Reconcile(context.Background(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "n"}})
	if err != nil {
		w.t.Fatal(err)
	}
	if got := w.ledger.NodeState("n"); got != want {
		w.t.Errorf("the node is %s, want %s", got, want)
	}
	if res.RequeueAfter != again {
		w.t.Errorf("the next look is in %v, want %v", res.RequeueAfter, again)
	}
	if diff := cmp.Diff(woken, w.woken); diff != "" {
		w.t.Errorf("woken (-want +got):\n%s", diff)
	}
}

func (w *world) after(d time.Duration) { w.clock.SetTime(w.clock.Now().Add(d)) }

func ownPod(name, batch, node string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       corev1.PodSpec{NodeName: node},
	}
	if batch != "" {
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: "BatchSandbox", Name: batch, Controller: ptr.To(true)}}
	}
	return pod
}

func TestNodeThatDoesNotComeBackIsLostAfterAMinuteAndWakesTheBatchesWithPodsThere(t *testing.T) {
	w := newWorld(t, readyNode(corev1.ConditionUnknown, 0),
		ownPod("b-0", "b", "n"), ownPod("b-1", "b", "n"), ownPod("a-0", "a", "n"), ownPod("elsewhere", "c", "m"), ownPod("foreign", "", "n"))
	w.wantState(scheduler.NodeNotReady, time.Minute)
	w.after(59 * time.Second)
	w.wantState(scheduler.NodeNotReady, time.Second)
	w.after(time.Second)
	w.wantState(scheduler.NodeLost, 0, "ns/a", "ns/b")
	w.wantState(scheduler.NodeLost, 0)
	if err := w.client.Status().Update(context.Background(), readyNode(corev1.ConditionTrue, 0)); err != nil {
		t.Fatal(err)
	}
	w.wantState(scheduler.NodeFit, 0, "ns/a", "ns/b")
}

func TestDeletedNodeIsLostAndForgottenLater(t *testing.T) {
	w := newWorld(t, readyNode(corev1.ConditionTrue, 0), ownPod("b-0", "b", "n"))
	w.wantState(scheduler.NodeFit, 0)
	if err := w.client.Delete(context.Background(), readyNode(corev1.ConditionTrue, 0)); err != nil {
		t.Fatal(err)
	}
	w.wantState(scheduler.NodeLost, forgetAfter, "ns/b")
	w.after(forgetAfter)
	w.wantState(scheduler.NodeFit, 0)
	if len(w.r.gone) != 0 {
		t.Errorf("%v are remembered, want none", w.r.gone)
	}
}

func TestBatchesAreWokenLaterWhereTheyCouldNotBeListed(t *testing.T) {
	w := newWorld(t, readyNode(corev1.ConditionUnknown, time.Hour), ownPod("b-0", "b", "n"))
	w.onList = func() error { return errors.New("not now") }
	if _, err := w.r.Reconcile(context.Background(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "n"}}); err == nil {
		t.Fatal("no error")
	}
	w.onList = nil
	w.wantState(scheduler.NodeLost, 0, "ns/b")
}

func TestRebuildTellsTheLedgerOfAllNodes(t *testing.T) {
	w := newWorld(t, readyNode(corev1.ConditionUnknown, time.Hour))
	if err := w.r.Rebuild(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := w.ledger.NodeState("n"); got != scheduler.NodeLost {
		t.Errorf("the node is %s, want lost", got)
	}
}

func TestOnlyWhatMattersOfANodeCausesAReconcile(t *testing.T) {
	tests := map[string]struct {
		change func(*corev1.Node)
		want   bool
	}{
		"a heartbeat": {func(n *corev1.Node) {
			n.ResourceVersion, n.Status.Conditions[1].LastHeartbeatTime = "2", metav1.NewTime(now)
		}, false},
		"pressure":          {func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionTrue }, false},
		"labels":            {func(n *corev1.Node) { n.Labels = map[string]string{"a": "b"} }, false},
		"a taint of others": {func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "nvidia.com/gpu"}} }, false},
		"the cordon":        {func(n *corev1.Node) { n.Spec.Unschedulable = true }, true},
		"a drain":           {func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "karpenter.sh/disrupted"}} }, true},
		"not Ready":         {func(n *corev1.Node) { n.Status.Conditions[1].Status = corev1.ConditionUnknown }, true},
		"not Ready, and Ready again in between": {
			func(n *corev1.Node) { n.Status.Conditions[1].LastTransitionTime = metav1.NewTime(now.Add(time.Second)) }, true,
		},
		"another node of that name": {func(n *corev1.Node) { n.UID = "other" }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before, after := readyNode(corev1.ConditionTrue, 0), readyNode(corev1.ConditionTrue, 0)
			tt.change(after)
			slimBefore, _ := Slim(before.DeepCopy())
			slimAfter, _ := Slim(after.DeepCopy())
			for what, e := range map[string]event.UpdateEvent{
				"whole": {ObjectOld: before, ObjectNew: after},
				"slim":  {ObjectOld: slimBefore.(client.Object), ObjectNew: slimAfter.(client.Object)},
			} {
				if got := matters().Update(e); got != tt.want {
					t.Errorf("%s node: reconciled %v, want %v", what, got, tt.want)
				}
			}
		})
	}
}

func TestSlimKeepsWhatIsReadAndNothingElse(t *testing.T) {
	node := readyNode(corev1.ConditionTrue, 0)
	node.Labels, node.ResourceVersion = map[string]string{"a": "b"}, "7"
	node.Status.Images = []corev1.ContainerImage{{Names: []string{"large"}}}
	node.Spec.Taints = []corev1.Taint{{Key: "nvidia.com/gpu"}, {Key: "karpenter.sh/disrupted"}}
	slim, err := Slim(node)
	if err != nil {
		t.Fatal(err)
	}
	want := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "uid-n", ResourceVersion: "7", CreationTimestamp: node.CreationTimestamp},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "karpenter.sh/disrupted"}}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now),
		}}},
	}
	if diff := cmp.Diff(want, slim); diff != "" {
		t.Errorf("slim node (-want +got):\n%s", diff)
	}
	if other, err := Slim("something else"); err != nil || other != "something else" {
		t.Errorf("something else became %v (%v)", other, err)
	}
}

func TestAllowedTellsAMissingRightFromOtherErrors(t *testing.T) {
	tests := map[string]struct {
		err     error
		allowed bool
		failed  bool
	}{
		"the right is there":              {nil, true, false},
		"the right is missing":            {apierrors.NewForbidden(corev1.Resource("nodes"), "", errors.New("no")), false, false},
		"the API server can't be reached": {errors.New("connection refused"), false, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.onList = func() error { return tt.err }
			allowed, err := Allowed(context.Background(), w.r.client)
			if allowed != tt.allowed || (err != nil) != tt.failed {
				t.Errorf("allowed %v, error %v; want %v, %v", allowed, err, tt.allowed, tt.failed)
			}
		})
	}
}
