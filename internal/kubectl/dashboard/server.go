// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// files are what the pages are made of, and what they load.
//
//go:embed templates static third_party/idiomorph/idiomorph.min.js
var files embed.FS

const (
	// firstLook is how long the first answer waits for what it shows. What comes later comes live.
	firstLook = 2 * time.Second

	// headerTimeout bounds how long a browser may take to say what it wants, and closeTimeout how long the end waits for answers.
	headerTimeout = 10 * time.Second
	closeTimeout  = 2 * time.Second
)

// config is what a server needs.
type config struct {
	client    client.WithWatch
	logs      logs
	clock     clock.WithTicker
	namespace string // empty for all
	token     string
	// about names the cluster and the user, for the top of the page.
	about string
}

// server serves the pages. What it shows is what its collections have.
type server struct {
	config
	bell    *bell
	pools   *collection[*v1alpha1.Pool]
	batches *collection[*v1alpha1.BatchSandbox]
	history *recorder
	render  *renderer
	streams chan struct{} // a token for each stream that there may be
}

func newServer(c config) (*server, error) {
	render, err := newRenderer("/"+c.token+"/", c.about, c.namespace)
	if err != nil {
		return nil, err
	}
	s := &server{config: c, bell: newBell(), history: newRecorder(), render: render, streams: make(chan struct{}, maxStreams)}
	s.pools = newCollection[*v1alpha1.Pool](c.client, query{
		resource: "pools", namespace: c.namespace, object: &v1alpha1.Pool{}, list: &v1alpha1.PoolList{},
	}, s.bell.ring)
	s.batches = newCollection[*v1alpha1.BatchSandbox](c.client, query{
		resource: "batchsandboxes", namespace: c.namespace, object: &v1alpha1.BatchSandbox{}, list: &v1alpha1.BatchSandboxList{},
	}, s.bell.ring)
	return s, nil
}

// serve answers on l until ctx is done.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { s.pools.run(ctx) })
	running.Go(func() { s.batches.run(ctx) })
	running.Go(func() { s.record(ctx) })

	web := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends the streams
	}
	running.Go(func() {
		<-ctx.Done()
		closing, done := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer done()
		if web.Shutdown(closing) != nil {
			_ = web.Close() // somebody reads too slowly
		}
	})
	if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the dashboard: %w", err)
	}
	return nil
}

// record takes a sample of every pool from time to time.
func (s *server) record(ctx context.Context) {
	ticker := s.clock.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		if s.pools.known() {
			s.history.record(s.pools.objects())
			s.bell.ring()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

// handler is all of the server.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page(s.openOverview))
	mux.HandleFunc("GET /pools/{namespace}/{name}", s.page(s.openPool))
	mux.HandleFunc("GET /batches/{namespace}/{name}", s.page(s.openBatch))
	mux.HandleFunc("GET /batches/{namespace}/{name}/{index}", s.page(s.openSandbox))
	for name, path := range map[string]string{
		"style.css": "static", "dashboard.js": "static", "icon.svg": "static", "idiomorph.min.js": "third_party/idiomorph",
	} {
		mux.Handle("GET /static/"+name, http.StripPrefix("/static", http.FileServerFS(mustSub(path))))
	}
	return guard(s.token, mux)
}

func mustSub(path string) fs.FS {
	sub, err := fs.Sub(files, path)
	if err != nil {
		panic(err) // the path is not valid: a mistake in this package
	}
	return sub
}

// opened is a page that somebody looks at.
type opened struct {
	// view is what it shows now.
	view func() view
	// known says whether there is something to show.
	known func() bool
	// close ends what view began, if it is set.
	close func()
}

// opener begins to follow what a page needs until ctx is done; running are its goroutines.
type opener func(ctx context.Context, running *sync.WaitGroup, r *http.Request) opened

// page answers with a page, or with what changes on it.
func (s *server) page(open opener) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		o := open(ctx, &running, r)
		if o.close != nil {
			defer o.close()
		}
		if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
			s.stream(w, r, o)
			return
		}
		s.await(ctx, o.known)
		v := o.view()
		text, err := s.render.document(v)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if v.Missing {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write(text) // the browser may be gone
	}
}

// await waits until something is known, but not for long.
func (s *server) await(ctx context.Context, known func() bool) {
	timer := s.clock.NewTimer(firstLook)
	defer timer.Stop()
	for {
		rung := s.bell.rung()
		if known() {
			return
		}
		select {
		case <-rung:
		case <-timer.C():
			return
		case <-ctx.Done():
			return
		}
	}
}

func (s *server) openOverview(_ context.Context, _ *sync.WaitGroup, r *http.Request) opened {
	f := filter{Text: r.URL.Query().Get("q"), State: r.URL.Query().Get("state")}
	return opened{
		known: s.known,
		view: func() view {
			return overviewPage(overviewInput{
				scope: s.namespace, filter: f, pools: s.pools.objects(), batches: s.batches.objects(), chart: s.history.chart, notices: s.notices(),
			})
		},
	}
}

func (s *server) known() bool { return s.pools.known() && s.batches.known() }

func (s *server) notices() []notice { return append(s.pools.notices(), s.batches.notices()...) }

func pathKey(r *http.Request) types.NamespacedName {
	return types.NamespacedName{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
}

func (s *server) openPool(ctx context.Context, running *sync.WaitGroup, r *http.Request) opened {
	key := pathKey(r)
	events := s.followEvents(ctx, running, key, "Pool")
	return opened{
		known: func() bool { return s.known() && events.known() },
		view: func() view {
			in := poolInput{
				key: key, batches: s.batches.objects(), events: eventRows(events.objects()), notices: append(s.notices(), events.notices()...),
			}
			if pool := find(s.pools.objects(), key); pool != nil {
				in.pool, in.chart = pool, s.history.chart(pool)
			}
			return poolPage(in)
		},
	}
}

func (s *server) openBatch(ctx context.Context, running *sync.WaitGroup, r *http.Request) opened {
	key := pathKey(r)
	from, err := strconv.Atoi(r.URL.Query().Get("from"))
	if err != nil {
		from = 0
	}
	events := s.followEvents(ctx, running, key, "BatchSandbox")
	pods := s.followPods(ctx, running, key)
	return opened{
		known: func() bool { return s.known() && events.known() && pods.known() },
		view: func() view {
			return batchPage(batchInput{
				key: key, batch: find(s.batches.objects(), key), pods: pods.objects(), events: eventRows(events.objects()), from: from,
				notices: append(append(s.batches.notices(), events.notices()...), pods.notices()...),
			})
		},
	}
}

func (s *server) openSandbox(ctx context.Context, running *sync.WaitGroup, r *http.Request) opened {
	key := pathKey(r)
	index, err := strconv.Atoi(r.PathValue("index"))
	if err != nil || index < 0 {
		index = maxIndexes // no batch has it
	}
	pods := s.followPods(ctx, running, key)
	f := &follower{client: s.client, logs: s.logs, clock: s.clock, raise: s.bell.ring}
	return opened{
		close: f.close,
		known: func() bool { return s.batches.known() && pods.known() },
		view: func() view {
			in := sandboxInput{key: key, index: index, batch: find(s.batches.objects(), key), pods: pods.objects()}
			in.notices = append(s.batches.notices(), pods.notices()...)
			if in.batch != nil && in.batch.Spec.TaskTemplate != nil && index < maxIndexes {
				f.follow(ctx, podOf(in), fmt.Sprintf("%s-%d-", in.batch.UID, index))
			}
			in.lines, in.dropped, in.logNote = f.out.snapshot()
			return sandboxPage(in)
		},
	}
}

// podOf is the pod that has the task of a sandbox; without a name if there is none.
func podOf(in sandboxInput) types.NamespacedName {
	name := types.NamespacedName{Namespace: in.key.Namespace}
	if all := indexesOf(in.batch, in.pods); in.index < len(all) {
		name.Name = all[in.index].Pod
	}
	return name
}

func (s *server) followEvents(ctx context.Context, running *sync.WaitGroup, key types.NamespacedName, kind string) *collection[*corev1.Event] {
	events := newCollection[*corev1.Event](s.client, query{
		resource: "events", namespace: key.Namespace, object: &corev1.Event{}, list: &corev1.EventList{},
		fields: "involvedObject.kind=" + kind + ",involvedObject.name=" + key.Name,
	}, s.bell.ring)
	running.Go(func() { events.run(ctx) })
	return events
}

func (s *server) followPods(ctx context.Context, running *sync.WaitGroup, key types.NamespacedName) *collection[*corev1.Pod] {
	pods := newCollection[*corev1.Pod](s.client, query{
		resource: "pods", namespace: key.Namespace, object: &corev1.Pod{}, list: &corev1.PodList{},
		labels: v1alpha1.BatchNameLabel + "=" + key.Name,
	}, s.bell.ring)
	running.Go(func() { pods.run(ctx) })
	return pods
}

// find returns the object of a name, nil if there is none.
func find[T interface {
	comparable
	client.Object
}](objects []T, key types.NamespacedName) T {
	var none T
	for _, o := range objects {
		if keyOf(o) == key {
			return o
		}
	}
	return none
}

// address is where the pages of a server are.
func address(l net.Listener, token string) string {
	return (&url.URL{Scheme: "http", Host: l.Addr().String(), Path: "/" + token + "/"}).String()
}
