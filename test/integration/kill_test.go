// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// killer is a proxy before the API server that, at the k-th write, either drops it or lets it land and loses the reply,
// and calls kill.
type killer struct {
	at     int64
	landed bool // the write lands before the kill
	kill   func()

	writes atomic.Int64
	fired  atomic.Bool
	last   atomic.Value // string: the write at which it fired
	proxy  *httputil.ReverseProxy
	url    string
}

// startKiller serves until the test ends.
func startKiller(t *testing.T, config *rest.Config, at int64, landed bool) *killer {
	t.Helper()
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	k := &killer{at: at, landed: landed}
	k.proxy = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: k, ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		_ = server.Close()
		wg.Wait()
	})
	k.url = "http://" + listener.Addr().String()
	return k
}

func (k *killer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	isWrite := r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/events")
	if !isWrite || k.writes.Add(1) != k.at {
		k.proxy.ServeHTTP(w, r)
		return
	}
	k.last.Store(r.Method + " " + r.URL.Path)
	if k.landed {
		k.proxy.ServeHTTP(discard{http.Header{}}, r.WithContext(context.WithoutCancel(r.Context())))
	}
	k.fired.Store(true)
	k.kill()
	panic(http.ErrAbortHandler) // no reply
}

// discard is a reply that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func (k *killer) kubeconfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	content := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
		"clusters":[{"name":"c","cluster":{"server":%q}}],"users":[{"name":"u","user":{}}],
		"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}`, k.url)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The controller is killed at each of its writes in turn, once with the write lost and once with its reply lost, while
// two batches take sandboxes, one of them gives some up, and both are deleted. Every time all of it comes true after a
// restart, and no pod is held twice at any moment.
func TestKilledAtAnyWriteEverythingConverges(t *testing.T) {
	for _, recycle := range []v1alpha1.RecycleType{v1alpha1.RecycleDelete, v1alpha1.RecycleNoop} {
		for _, landed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, write landed: %v", recycle, landed), func(t *testing.T) {
				t.Parallel()
				at := int64(1)
				for killAt(t, at, landed, recycle) {
					at++
				}
				if at < 15 {
					t.Errorf("the history has %d writes, want at least 15: does the controller do its work?", at-1)
				}
				t.Logf("killed at each of %d writes", at-1)
			})
		}
	}
}

// killAt plays one history and says whether the kill took place, which it doesn't when the history has fewer writes.
func killAt(t *testing.T, at int64, landed bool, recycle v1alpha1.RecycleType) (killed bool) {
	ok := t.Run(fmt.Sprint(at), func(t *testing.T) {
		s := newSpace(t)
		k := startKiller(t, s.config, at, landed)
		var c *controller
		started := make(chan struct{})
		k.kill = func() {
			<-started
			c.kill()
			if err := c.start(); err != nil {
				t.Error(err)
			}
		}
		audit := startAudit(t, s)
		c = s.startController(k.kubeconfig(t))
		close(started)
		playHistory(s, recycle)
		audit.stop()
		killed = k.fired.Load()
		if t.Failed() {
			t.Logf("killed at write %d: %v", at, k.last.Load())
		}
	})
	return ok && killed
}

func playHistory(s *space, recycle v1alpha1.RecycleType) {
	pool := makePool("p", 1, 2, 2, 6)
	pool.Spec.RecycleStrategy = &v1alpha1.RecycleStrategy{Type: recycle}
	s.create(pool)
	s.create(makeBatch("a", "p", 2))
	s.create(makeBatch("b", "p", 1))
	a := s.delivered("a", 2)
	b := s.delivered("b", 1)
	s.patch(a, `{"spec":{"replicas":1}}`)
	eventually(s.t, "scale a down", func() error {
		if st := s.batch("a").Status; st.Replicas != 1 || st.Ready != 1 {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	s.must(s.client.Delete(s.ctx, a))
	s.must(s.client.Delete(s.ctx, b))
	s.gone(a)
	s.gone(b)
	eventually(s.t, "settle the pool", func() error {
		st := s.pool("p").Status
		if st.Allocated != 0 || st.Starting != 0 || st.Available != st.Total || st.Total < 2 || st.Total > 6 {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	s.create(makeBatch("c", "p", 2))
	s.delivered("c", 2)
}

// auditor watches the batches of a namespace through eyes of its own, and fails the test when two live ones name the same
// pod at the same moment.
type auditor struct{ stop func() }

func startAudit(t *testing.T, s *space) auditor {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.client.Watch(ctx, &v1alpha1.BatchSandboxList{}, client.InNamespace(s.name))
	s.must(err)
	var wg sync.WaitGroup
	wg.Go(func() {
		held := map[string]map[string]bool{} // by batch
		for e := range w.ResultChan() {
			if err := auditEvent(held, e.Object); err != nil {
				t.Error(err)
			}
			if sb, ok := e.Object.(*v1alpha1.BatchSandbox); ok && e.Type == "DELETED" {
				delete(held, sb.Name)
			}
		}
	})
	stop := func() {
		cancel()
		w.Stop()
		wg.Wait()
	}
	t.Cleanup(stop)
	return auditor{stop: stop}
}

func auditEvent(held map[string]map[string]bool, obj any) error {
	sb, ok := obj.(*v1alpha1.BatchSandbox)
	if !ok {
		return nil // a bookmark, or the end of the watch
	}
	named, _, err := annotations(sb)
	if err != nil {
		return err
	}
	held[sb.Name] = map[string]bool{}
	var errs []error
	for _, pod := range named {
		if pod == "" {
			continue
		}
		for other, pods := range held {
			if pods[pod] {
				errs = append(errs, fmt.Errorf("pod %s is held by %s and %s", pod, other, sb.Name))
			}
		}
		held[sb.Name][pod] = true
	}
	return errors.Join(errs...)
}
