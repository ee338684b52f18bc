// SPDX-License-Identifier: Apache-2.0

// Package integration tests the real controller binary, as a process, against a real API server and etcd with simulated
// nodes: `make test-integration`. Every test has a namespace and a controller of its own.
package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
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

// settleTime bounds how long anything may take to come true. It is generous: the machine may be busy.
const settleTime = 60 * time.Second

// definitions is where the custom resource definitions are.
const definitions = "../../config/crd/bases"

// world is what the tests share.
type world struct {
	config     *rest.Config
	kubeconfig string
	client     client.WithWatch
	bin        string
}

var shared *world

func TestMain(m *testing.M) {
	flag.Parse()
	logf.SetLogger(klog.Background())
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func runTests(m *testing.M) (int, error) {
	kubeconfig := os.Getenv("KUBECONFIG")
	if kubeconfig == "" {
		return 0, errors.New("KUBECONFIG is not set: run `make test-integration`")
	}
	dir, err := os.MkdirTemp("", "integration-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a leftover in the temporary folder
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return 0, err
	}
	config.QPS = -1
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return 0, err
		}
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return 0, err
	}
	shared = &world{config: config, kubeconfig: kubeconfig, client: c, bin: dir}
	if err := shared.build(); err != nil {
		return 0, err
	}
	if err := shared.install(context.Background(), definitions); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// build makes the binaries under test.
func (w *world) build() error {
	for _, name := range []string{"controller", "task-executor", "kubectl-sandbox"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(w.bin, name), "./cmd/"+name)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// install creates or updates the definitions and waits until they are served.
func (w *world) install(ctx context.Context, dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(paths) == 0 {
		return fmt.Errorf("no definitions in %s (%w)", dir, err)
	}
	for _, path := range paths {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := readYAML(path, crd); err != nil {
			return err
		}
		existing := &apiextensionsv1.CustomResourceDefinition{}
		err := w.client.Get(ctx, client.ObjectKeyFromObject(crd), existing)
		switch {
		case apierrors.IsNotFound(err):
			err = w.client.Create(ctx, crd)
		case err == nil:
			crd.ResourceVersion = existing.ResourceVersion
			err = w.client.Update(ctx, crd)
		}
		if err != nil {
			return fmt.Errorf("install %s: %w", path, err)
		}
	}
	return poll(settleTime, func() error {
		return errors.Join(
			w.client.List(ctx, &v1alpha1.BatchSandboxList{}, client.Limit(1)),
			w.client.List(ctx, &v1alpha1.PoolList{}, client.Limit(1)))
	})
}

func readYAML(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := yamlInto(string(data), into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func yamlInto(text string, into any) error { return yaml.Unmarshal([]byte(text), into) }

// poll calls f until it returns nil, and returns its last error when the time is over.
func poll(timeout time.Duration, f func() error) error {
	deadline := time.Now().Add(timeout)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	if err := poll(settleTime, f); err != nil {
		t.Fatalf("%s: %v", what, err)
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
	s := &space{world: shared, t: t, ctx: t.Context(), name: "it-" + strings.ToLower(rand.Text()[:10])}
	s.must(s.client.Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.name}}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), settleTime)
		defer cancel()
		s.cleanUp(ctx)
	})
	return s
}

// cleanUp deletes the namespace; what its controller would have to let go is let go by hand, since it runs no more.
func (s *space) cleanUp(ctx context.Context) {
	var batches v1alpha1.BatchSandboxList
	var pools v1alpha1.PoolList
	_ = s.client.List(ctx, &batches, client.InNamespace(s.name))
	_ = s.client.List(ctx, &pools, client.InNamespace(s.name))
	none := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
	for i := range batches.Items {
		_ = s.client.Patch(ctx, &batches.Items[i], none)
	}
	for i := range pools.Items {
		_ = s.client.Patch(ctx, &pools.Items[i], none)
	}
	_ = s.client.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.name}})
}

func (s *space) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// create makes an object in the test's namespace.
func (s *space) create(obj client.Object) {
	s.t.Helper()
	obj.SetNamespace(s.name)
	s.must(s.client.Create(s.ctx, obj))
}

func (s *space) batch(name string) *v1alpha1.BatchSandbox {
	s.t.Helper()
	sb := &v1alpha1.BatchSandbox{}
	s.must(s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: name}, sb))
	return sb
}

func (s *space) pool(name string) *v1alpha1.Pool {
	s.t.Helper()
	p := &v1alpha1.Pool{}
	s.must(s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: name}, p))
	return p
}

func (s *space) pods() []corev1.Pod {
	s.t.Helper()
	var pods corev1.PodList
	s.must(s.client.List(s.ctx, &pods, client.InNamespace(s.name)))
	return pods.Items
}

// patch merges JSON into an object.
func (s *space) patch(obj client.Object, json string) {
	s.t.Helper()
	s.must(s.client.Patch(s.ctx, obj, client.RawPatch("application/merge-patch+json", []byte(json))))
}

// delivered waits until the batch is ready with n sandboxes, and returns it.
func (s *space) delivered(name string, n int) *v1alpha1.BatchSandbox {
	s.t.Helper()
	var sb *v1alpha1.BatchSandbox
	eventually(s.t, "deliver "+name, func() error {
		sb = s.batch(name)
		if int(sb.Status.Ready) != n || sb.Status.Phase != v1alpha1.PhaseSucceed {
			return fmt.Errorf("ready %d of %d, phase %s, conditions %v", sb.Status.Ready, n, sb.Status.Phase, sb.Status.Conditions)
		}
		return nil
	})
	return sb
}

// idle waits until the pool has at least n available pods and none starting.
func (s *space) idle(name string, n int) {
	s.t.Helper()
	eventually(s.t, "warm "+name, func() error {
		st := s.pool(name).Status
		if int(st.Available) < n || st.Starting > 0 {
			return fmt.Errorf("pool has %+v, want at least %d available", st, n)
		}
		return nil
	})
}

// gone waits until the object is not there any more.
func (s *space) gone(obj client.Object) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("delete %T %s", obj, obj.GetName()), func() error {
		err := s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: obj.GetName()}, obj)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there with finalizers %v (%w)", obj.GetFinalizers(), err)
	})
}

// hasReason waits until a condition of the batch is false for this reason, and returns its message.
func (s *space) hasReason(name, condition, reason string) string {
	s.t.Helper()
	message := ""
	eventually(s.t, fmt.Sprintf("%s: %s=False/%s", name, condition, reason), func() error {
		sb := s.batch(name)
		for _, c := range sb.Status.Conditions {
			if c.Type == condition && c.Status == metav1.ConditionFalse && c.Reason == reason {
				message = c.Message
				return nil
			}
		}
		return fmt.Errorf("conditions %v", sb.Status.Conditions)
	})
	return message
}

// --- objects ----------------------------------------------------------------------------------------------

const simpleTemplate = `{"spec":{"containers":[{"name":"sandbox-container","image":"nginx:latest"}]}}`

func raw(json string) *v1alpha1.RawObject {
	return &v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: []byte(json)}}
}

func makePool(name string, bufferMin, bufferMax, poolMin, poolMax int32) *v1alpha1.Pool {
	return &v1alpha1.Pool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.PoolSpec{
			Template:     raw(simpleTemplate),
			CapacitySpec: v1alpha1.CapacitySpec{BufferMin: bufferMin, BufferMax: bufferMax, PoolMin: poolMin, PoolMax: poolMax},
		},
	}
}

func makeBatch(name, pool string, replicas int32) *v1alpha1.BatchSandbox {
	sb := &v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BatchSandboxSpec{Replicas: &replicas, PoolRef: pool}}
	if pool == "" {
		sb.Spec.Template = raw(simpleTemplate)
	}
	return sb
}

// --- the controller as a process --------------------------------------------------------------------------

// controller is one controller process.
type controller struct {
	t   *testing.T
	log *logBuffer
	mu  sync.Mutex // guards cmd
	cmd *exec.Cmd
	arg []string
	bin string
	end bool
}

// startController runs a controller for the test's namespace until the test ends. kubeconfig "" means straight to the
// API server.
func (s *space) startController(kubeconfig string, args ...string) *controller {
	s.t.Helper()
	if kubeconfig == "" {
		kubeconfig = s.kubeconfig
	}
	c := &controller{t: s.t, log: &logBuffer{}, bin: filepath.Join(s.bin, "controller"), arg: append([]string{
		"--kubeconfig=" + kubeconfig, "--watch-namespaces=" + s.name, "--namespace=" + s.name,
		"--metrics-bind-address=0", "--health-probe-bind-address=0",
	}, args...)}
	s.must(c.start())
	s.t.Cleanup(func() {
		c.mu.Lock()
		c.end = true
		c.mu.Unlock()
		c.kill()
		if s.t.Failed() {
			s.t.Logf("the controller's log:\n%s", tail(c.log.String(), 60))
		}
	})
	return c
}

func (c *controller) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end {
		return nil
	}
	c.cmd = exec.Command(c.bin, c.arg...)
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.Env = append(os.Environ(), "KUBE_CACHE_MUTATION_DETECTOR=true") // it ends when it writes into what a cache has
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c.cmd.Start()
}

// kill ends the process with SIGKILL and waits for it.
func (c *controller) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		c.cmd = nil
	}
}

// signal sends a signal to the process, if it is there.
func (c *controller) signal(sig syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd != nil {
		_ = c.cmd.Process.Signal(sig)
	}
}

// logBuffer keeps what a process writes, and can be read meanwhile.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// --- the API server's audit log ---------------------------------------------------------------------------

// write is a change that a client made, as the API server saw it.
type write struct {
	Verb      string `json:"verb"`
	UserAgent string `json:"userAgent"`
	ObjectRef struct {
		Resource, Namespace, Name, Subresource string
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

func (w write) String() string {
	return fmt.Sprintf("%s %s/%s/%s %d", w.Verb, w.ObjectRef.Resource, w.ObjectRef.Name, w.ObjectRef.Subresource, w.ResponseStatus.Code)
}

// writes are the controller's changes in the test's namespace so far, events apart.
func (s *space) writes() []write {
	s.t.Helper()
	file, err := os.Open(filepath.Join(filepath.Dir(s.kubeconfig), "audit.log"))
	s.must(err)
	defer file.Close() //nolint:errcheck // only read from
	var found []write
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), []byte(s.name)) {
			continue
		}
		var w write
		if err := json.Unmarshal(lines.Bytes(), &w); err != nil {
			continue // a line that is still being written
		}
		changes := w.Verb != "get" && w.Verb != "list" && w.Verb != "watch"
		if changes && w.ObjectRef.Namespace == s.name && w.ObjectRef.Resource != "events" &&
			strings.HasPrefix(w.UserAgent, "opensandbox-controller") {
			found = append(found, w)
		}
	}
	s.must(lines.Err())
	return found
}
