// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	testingclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
	poolcontroller "opensandbox.io/controller/internal/controller/pool"
	"opensandbox.io/controller/internal/scheduler"
)

// nobodysTemplate has pods that no scheduler binds: the test gives them the status that a kubelet would.
const nobodysTemplate = `{"spec":{"schedulerName":"nobody","containers":[{"name":"sandbox-container","image":"example.com/none"}]}}`

// steppedPool is the reconciler of one pool in this process, against the real API server, with a clock that the test steps.
type steppedPool struct {
	*space
	key     types.NamespacedName
	clock   *testingclock.FakePassiveClock
	ledger  *scheduler.Ledger
	r       *poolcontroller.Reconciler
	kubelet func(*corev1.Pod) bool // changes the status of a pod, and says whether it did

	made    map[types.UID]time.Time // when a pod was first seen, by the stepped clock
	names   map[types.UID]string
	woken   atomic.Bool // set by the calls that create and delete pods too, which run in parallel
	due     time.Time
	creates atomic.Int32
	deletes atomic.Int32
}

func (p *steppedPool) WakeBatch(types.NamespacedName) {}
func (p *steppedPool) WakePool(types.NamespacedName)  { p.woken.Store(true) }

func (s *space) stepPool(pool *v1alpha1.Pool, kubelet func(*corev1.Pod) bool) *steppedPool {
	s.t.Helper()
	s.create(pool)
	p := &steppedPool{
		space: s, key: client.ObjectKeyFromObject(pool), clock: testingclock.NewFakePassiveClock(time.Now().Truncate(time.Second)),
		kubelet: kubelet, made: map[types.UID]time.Time{}, names: map[types.UID]string{},
	}
	p.woken.Store(true)
	p.ledger = scheduler.NewLedger(p)
	ready := make(chan struct{})
	close(ready)
	registry := prometheus.NewRegistry()
	starts, err := poolcontroller.NewStarts(registry, p.clock)
	s.must(err)
	p.r, err = poolcontroller.New(poolcontroller.Options{
		Client: interceptor.NewClient(s.client, interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, obj client.Object, o ...client.CreateOption) error {
				p.creates.Add(1)
				return c.Create(ctx, obj, o...)
			},
			Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, o ...client.DeleteOption) error {
				p.deletes.Add(1)
				return c.Delete(ctx, obj, o...)
			},
		}),
		APIReader: s.client, Clock: p.clock, Recorder: &events.FakeRecorder{}, Registry: registry, Starts: starts, Ledger: p.ledger, Ready: ready,
		Leads: func() bool { return true },
		Calls: poolcontroller.NewCalls(s.ctx, func(types.NamespacedName) {}, func(string, types.UID) poolcontroller.Executor { return nil }), Root: func() string { return "" }, Suffix: poolcontroller.RandomSuffix,
	})
	s.must(err)
	return p
}

// step lets a second pass: the pool reconciles if it was woken or asked to be, and then hears of its pods.
func (p *steppedPool) step() {
	p.t.Helper()
	for range 20 {
		if now := p.clock.Now(); !p.woken.Load() && (p.due.IsZero() || now.Before(p.due)) {
			break
		}
		p.woken.Store(false)
		p.due = time.Time{}
		res, err := p.r.Reconcile(logf.IntoContext(p.ctx, logr.Discard()), ctrl.Request{NamespacedName: p.key})
		p.must(err)
		if res.RequeueAfter > 0 {
			p.due = p.clock.Now().Add(res.RequeueAfter)
		}
		p.news()
	}
	p.clock.SetTime(p.clock.Now().Add(time.Second))
	p.news()
}

// news gives pods their status and tells the ledger of them, as a watch would. Their age is by the stepped clock.
func (p *steppedPool) news() {
	p.t.Helper()
	there := map[types.UID]bool{}
	for _, pod := range p.pods() {
		if pod.DeletionTimestamp == nil && p.kubelet(&pod) {
			p.must(client.IgnoreNotFound(p.client.Status().Update(p.ctx, &pod)))
		}
		if p.made[pod.UID].IsZero() {
			p.made[pod.UID], p.names[pod.UID] = p.clock.Now(), pod.Name
		}
		there[pod.UID] = true
		pod.CreationTimestamp = metav1.NewTime(p.made[pod.UID])
		p.ledger.ObservePod(p.key, scheduler.PodOf(&pod))
	}
	for uid, name := range p.names {
		if !there[uid] {
			p.ledger.RemovePod(p.key, name, uid)
			delete(p.names, uid)
		}
	}
}

// fails returns the status and reason of PodsFailing.
func (p *steppedPool) fails() string {
	p.t.Helper()
	c := meta.FindStatusCondition(p.pool(p.key.Name).Status.Conditions, v1alpha1.ConditionPodsFailing)
	if c == nil {
		return "unknown"
	}
	return string(c.Status) + "/" + c.Reason
}

// livesThroughFiveMinutes steps through 5 minutes after the first fill, and fails if the pool makes 10 pods more, has more than
// one pod replaced at once, or doesn't tell within 30 seconds that pods fail, and why.
func (p *steppedPool) livesThroughFiveMinutes(size int, want string) (creates int) {
	p.t.Helper()
	p.step()
	if got := int(p.creates.Load()); got != size {
		p.t.Fatalf("%d creates for the first fill, want %d", got, size)
	}
	for second := 1; second < 300; second++ {
		p.step()
		pods := 0
		for _, pod := range p.pods() {
			if pod.DeletionTimestamp == nil {
				pods++
			}
		}
		if pods < size-1 || pods > size {
			p.t.Fatalf("%d pods after %d s, want %d and at most one being replaced", pods, second, size)
		}
		if got := p.fails(); second >= 30 && got != want {
			p.t.Fatalf("PodsFailing after %d s is %s, want %s", second, got, want)
		}
	}
	if creates = int(p.creates.Load()) - size; creates >= 10 {
		p.t.Errorf("%d creates in 5 minutes after the first fill, want fewer than 10", creates)
	}
	return creates
}

func TestPoolWhoseImageCanNotBePulledMakesNoChurn(t *testing.T) {
	s := newSpace(t)
	pool := makePool("p", 5, 5, 0, 10)
	pool.Spec.Template = raw(nobodysTemplate)
	p := s.stepPool(pool, nil)
	looks := map[types.UID]int{}
	p.kubelet = func(pod *corev1.Pod) bool { // it tries and waits in turn
		looks[pod.UID]++
		w := &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "example.com/none: not found"}
		if looks[pod.UID]%20 > 10 {
			w = &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "back-off pulling image"}
		}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
			Name: "sandbox-container", Image: "example.com/none", State: corev1.ContainerState{Waiting: w},
		}}
		return true
	}
	creates := p.livesThroughFiveMinutes(5, "True/ErrImagePull")
	if deletes := p.deletes.Load(); creates != 2 || deletes != 2 {
		t.Errorf("%d creates and %d deletes in 5 minutes, want 2 each: after 1 minute and 2 more", creates, deletes)
	}

	p.kubelet = func(pod *corev1.Pod) bool { // the image appeared
		if isReady(pod) {
			return false
		}
		pod.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}},
			Conditions: []corev1.PodCondition{{
				Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(p.clock.Now()),
			}},
		}
		return true
	}
	for range 30 {
		p.step()
	}
	if got, want := p.fails(), "False/"+v1alpha1.ReasonPodsHealthy; got != want {
		t.Errorf("PodsFailing once the image is there is %s, want %s", got, want)
	}
	made := int(p.creates.Load())
	if st := p.pool("p").Status; st.Available != 5 || st.Starting != 0 || made != 5+creates {
		t.Errorf("status %+v after %d creates, want 5 available after %d", st, made, 5+creates)
	}
}

func TestPoolBiggerThanTheClusterMakesNoChurn(t *testing.T) {
	s := newSpace(t)
	var nodes corev1.NodeList
	s.must(s.client.List(s.ctx, &nodes, client.Limit(1)))
	node := nodes.Items[0]
	cpu := node.Status.Allocatable.Cpu().MilliValue() * 2 / 5 // two fit on the one node that may be used
	pool := makePool("p", 5, 5, 0, 10)
	pool.Spec.Template = raw(fmt.Sprintf(`{"spec":{"nodeSelector":{"kubernetes.io/hostname":%q},"containers":[{"name":"sandbox-container",`+
		`"image":"nginx:latest","resources":{"requests":{"cpu":%q}}}]}}`,
		node.Labels["kubernetes.io/hostname"], resource.NewMilliQuantity(cpu, resource.DecimalSI)))
	p := s.stepPool(pool, func(*corev1.Pod) bool { return false })
	p.step()
	eventually(t, "schedule what fits", func() error {
		ready, refused := 0, 0
		for _, pod := range s.pods() {
			if isReady(&pod) {
				ready++
			}
			for _, c := range pod.Status.Conditions {
				if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
					refused++
				}
			}
		}
		if ready != 2 || refused != 3 {
			return fmt.Errorf("%d pods ready and %d unschedulable, want 2 and 3", ready, refused)
		}
		return nil
	})
	creates := p.livesThroughFiveMinutes(5, "True/"+corev1.PodReasonUnschedulable)
	if deletes := p.deletes.Load(); creates != 0 || deletes != 0 {
		t.Errorf("%d creates and %d deletes, want none: the scheduler keeps trying the pods there are", creates, deletes)
	}
	if st := p.pool("p").Status; st.Available != 2 || st.Starting != 3 {
		t.Errorf("status %+v, want 2 available and 3 starting", st)
	}
}

func TestFailingPoolsAtRestMakeNoReconcilesAndNoWrites(t *testing.T) {
	s := newSpace(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	address := listener.Addr().String()
	s.must(listener.Close())
	s.startController("", "--metrics-bind-address="+address)
	image, large := makePool("image", 3, 3, 0, 10), makePool("large", 3, 3, 0, 10)
	image.Spec.Template, large.Spec.Template = raw(nobodysTemplate), raw(unschedulableTemplate)
	s.create(image)
	s.create(large)
	eventually(t, "make the pods", func() error {
		if n := len(s.pods()); n != 6 {
			return fmt.Errorf("%d pods, want 6", n)
		}
		return nil
	})
	for _, pod := range s.pods() {
		if pod.Labels[v1alpha1.PoolNameLabel] == "image" {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
				Name: "sandbox-container", Image: "example.com/none",
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}},
			}}
			s.must(s.client.Status().Update(s.ctx, &pod))
		}
	}
	eventually(t, "tell that pods fail", func() error {
		var errs []error
		for name, reason := range map[string]string{"image": "ErrImagePull", "large": corev1.PodReasonUnschedulable} {
			c := meta.FindStatusCondition(s.pool(name).Status.Conditions, v1alpha1.ConditionPodsFailing)
			if c == nil || c.Status != metav1.ConditionTrue || c.Reason != reason {
				errs = append(errs, fmt.Errorf("pool %s: %+v, want True/%s", name, c, reason))
			}
		}
		return errors.Join(errs...)
	})

	// The creates are asked after once, 30 s later; the first pod is replaced after a minute.
	const quiet = 12 * time.Second
	eventually(t, "come to rest", func() error {
		reconciles, writes := s.reconciles(address), len(s.writes())
		time.Sleep(quiet)
		if r, w := s.reconciles(address)-reconciles, len(s.writes())-writes; r != 0 || w != 0 {
			return fmt.Errorf("%d reconciles and %d writes within %v", r, w, quiet)
		}
		return nil
	})
}

// reconciles are the reconciles so far of the controller that serves its metrics at the address.
func (s *space) reconciles(address string) int {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	s.must(err)
	reply, err := http.DefaultClient.Do(request)
	s.must(err)
	defer reply.Body.Close() //nolint:errcheck // only read from
	total := 0
	found := false
	for lines := bufio.NewReader(reply.Body); ; {
		line, err := lines.ReadString('\n')
		if strings.HasPrefix(line, "controller_runtime_reconcile_total{") {
			fields := strings.Fields(line)
			n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			s.must(err)
			total, found = total+int(n), true
		}
		if errors.Is(err, io.EOF) {
			break
		}
		s.must(err)
	}
	if !found {
		s.t.Fatal("the metrics don't count reconciles")
	}
	return total
}
