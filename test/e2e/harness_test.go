// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the controller as users run it: in the cluster as its Deployment, with the rights of its own
// ServiceAccount, over real containers. Run: make test-e2e. Every test has a namespace of its own.
package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"opensandbox.io/controller/api/v1alpha1"
)

const (
	// settleTime bounds how long anything may take to come true. It is generous: the machine may be busy.
	settleTime = 90 * time.Second
	// look is the time between two looks.
	look = 100 * time.Millisecond

	systemNamespace  = "opensandbox-system"
	managerName      = "opensandbox-controller-manager"
	sandboxContainer = "sandbox-container"
	defaultExecutor  = "opensandbox/task-executor:dev"
)

// world is what the tests share.
type world struct {
	config *rest.Config
	client client.WithWatch
	// executorImage is the image of the task-executor: TASK_EXECUTOR_IMG, else the one of the samples.
	executorImage string
}

var shared *world

func TestMain(m *testing.M) {
	flag.Parse()
	logf.SetLogger(klog.Background())
	w, err := newWorld()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	shared = w
	os.Exit(m.Run())
}

func newWorld() (*world, error) {
	kubeconfig := os.Getenv("KUBECONFIG")
	if kubeconfig == "" {
		return nil, errors.New("KUBECONFIG is not set: run `make test-e2e`")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	image := os.Getenv("TASK_EXECUTOR_IMG")
	if image == "" {
		image = defaultExecutor
	}
	return &world{config: config, client: c, executorImage: image}, nil
}

// poll calls f until it returns nil, and returns its last error when the time is over.
func poll(timeout time.Duration, f func() error) error {
	deadline := time.Now().Add(timeout)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(look)
	}
}

// --- one test's namespace ---------------------------------------------------------------------------------

// space is the namespace of one test.
type space struct {
	*world
	t    *testing.T
	ctx  context.Context
	name string
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{world: shared, t: t, ctx: t.Context(), name: "e2e-" + strings.ToLower(rand.Text()[:10])}
	s.must(s.client.Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.name}}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), settleTime)
		defer cancel()
		if t.Failed() {
			s.dump(ctx)
		}
		if err := s.cleanUp(ctx); err != nil {
			t.Errorf("clean up %s: %v", s.name, err)
		}
	})
	return s
}

// cleanUp deletes all that the test made, and waits until the controller has let it go; the namespace goes after it.
func (s *space) cleanUp(ctx context.Context) error {
	inSpace := client.InNamespace(s.name)
	if err := s.client.DeleteAllOf(ctx, &v1alpha1.BatchSandbox{}, inSpace); err != nil {
		return err
	}
	if err := s.client.DeleteAllOf(ctx, &v1alpha1.Pool{}, inSpace); err != nil {
		return err
	}
	err := poll(settleTime, func() error {
		var batches v1alpha1.BatchSandboxList
		var pools v1alpha1.PoolList
		if err := errors.Join(s.client.List(ctx, &batches, inSpace), s.client.List(ctx, &pools, inSpace)); err != nil {
			return err
		}
		if left := len(batches.Items) + len(pools.Items); left > 0 {
			return fmt.Errorf("%d batches and %d pools are still there", len(batches.Items), len(pools.Items))
		}
		return nil
	})
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.name}}
	return errors.Join(err, client.IgnoreNotFound(s.client.Delete(ctx, namespace)))
}

// dump logs what helps to find out why a test failed.
func (s *space) dump(ctx context.Context) {
	for _, args := range [][]string{
		{"-n", s.name, "get", "pools,batchsandboxes,pods", "-o", "wide"},
		{"-n", s.name, "get", "batchsandboxes", "-o", "jsonpath={range .items[*]}{.metadata.name}{\" \"}{.status}{\"\\n\"}{end}"},
		{"-n", s.name, "get", "events", "--sort-by=.lastTimestamp"},
		{"-n", systemNamespace, "logs", "-l", "control-plane=controller-manager", "--prefix", "--tail=60"},
	} {
		out, err := run(ctx, args...)
		s.t.Logf("$ kubectl %s\n%s(%v)", strings.Join(args, " "), out, err)
	}
}

func (s *space) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) eventually(what string, f func() error) {
	s.t.Helper()
	if err := poll(settleTime, f); err != nil {
		s.t.Fatalf("%s: not within %v: %v", what, settleTime, err)
	}
}

// create makes an object in the test's namespace.
func (s *space) create(obj client.Object) {
	s.t.Helper()
	obj.SetNamespace(s.name)
	s.must(s.client.Create(s.ctx, obj))
}

// createYAML makes the objects of a text, one document each.
func (s *space) createYAML(text string) {
	s.t.Helper()
	for doc := range strings.SplitSeq(text, "\n---\n") {
		var kind metav1.TypeMeta
		s.must(yaml.Unmarshal([]byte(doc), &kind))
		var obj client.Object = &v1alpha1.BatchSandbox{}
		if kind.Kind == "Pool" {
			obj = &v1alpha1.Pool{}
		}
		s.must(yaml.UnmarshalStrict([]byte(doc), obj))
		s.create(obj)
	}
}

func (s *space) get(name string, obj client.Object) error {
	return s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: name}, obj)
}

func (s *space) batch(name string) *v1alpha1.BatchSandbox {
	s.t.Helper()
	sb := &v1alpha1.BatchSandbox{}
	s.must(s.get(name, sb))
	return sb
}

func (s *space) pool(name string) *v1alpha1.Pool {
	s.t.Helper()
	p := &v1alpha1.Pool{}
	s.must(s.get(name, p))
	return p
}

func (s *space) pod(name string) *corev1.Pod {
	s.t.Helper()
	pod := &corev1.Pod{}
	s.must(s.get(name, pod))
	return pod
}

// batchIs waits until ok says yes to the batch, and returns it.
func (s *space) batchIs(name, what string, ok func(*v1alpha1.BatchSandbox) bool) *v1alpha1.BatchSandbox {
	s.t.Helper()
	var sb *v1alpha1.BatchSandbox
	s.eventually(name+" "+what, func() error {
		if sb = s.batch(name); !ok(sb) {
			return fmt.Errorf("its status is %+v", sb.Status)
		}
		return nil
	})
	return sb
}

// delivered waits until the batch has n sandboxes that are Ready, and all it wants.
func (s *space) delivered(name string, n int32) *v1alpha1.BatchSandbox {
	s.t.Helper()
	return s.batchIs(name, fmt.Sprintf("has %d sandboxes", n), func(sb *v1alpha1.BatchSandbox) bool {
		return sb.Status.Ready == n && sb.Status.Phase == v1alpha1.PhaseSucceed
	})
}

// ended waits until all n tasks of the batch have ended.
func (s *space) ended(name string, n int32) *v1alpha1.BatchSandbox {
	s.t.Helper()
	return s.batchIs(name, fmt.Sprintf("has %d ended tasks", n), func(sb *v1alpha1.BatchSandbox) bool {
		return sb.Status.TaskSucceed+sb.Status.TaskFailed == n
	})
}

// failure waits for the end of the batch's only task, and returns how it failed.
func (s *space) failure(name string) v1alpha1.FailedTask {
	s.t.Helper()
	sb := s.ended(name, 1)
	if len(sb.Status.FailedTasks) != 1 {
		s.t.Fatalf("%s: its task should have failed, and the status is %+v", name, sb.Status)
	}
	return sb.Status.FailedTasks[0]
}

// poolIs waits until ok says yes to the pool's status.
func (s *space) poolIs(name, what string, ok func(v1alpha1.PoolStatus) bool) {
	s.t.Helper()
	s.eventually(name+" "+what, func() error {
		if p := s.pool(name); !ok(p.Status) {
			return fmt.Errorf("its status is %+v", p.Status)
		}
		return nil
	})
}

// holders are the pods of a pooled batch by index.
func (s *space) holders(name string) []string {
	s.t.Helper()
	var alloc struct{ Pods []string }
	s.must(json.Unmarshal([]byte(s.batch(name).Annotations[v1alpha1.AllocStatusAnnotation]), &alloc))
	if len(alloc.Pods) == 0 || slices.Contains(alloc.Pods, "") {
		s.t.Fatalf("%s holds %q, want a pod for every index", name, alloc.Pods)
	}
	return alloc.Pods
}

// gone waits until the object is not there any more, and returns how long that took.
func (s *space) gone(name string, obj client.Object) time.Duration {
	s.t.Helper()
	start := time.Now()
	s.eventually(name+" is deleted", func() error {
		err := s.get(name, obj)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there with finalizers %v (%w)", obj.GetFinalizers(), err)
	})
	return time.Since(start)
}

// --- kubectl ----------------------------------------------------------------------------------------------

// run runs kubectl and returns what it printed. The error has what it complained of.
func run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// kubectl runs kubectl in the test's namespace.
func (s *space) kubectl(args ...string) string {
	s.t.Helper()
	out, err := run(s.ctx, append([]string{"-n", s.name}, args...)...)
	s.must(err)
	return out
}

// sh runs a script in a container.
func (s *space) sh(pod, container, script string) (string, error) {
	return run(s.ctx, "-n", s.name, "exec", pod, "-c", container, "--", "sh", "-c", script)
}

// mustSh runs a script in a container and returns what it printed.
func (s *space) mustSh(pod, container, script string) string {
	s.t.Helper()
	out, err := s.sh(pod, container, script)
	s.must(err)
	return strings.TrimSpace(out)
}

// columns are the headings of kubectl get -o wide.
func (s *space) columns(kind string) []string {
	s.t.Helper()
	heading, _, _ := strings.Cut(s.kubectl("get", kind, "-o", "wide"), "\n")
	return strings.Fields(heading)
}

// podGone waits until a pod is not there any more.
func (s *space) podGone(name string) {
	s.t.Helper()
	s.gone(name, &corev1.Pod{})
}

// --- objects ----------------------------------------------------------------------------------------------

func raw(json string) *v1alpha1.RawObject {
	return &v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: []byte(json)}}
}

// taskBatch is a batch of one sandbox of the pool, with this task.
func (s *space) taskBatch(name, pool string, command ...string) *v1alpha1.BatchSandbox {
	one := int32(1)
	return &v1alpha1.BatchSandbox{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.BatchSandboxSpec{
			Replicas:     &one,
			PoolRef:      pool,
			TaskTemplate: &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{Process: v1alpha1.Process{Command: command}}},
		},
	}
}
