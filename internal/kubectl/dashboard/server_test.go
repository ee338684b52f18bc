// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/test/wrappers"
)

// begin serves the pages of a client's objects, and returns their address.
func begin(t *testing.T, c client.WithWatch) string {
	t.Helper()
	s, err := newServer(config{
		client: c, clock: clock.RealClock{}, token: newToken(), about: "test", namespace: "ns",
		logs: func(context.Context, string, string, *corev1.PodLogOptions) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader("task=uid-0-1 stream=stdout | <b>hello</b>\n")), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("it ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("it doesn't end, though a page is open")
		}
	})
	return address(l, s.token)
}

func newFake(t *testing.T, objects ...client.Object) *fake.ClientBuilder {
	t.Helper()
	scheme, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...)
}

// answer is what the server said to a request: its whole body, or, of events, the stream of them until the test ends.
type answer struct {
	status int
	header http.Header
	body   string
	stream io.Reader
}

func get(t *testing.T, url string, header ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Body.Close() })
	a := answer{status: w.StatusCode, header: w.Header, stream: w.Body}
	if strings.Contains(r.Header.Get("Accept"), "event-stream") && w.StatusCode == http.StatusOK {
		return a
	}
	body, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	a.body = string(body)
	return a
}

func TestEveryPageIsServedAndNothingInItIsInlineOrOfOthers(t *testing.T) {
	batch := wrappers.MakeBatch("ns", "b").UID("uid").Pool("p").Task("sh", "-c", "</script><b>").Created(start).Obj()
	where := begin(t, newFake(t, batch, wrappers.MakePool("ns", "p").Obj()).Build())
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|javascript:|<script>|(src|href)="(https?:)?//`)
	for path, want := range map[string]string{
		"": "Sandboxes", "?q=nothing": "0 of 1 batch", "batches/ns/b": "&lt;/script&gt;&lt;b&gt;", "batches/ns/b/0": "Sandbox 0", "pools/ns/p": "Pool p",
	} {
		page := get(t, where+path)
		if page.status != http.StatusOK || !strings.Contains(page.body, want) {
			t.Errorf("%q answers %d, want 200 and %q in\n%s", path, page.status, want, page.body)
		}
		if found := inline.FindString(page.body); found != "" {
			t.Errorf("%q has %q, which the policy forbids", path, found)
		}
	}
	for path, want := range map[string]string{
		"static/style.css": "text/css", "static/dashboard.js": "text/javascript", "static/idiomorph.min.js": "text/javascript", "static/icon.svg": "image/svg+xml",
	} {
		if page := get(t, where+path); page.status != http.StatusOK || !strings.HasPrefix(page.header.Get("Content-Type"), want) || page.body == "" {
			t.Errorf("%s answers %d, %s", path, page.status, page.header.Get("Content-Type"))
		}
	}
	for _, path := range []string{"batches/ns/other", "batches/ns/b/99", "batches/ns/b/-1", "batches/ns/b/x", "pools/ns/other", "nothing", "static/", "templates/pool.html"} {
		if page := get(t, where+path); page.status != http.StatusNotFound {
			t.Errorf("%s answers %d, want 404", path, page.status)
		}
	}
}

// next reads messages until one has a text.
func next(t *testing.T, events *bufio.Reader, text string) (m message) {
	t.Helper()
	for {
		line, err := events.ReadString('\n')
		if err != nil {
			t.Fatalf("wait for %q: %v", text, err)
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		m = message{}
		if err := json.Unmarshal([]byte(data), &m); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(data, text) {
			return m
		}
	}
}

func TestAnOpenPageIsToldWhatChangesAndNothingElse(t *testing.T) {
	c := newFake(t, wrappers.MakeBatch("ns", "first").UID("1").Created(start).Obj()).Build()
	where := begin(t, c)
	page := get(t, where, "Accept", "text/event-stream")
	events := bufio.NewReader(page.stream)
	if m := next(t, events, "first"); m.Main == "" || len(m.Parts) > 0 {
		t.Errorf("the first message is %+v, want all of the page", m)
	}
	if err := c.Create(t.Context(), wrappers.MakeBatch("ns", "second").UID("2").Created(start.Add(time.Hour)).Obj()); err != nil {
		t.Fatal(err)
	}
	m := next(t, events, "second")
	var rows []partMessage
	for _, p := range m.Parts {
		if strings.HasPrefix(p.ID, "batch-") {
			rows = append(rows, p)
		}
	}
	if m.Main != "" || len(rows) != 1 || rows[0].ID != "batch-2" || rows[0].In != "batches" || rows[0].After != "" {
		t.Errorf("told is %+v, want the row of the new batch, the first", m)
	}
	if err := c.Delete(t.Context(), wrappers.MakeBatch("ns", "first").Obj()); err != nil {
		t.Fatal(err)
	}
	if m := next(t, events, `"batch-1"`); m.Main != "" || strings.Contains(fmt.Sprint(m), "second") {
		t.Errorf("told is %+v, want that the row goes", m)
	}
}

func TestAnOpenSandboxShowsTheOutputOfItsTaskEscaped(t *testing.T) {
	batch := wrappers.MakeBatch("ns", "b").UID("uid").Pool("p").Task("x").AllocStatus(`{"pods":["one"]}`).Obj()
	where := begin(t, newFake(t, batch, pod("one", "task-executor")).Build())
	page := get(t, where+"batches/ns/b/0", "Accept", "text/event-stream")
	next(t, bufio.NewReader(page.stream), "&lt;b&gt;hello&lt;/b&gt;")
}

func TestWhatTheUserMayNotSeeIsToldOnThePage(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Group: "sandbox.opensandbox.io", Resource: "pools"}, "", errors.New("no"))
	c := newFake(t, wrappers.MakeBatch("ns", "seen").UID("1").Obj()).WithInterceptorFuncs(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, o ...client.ListOption) error {
			if strings.Contains(fmt.Sprintf("%T", list), "PoolList") {
				return forbidden
			}
			return c.List(ctx, list, o...)
		},
	}).Build()
	body := get(t, begin(t, c)).body
	if !strings.Contains(body, "You may not list and watch pools of namespace ns") || !strings.Contains(body, "kubectl auth can-i watch pools -n ns") {
		t.Errorf("the page doesn't tell: %s", body)
	}
	if !strings.Contains(body, "batches/ns/seen") {
		t.Error("what may be seen isn't shown")
	}
}

func TestTrouble(t *testing.T) {
	resource := schema.GroupResource{Resource: "pools"}
	for name, c := range map[string]struct {
		namespace string
		err       error
		want      string
	}{
		"nothing":                 {err: nil},
		"a list that is too old":  {err: apierrors.NewResourceExpired("old")},
		"denied everywhere":       {err: apierrors.NewForbidden(resource, "", nil), want: "Start the dashboard for one namespace, with -n NAME."},
		"denied in one":           {namespace: "a", err: apierrors.NewForbidden(resource, "", nil), want: "kubectl auth can-i watch pools -n a"},
		"not installed":           {err: apierrors.NewNotFound(resource, ""), want: "are not installed"},
		"the server can't be had": {err: errors.New("connection refused"), want: "what is shown may be old: connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			got := trouble(query{resource: "pools", namespace: c.namespace}, c.err)
			if !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestNoMorePagesAreLiveThanMayBe(t *testing.T) {
	where := begin(t, newFake(t).Build())
	for i := range maxStreams + 1 {
		page := get(t, where, "Accept", "text/event-stream")
		if want := i < maxStreams; (page.status == http.StatusOK) != want {
			t.Fatalf("page %d answers %d: %s", i, page.status, page.body)
		}
	}
}

// The library is what was published, and what SOURCE says.
func TestTheLibraryIsUnchanged(t *testing.T) {
	dir := filepath.Join("third_party", "idiomorph")
	text, err := os.ReadFile(filepath.Join(dir, "idiomorph.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(dir, "SOURCE"))
	if err != nil {
		t.Fatal(err)
	}
	if sum := fmt.Sprintf("idiomorph.min.js: sha256:%x", sha256.Sum256(text)); !strings.Contains(string(source), sum) {
		t.Errorf("SOURCE doesn't have %q", sum)
	}
}
