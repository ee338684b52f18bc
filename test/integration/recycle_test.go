// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// provable are pods that a restart in place makes clean, and unprovable ones keep a volume that outlives it. They have their node
// already: the scheduler knows that simulated nodes can't restart all containers.
const (
	provable = `{"spec":{"nodeName":"kwok-node-0","containers":[{"name":"sandbox-container","image":"nginx:latest"},{"name":"task-executor","image":"executor"}]}}`

	unprovable = `{"spec":{"nodeName":"kwok-node-0","volumes":[{"name":"data","emptyDir":{}}],"containers":[{"name":"sandbox-container","image":"nginx:latest",` +
		`"volumeMounts":[{"name":"data","mountPath":"/data"}]},{"name":"task-executor","image":"executor"}]}}`
)

// recyclingPool has exactly one pod. No type means the default.
func recyclingPool(template string, how v1alpha1.RecycleType) *v1alpha1.Pool {
	pool := makePool("p", 0, 1, 1, 1)
	pool.Spec.Template = raw(template)
	if how != "" {
		pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: how}
	}
	return pool
}

// node plays the kubelet and the executor of the only pod of a pool: simulated nodes restart no containers.
type node struct {
	s   *space
	pod string

	mu     sync.Mutex
	life   int                              // of the containers
	asked  int                              // times the executor was asked to exit
	exits  bool                             // it does when it is asked
	born   string                           // the recycling that this life came from
	report func(*taskexecutor.RecycleState) // what it says of itself; nil for the truth: it is clean
}

// startNode gives the pool's pod containers, and serves on its address until the test ends. A node that exits restarts all
// containers when the executor is asked to.
func (s *space) startNode(pool string) *node {
	s.t.Helper()
	s.idle(pool, 1)
	n := &node{s: s, pod: s.pods()[0].Name, exits: true}
	n.restart("")
	var listener net.Listener
	eventually(s.t, "listen on the pod's address", func() (err error) {
		listener, err = net.Listen("tcp", s.pods()[0].Status.PodIP+":5758")
		return err
	})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /recycle", n.recycle)
	mux.HandleFunc("GET /recycle", n.recycled)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	s.t.Cleanup(func() {
		_ = server.Close()
		wg.Wait()
	})
	return n
}

// restart gives every container a new ID.
func (n *node) restart(recycling string) {
	n.mu.Lock()
	n.life++
	n.born = recycling
	life := n.life
	n.mu.Unlock()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		pod := &corev1.Pod{}
		ctx := context.WithoutCancel(n.s.ctx)
		if err := n.s.client.Get(ctx, client.ObjectKey{Namespace: n.s.name, Name: n.pod}, pod); err != nil {
			return err
		}
		pod.Status.ContainerStatuses = nil
		for _, c := range pod.Spec.Containers {
			pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
				Name: c.Name, Image: c.Image, ContainerID: fmt.Sprintf("simulated://%s-%d", c.Name, life), Ready: true,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
			})
		}
		return n.s.client.Status().Update(ctx, pod)
	})
	if err != nil && !apierrors.IsNotFound(err) {
		n.s.t.Errorf("restart the containers: %v", err)
	}
}

func (n *node) recycle(w http.ResponseWriter, r *http.Request) {
	var request taskexecutor.RecycleRequest
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n.mu.Lock()
	n.asked++
	exits := n.exits && n.born != request.ID
	n.mu.Unlock()
	if exits {
		n.restart(request.ID)
	}
}

func (n *node) recycled(w http.ResponseWriter, _ *http.Request) {
	n.mu.Lock()
	state := taskexecutor.RecycleState{ID: n.born, Clean: true}
	if n.report != nil {
		n.report(&state)
	}
	n.mu.Unlock()
	_ = json.NewEncoder(w).Encode(state)
}

// set changes the node.
func (n *node) set(f func(*node)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n)
}

// use has a batch take the only pod and give it back.
func (s *space) use(batch string) {
	s.t.Helper()
	s.create(makeBatch(batch, "p", 1))
	sb := s.delivered(batch, 1)
	s.must(s.client.Delete(s.ctx, sb))
	s.gone(sb)
}

// isCounted waits until the pool tells of so many released pods.
func (s *space) isCounted(recycled, replaced int64) {
	s.t.Helper()
	eventually(s.t, "count the released pods", func() error {
		if st := s.pool("p").Status; st.Recycled != recycled || st.Replaced != replaced {
			return fmt.Errorf("status %+v, want %d recycled and %d replaced", st, recycled, replaced)
		}
		return nil
	})
}

func marked(pod *corev1.Pod) bool {
	_, is := pod.Annotations[v1alpha1.RecyclingAnnotation]
	return is
}

func TestByDefaultAPodThatCanBeProvenCleanIsRestartedInPlace(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(recyclingPool(provable, ""))
	n := s.startNode("p")
	before := s.pods()[0]
	for round := range 3 {
		s.use(fmt.Sprintf("user-%d", round))
		s.isCounted(int64(round)+1, 0)
		s.idle("p", 1)
	}
	if pods := s.pods(); len(pods) != 1 || pods[0].UID != before.UID || marked(&pods[0]) {
		t.Errorf("pods %v, want %s alone, marked no more", pods, before.Name)
	}
	if n.set(func(*node) {}); n.life != 4 || n.asked < 3 {
		t.Errorf("the containers had %d lives, and the executor was asked %d times", n.life, n.asked)
	}
	if obstacle := s.pool("p").Status.RecycleObstacle; obstacle != "" {
		t.Errorf("told of an obstacle: %s", obstacle)
	}
}

func TestByDefaultAPodThatCanNotBeProvenCleanIsReplacedWithoutAWarning(t *testing.T) {
	for name, c := range map[string]struct {
		template, obstacle string
	}{
		"a volume outlives it": {unprovable, "can write to volume data"},
		"it has no executor":   {simpleTemplate, "no container task-executor"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			s.startController("")
			s.create(recyclingPool(c.template, ""))
			s.idle("p", 1)
			for round := range 2 {
				before := s.pods()[0].UID
				s.use(fmt.Sprintf("user-%d", round))
				s.isCounted(0, int64(round)+1)
				s.idle("p", 1)
				if pods := s.pods(); len(pods) != 1 || pods[0].UID == before {
					t.Errorf("%d pods, want another one than before", len(pods))
				}
			}
			if got := s.pool("p").Status.RecycleObstacle; !strings.Contains(got, c.obstacle) {
				t.Errorf("obstacle %q, want %q", got, c.obstacle)
			}
			if told := s.poolEvents("PodNotRecycled"); len(told) > 0 {
				t.Errorf("told of it: %v", told)
			}
		})
	}
}

// poolEvents are the events of this reason about the pool.
func (s *space) poolEvents(reason string) (notes []string) {
	s.t.Helper()
	var list corev1.EventList
	s.must(s.client.List(s.ctx, &list, client.InNamespace(s.name)))
	for i := range list.Items {
		if e := &list.Items[i]; e.Reason == reason && e.InvolvedObject.Kind == "Pool" {
			notes = append(notes, e.Type+" "+e.Message)
		}
	}
	return notes
}

// The controller is killed while a pod is marked, and while its containers restart. It is never handed out.
func TestAMarkedPodIsNotHandedOutAcrossAKillOfTheController(t *testing.T) {
	for name, restarted := range map[string]bool{"before the containers restart": false, "after it": true} {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			c := s.startController("")
			s.create(recyclingPool(provable, ""))
			n := s.startNode("p")
			n.set(func(n *node) {
				n.exits = restarted
				n.report = func(state *taskexecutor.RecycleState) { *state = taskexecutor.RecycleState{} }
			})
			if restarted { // it restarts, and nobody can ask it yet
				n.set(func(n *node) { n.exits = false })
			}
			s.use("first")
			before := s.pods()[0]
			if !marked(&before) {
				t.Fatalf("annotations %v", before.Annotations)
			}
			c.kill()
			if restarted {
				n.restart("another")
				n.set(func(n *node) { n.born = string(batchOf(t, &before)) })
			}
			s.create(makeBatch("second", "p", 1))
			n.set(func(n *node) { n.exits = true })
			n.set(func(n *node) { n.report = nil })
			audit := s.watchMarks()
			s.must(c.start())
			s.delivered("second", 1)
			audit()
			pods, _, err := annotations(s.batch("second"))
			s.must(err)
			if after := s.pods()[0]; after.UID != before.UID || pods[0] != before.Name || marked(&after) {
				t.Errorf("second has %v, want %s, marked no more", pods, before.Name)
			}
			s.isCounted(1, 0)
		})
	}
}

func batchOf(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	var mark struct{ Batch string }
	if err := json.Unmarshal([]byte(pod.Annotations[v1alpha1.RecyclingAnnotation]), &mark); err != nil {
		t.Fatal(err)
	}
	return mark.Batch
}

// watchMarks fails the test if a batch that is not being deleted is given a marked pod; the function it returns ends that.
func (s *space) watchMarks() (stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	w, err := s.client.Watch(ctx, &v1alpha1.BatchSandboxList{}, client.InNamespace(s.name))
	s.must(err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for e := range w.ResultChan() {
			sb, ok := e.Object.(*v1alpha1.BatchSandbox)
			if !ok || sb.DeletionTimestamp != nil {
				continue
			}
			named, _, err := annotations(sb)
			for _, name := range named {
				pod := &corev1.Pod{}
				getErr := s.client.Get(ctx, client.ObjectKey{Namespace: s.name, Name: name}, pod)
				if err = errors.Join(err, client.IgnoreNotFound(getErr)); err == nil && marked(pod) {
					s.t.Errorf("%s was given pod %s, which is marked", sb.Name, name)
				}
			}
			if err != nil && ctx.Err() == nil {
				s.t.Error(err)
			}
		}
	})
	return func() {
		cancel()
		w.Stop()
		wg.Wait()
	}
}

func TestAPodThatComesBackUncleanIsReplacedAndToldOf(t *testing.T) {
	for how, want := range map[v1alpha1.RecycleType]string{"": "Normal", v1alpha1.RecycleRestart: "Warning"} {
		t.Run("type "+string(how), func(t *testing.T) {
			s := newSpace(t)
			s.startController("")
			s.create(recyclingPool(provable, how))
			n := s.startNode("p")
			before := s.pods()[0].UID
			n.set(func(n *node) {
				n.report = func(state *taskexecutor.RecycleState) {
					state.Clean, state.Reasons = false, []string{"/etc/hosts was changed"}
				}
			})
			s.use("user")
			s.isCounted(0, 1)
			s.idle("p", 1)
			if pods := s.pods(); len(pods) != 1 || pods[0].UID == before {
				t.Errorf("%d pods, want another one than before", len(pods))
			}
			eventually(t, "tell why", func() error {
				told := s.poolEvents("PodNotRecycled")
				if len(told) != 1 || !strings.HasPrefix(told[0], want) || !strings.Contains(told[0], "/etc/hosts was changed") {
					return fmt.Errorf("events %q, want one of kind %s", told, want)
				}
				return nil
			})
		})
	}
}

// A minute is a minute, however often the controller starts anew.
func TestTheTimeOfARecyclingIsNotExtendedByARestartOfTheController(t *testing.T) {
	s := newSpace(t)
	c := s.startController("")
	s.create(recyclingPool(provable, ""))
	n := s.startNode("p")
	n.set(func(n *node) { n.exits = false })
	s.use("user")
	c.kill()
	before := s.pods()[0]
	old := strings.Replace(before.Annotations[v1alpha1.RecyclingAnnotation], `"since":"`+time.Now().UTC().Format("2006"), `"since":"1999`, 1)
	value, err := json.Marshal(old)
	s.must(err)
	if !strings.Contains(old, "1999-") {
		t.Fatalf("mark %s has no time", old)
	}
	s.patch(&before, fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, v1alpha1.RecyclingAnnotation, value))
	start := time.Now()
	s.must(c.start())
	s.gone(&before)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the pod was deleted after %v, as if its time had begun anew", took)
	}
	s.isCounted(0, 1)
}

// The executor is one of a real pool, and the command can't be started: twice in a row, under Noop, and across a kill.
func TestAPodWhoseTasksCanNotBeStartedTwiceInARowIsReplaced(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	c := s.startController("")
	s.create(recyclingPool(simpleTemplate, v1alpha1.RecycleNoop))
	s.idle("p", 1)
	before := s.pods()[0]
	try := func(name string, command ...string) {
		sb := makeTaskBatch(name, "p", "true", 1)
		sb.Spec.TaskTemplate.Spec.Process.Command = command
		s.create(sb)
		s.tasksEnded(name)
		s.must(s.client.Delete(s.ctx, sb))
		s.gone(sb)
		s.idle("p", 1)
	}
	still := func(what string) {
		t.Helper()
		if pods := s.pods(); len(pods) != 1 || pods[0].UID != before.UID {
			t.Fatalf("%s: %d pods, want the one before", what, len(pods))
		}
	}
	try("first", "/no/such/command")
	still("after one failure")
	try("second", "true")
	try("third", "/no/such/command")
	still("after another one, with a success between")
	s.isCounted(3, 0)
	c.kill()
	s.must(c.start())
	try("fourth", "/no/such/command")
	eventually(t, "replace the pod", func() error {
		if pods := s.pods(); len(pods) != 1 || pods[0].UID == before.UID {
			return fmt.Errorf("%d pods", len(pods))
		}
		return nil
	})
	eventually(t, "tell of it", func() error {
		if told := s.poolEvents("PodQuarantined"); len(told) != 1 || !strings.Contains(told[0], before.Name) {
			return fmt.Errorf("events %q", told)
		}
		return nil
	})
	s.isCounted(3, 1)
}

// Simulated nodes declare no features, as kubelets before Kubernetes 1.36.
func TestAPoolWhosePodsNoNodeCanRestartStartsAllTheSame(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	pool := recyclingPool(strings.Replace(provable, `"nodeName":"kwok-node-0",`, "", 1), "")
	pool.Spec.CapacitySpec = v1alpha1.CapacitySpec{BufferMin: 3, BufferMax: 3, PoolMin: 3, PoolMax: 6}
	s.create(pool)
	s.idle("p", 3)
	if got := s.pool("p").Status.RecycleObstacle; !strings.Contains(got, "no node takes a pod") {
		t.Errorf("obstacle %q", got)
	}
	creates := 0
	for _, w := range s.writes() {
		if w.Verb == "create" && w.ObjectRef.Resource == "pods" {
			creates++
		}
	}
	if creates > 6 {
		t.Errorf("%d creates for 3 pods, want each replaced once at most", creates)
	}
	s.create(makeBatch("user", "p", 1))
	sb := s.delivered("user", 1)
	s.must(s.client.Delete(s.ctx, sb))
	s.gone(sb)
	s.isCounted(0, 1)
	s.idle("p", 3)
}
