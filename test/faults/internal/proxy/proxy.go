// SPDX-License-Identifier: Apache-2.0

// Package proxy stands between controllers and the API server and breaks things at set rates: requests that are refused,
// writes whose reply is lost, replies that are late, lists from the past, watches that are cut, delayed or expired. All of it
// is what a real API server and its network may do, and looks to clients as theirs does.
//
// Each controller has a kubeconfig, and a path, of its own. The proxy adds the credentials: clients send none over plain HTTP.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// errCutOff is why requests of a controller fail that is cut off.
var errCutOff = errors.New("the controller is cut off")

// Options are what a proxy needs.
type Options struct {
	// Config names the API server, and the credentials of all requests.
	Config *rest.Config
	// Controllers are the names of those that the proxy serves; each is a segment of a URL's path.
	Controllers []string
	// Dir is the directory of the kubeconfigs; it must exist.
	Dir string
	// Seed decides which requests meet which faults: the n-th request of a controller meets the same with the same seed, name,
	// rates and request.
	Seed uint64
	// Rates are those at the start; the zero value makes a transparent proxy.
	Rates Rates
	// Slow is how late a SlowReply is. Default: 50 ms to 2 s.
	Slow Range
	// WatchLife is how long a span of a watch's life is, at whose end it may meet WatchCut or ExpiredEvent; at least 1 ms.
	// Default: 0 to 10 s.
	WatchLife Range
	// EventDelay is how late a DelayedEvent is. Default: 10 to 500 ms.
	EventDelay Range
}

// Proxy is one that runs.
type Proxy struct {
	target    *url.URL
	transport http.RoundTripper
	dir       string
	lists     lists
	rates     atomic.Pointer[Rates]

	slow, watchLife, eventDelay Range

	stop    context.CancelFunc
	running sync.WaitGroup // the server and all requests

	mu      sync.Mutex
	closed  bool
	counts  map[Kind]int64
	callers map[string]*caller // the map itself never changes
}

// caller is a controller.
type caller struct {
	source *rand.Rand
	cut    bool
	calls  map[*call]struct{} // its requests
}

// call is a request under way.
type call struct {
	caller *caller
	draw   draw
	cancel context.CancelCauseFunc
	writer http.ResponseWriter
}

// Start serves on a port of its own at 127.0.0.1 until ctx ends or Close is called, and writes the kubeconfigs.
func Start(ctx context.Context, o Options) (*Proxy, error) {
	p, err := newProxy(o)
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for controllers: %w", err)
	}
	for name := range p.callers {
		if err := writeKubeconfig(p.Kubeconfig(name), "http://"+listener.Addr().String()+"/"+name); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
	}
	ctx, p.stop = context.WithCancel(ctx)
	server := &http.Server{
		Handler: p, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	p.running.Go(func() { _ = server.Serve(listener) }) // returns when it is closed
	p.running.Go(func() {
		<-ctx.Done()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		_ = server.Close() // the connections are of no use any more
	})
	return p, nil
}

// newProxy returns a proxy that doesn't serve yet.
func newProxy(o Options) (*Proxy, error) {
	config := rest.CopyConfig(o.Config)
	config.DisableCompression = true // bodies go through as they are, compressed if the controller asked for that
	if config.Dial == nil {
		config.Dial = (&net.Dialer{}).DialContext // makes the connections the proxy's own, and not the process's
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	target, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("read the API server's address: %w", err)
	}
	p := &Proxy{
		target: target, transport: transport, dir: o.Dir,
		slow:       orDefault(o.Slow, Range{50 * time.Millisecond, 2 * time.Second}),
		watchLife:  orDefault(o.WatchLife, Range{0, 10 * time.Second}),
		eventDelay: orDefault(o.EventDelay, Range{10 * time.Millisecond, 500 * time.Millisecond}),
		counts:     map[Kind]int64{}, callers: map[string]*caller{},
	}
	for _, r := range []Range{p.slow, p.watchLife, p.eventDelay} {
		if r.Min < 0 || r.Min > r.Max {
			return nil, fmt.Errorf("a range from %v to %v: want 0 <= from <= to", r.Min, r.Max)
		}
	}
	for _, name := range o.Controllers {
		if name == "" || url.PathEscape(name) != name || strings.Trim(name, ".") == "" {
			return nil, fmt.Errorf("the controller's name %q can't be in a path: use letters, digits and dashes", name)
		}
		hash := fnv.New64a()
		_, _ = hash.Write([]byte(name)) // never fails
		p.callers[name] = &caller{source: rand.New(rand.NewPCG(o.Seed, hash.Sum64())), calls: map[*call]struct{}{}}
	}
	if err := p.SetRates(o.Rates); err != nil {
		return nil, err
	}
	return p, nil
}

func orDefault(r, otherwise Range) Range {
	if r == (Range{}) {
		return otherwise
	}
	return r
}

// writeKubeconfig writes a kubeconfig for a server that asks for no credentials.
func writeKubeconfig(path, server string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["proxy"] = &clientcmdapi.Cluster{Server: server}
	config.AuthInfos["controller"] = &clientcmdapi.AuthInfo{}
	config.Contexts["proxy"] = &clientcmdapi.Context{Cluster: "proxy", AuthInfo: "controller"}
	config.CurrentContext = "proxy"
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("write a controller's kubeconfig: %w", err)
	}
	return nil
}

// Close stops serving and returns when no request is under way.
func (p *Proxy) Close() {
	p.stop()
	p.running.Wait()
	utilnet.CloseIdleConnectionsFor(p.transport)
}

// Kubeconfig returns the path of a controller's kubeconfig.
func (p *Proxy) Kubeconfig(controller string) string {
	return filepath.Join(p.dir, controller+".kubeconfig")
}

// SetRates changes the rates for all requests, and for watches under way too, from now on.
func (p *Proxy) SetRates(rates Rates) error {
	if err := rates.validate(); err != nil {
		return err
	}
	p.rates.Store(&Rates{Objects: maps.Clone(rates.Objects), Leases: maps.Clone(rates.Leases)})
	return nil
}

// Counts returns how many faults of each kind were injected so far.
func (p *Proxy) Counts() map[Kind]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

func (p *Proxy) count(kind Kind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[kind]++
}

// CutOff closes all connections of a controller on which something is under way, and from now on those on which it sends
// anything. What has reached the API server by then may land.
func (p *Proxy) CutOff(controller string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.callers[controller]
	if !ok {
		return fmt.Errorf("cut off %q: there is no such controller", controller)
	}
	c.cut = true
	for call := range c.calls {
		call.cancel(errCutOff)
		// A controller that is frozen reads nothing, so that writes to it would wait. The connection is closed in any case.
		_ = http.NewResponseController(call.writer).SetWriteDeadline(time.Unix(1, 0))
	}
	return nil
}

// Restore ends what CutOff began.
func (p *Proxy) Restore(controller string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.callers[controller]
	if !ok {
		return fmt.Errorf("restore %q: there is no such controller", controller)
	}
	c.cut = false
	return nil
}

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	c, ok := p.callers[name]
	if !ok {
		http.Error(w, fmt.Sprintf("the path must begin with a controller's name, and %q is none", name), http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	call := &call{caller: c, cancel: cancel, writer: w}
	p.serve(call, http.StripPrefix("/"+name, p.handler(call)), r.WithContext(ctx))
	if errors.Is(context.Cause(ctx), errCutOff) { // though the reply may have gone out just before
		panic(http.ErrAbortHandler)
	}
}

// serve serves a request, unless its connection is to be closed.
func (p *Proxy) serve(call *call, handler http.Handler, r *http.Request) {
	if !p.begin(call) {
		panic(http.ErrAbortHandler)
	}
	defer p.end(call)
	handler.ServeHTTP(call.writer, r)
}

// begin registers a request and draws for it, if it may come in.
func (p *Proxy) begin(call *call) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if call.caller.cut || p.closed {
		return false
	}
	p.running.Add(1) // not from 0: the server runs until closed is set
	call.draw = newDraw(call.caller.source)
	call.caller.calls[call] = struct{}{}
	return true
}

func (p *Proxy) end(call *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(call.caller.calls, call)
	p.running.Done()
}

// handler returns what serves one request once it is registered.
func (p *Proxy) handler(call *call) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t := trip{proxy: p, req: parse(r.Method, r.URL), draw: call.draw, cancel: call.cancel}
		t.fault = choose(t.req, t.rates(), t.draw.pick)
		reverse := httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(p.target)
				r.Out.Header.Del("Authorization") // else it would go before the proxy's own
			},
			Transport:    t, // streams, which have no length, are flushed at once
			ErrorLog:     log.New(io.Discard, "", 0),
			ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		}
		reverse.ServeHTTP(w, r)
	}
}
