// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	podsPath = "/api/v1/namespaces/a/pods"
	podPath  = podsPath + "/p"
	leaseURL = "/apis/coordination.k8s.io/v1/namespaces/a/leases/l"

	patience = 10 * time.Second // after which a test gives up
)

// started is a proxy before a backend, and a plain client of its own for each controller.
type started struct {
	*Proxy
	t *testing.T
}

// start serves until the test ends, between the controllers one and two and the backend.
func start(t *testing.T, backend http.HandlerFunc, o Options) started {
	t.Helper()
	server := httptest.NewServer(backend)
	t.Cleanup(server.Close)
	o.Config = &rest.Config{Host: server.URL, BearerToken: "secret"}
	o.Controllers = []string{"one", "two"}
	o.Dir = t.TempDir()
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close) // before the server's: that waits for its requests
	return started{Proxy: p, t: t}
}

// config is what a controller makes of its kubeconfig.
func (s started) config(controller string) *rest.Config {
	s.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig(controller))
	if err != nil {
		s.t.Fatal(err)
	}
	return config
}

// do sends a request as a controller, on a connection of its own, and returns the reply with its body unread.
func (s started) do(ctx context.Context, controller string, r *http.Request) (*http.Response, error) {
	s.t.Helper()
	full, err := http.NewRequestWithContext(ctx, r.Method, s.config(controller).Host+r.URL.String(), r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	full.Header = r.Header
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	return transport.RoundTrip(full)
}

// reply is one that was read to its end.
type reply struct {
	code   int
	header http.Header
	body   string
}

// call sends a request as controller one.
func (s started) call(method, url, body string) (reply, error) {
	s.t.Helper()
	return s.callAs("one", method, url, body)
}

// callAs sends a request as a controller.
func (s started) callAs(controller, method, url, body string) (reply, error) {
	s.t.Helper()
	return s.read(controller, httptest.NewRequest(method, url, strings.NewReader(body)))
}

// read sends a request as a controller.
func (s started) read(controller string, r *http.Request) (reply, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	resp, err := s.do(ctx, controller, r)
	if err != nil {
		return reply{}, err
	}
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(body)}, errors.Join(err, resp.Body.Close())
}

func (s started) setRates(rates map[Kind]float64) {
	s.t.Helper()
	if err := s.SetRates(Rates{Objects: rates}); err != nil {
		s.t.Fatal(err)
	}
}

func (s started) wantCounts(want map[Kind]int64) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.Counts()); diff != "" {
		s.t.Errorf("counts (-want +got):\n%s", diff)
	}
}

// wantNoCalls waits until nothing of a controller is under way.
func (s started) wantNoCalls(controller string) {
	s.t.Helper()
	eventually(s.t, "no request under way", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.callers[controller].calls) == 0
	})
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func only(kind Kind) Rates { return Rates{Objects: map[Kind]float64{kind: 1}} }

func TestWithoutRatesAllGoesThroughAsItIs(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte("long")) // never fails
	_ = w.Close()                  // never fails
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // what came is compared
		if got, want := r.Method+" "+r.URL.String()+" "+string(body), "PATCH "+podPath+"?fieldManager=x%2Fy patch"; got != want {
			t.Errorf("the API server got %q, want %q", got, want)
		}
		for name, want := range map[string]string{
			"Authorization": "Bearer secret", "Content-Type": "application/merge-patch+json", "Accept": "application/vnd.kubernetes.protobuf",
			"Accept-Encoding": "gzip", "User-Agent": "controller/1", "X-Forwarded-For": "",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("the API server got %s: %s, want %s", name, got, want)
			}
		}
		w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Audit-Id", "7")
		w.Header().Add("Warning", `299 - "one"`)
		w.Header().Add("Warning", `299 - "two"`)
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(zipped.Bytes()) // what arrives is compared
	}, Options{})

	r := httptest.NewRequest("PATCH", podPath+"?fieldManager=x%2Fy", strings.NewReader("patch"))
	r.Header = http.Header{
		"Content-Type": {"application/merge-patch+json"}, "Accept": {"application/vnd.kubernetes.protobuf"}, "Accept-Encoding": {"gzip"},
		"User-Agent": {"controller/1"}, "Authorization": {"Bearer other"},
	}
	got, err := s.read("one", r)
	if err != nil {
		t.Fatal(err)
	}
	got.header.Del("Date")
	want := http.Header{
		"Content-Type": {"application/vnd.kubernetes.protobuf"}, "Content-Encoding": {"gzip"}, "Audit-Id": {"7"},
		"Warning": {`299 - "one"`, `299 - "two"`}, "Content-Length": {fmt.Sprint(zipped.Len())},
	}
	if diff := cmp.Diff(want, got.header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if got.code != http.StatusAccepted || got.body != zipped.String() {
		t.Errorf("got %d %q, want 202 and the body as it was sent", got.code, got.body)
	}
	s.wantCounts(map[Kind]int64{})
}

func TestNothingIsCompressedForAClientThatDoesNotAskForIt(t *testing.T) {
	s := start(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Accept-Encoding")) }, Options{})
	if got, err := s.call("GET", podPath, ""); err != nil || got.body != "" {
		t.Errorf("the API server was asked for %q, %v", got.body, err)
	}
}

// Each fault that is a reply: its status, and whether the write landed.
func TestFaultsThatAreReplies(t *testing.T) {
	for name, c := range map[string]struct {
		fault       Kind
		method, url string
		wantCode    int
		wantReason  metav1.StatusReason
		wantRetry   string
		wantLanded  int64
	}{
		"a conflict isn't sent on":            {Conflict, "PATCH", podPath, 409, metav1.StatusReasonConflict, "", 0},
		"too many requests aren't sent on":    {TooManyRequests, "POST", podsPath, 429, metav1.StatusReasonTooManyRequests, "1", 0},
		"an internal error isn't sent on":     {InternalError, "DELETE", podPath, 500, metav1.StatusReasonInternalError, "", 0},
		"a lost reply's write landed once":    {LostReply, "PATCH", podPath, 504, metav1.StatusReasonTimeout, "", 1},
		"a repeated write landed":             {RepeatedWrite, "PATCH", podPath, 500, metav1.StatusReasonInternalError, "1", 1},
		"a watch from a version is expired":   {ExpiredWatch, "GET", podsPath + "?watch=true&resourceVersion=7", 410, metav1.StatusReasonExpired, "", 0},
		"a watch of what there is is refused": {RefusedWatchList, "GET", podsPath + "?watch=true&sendInitialEvents=true", 422, metav1.StatusReasonInvalid, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var hits atomic.Int64
			s := start(t, func(w http.ResponseWriter, _ *http.Request) {
				hits.Add(1)
				fmt.Fprint(w, "done")
			}, Options{Rates: only(c.fault)})

			got, err := s.call(c.method, c.url, strings.Repeat("x", 1<<20))
			if err != nil {
				t.Fatal(err)
			}
			var status metav1.Status
			if err := json.Unmarshal([]byte(got.body), &status); err != nil {
				t.Fatalf("%v: %s", err, got.body)
			}
			if got.code != c.wantCode || int(status.Code) != c.wantCode || status.Reason != c.wantReason ||
				status.Kind != "Status" || status.APIVersion != "v1" || status.Status != metav1.StatusFailure || status.Message == "" {
				t.Errorf("got %d %s, want %d %s", got.code, got.body, c.wantCode, c.wantReason)
			}
			if after := got.header.Get("Retry-After"); after != c.wantRetry {
				t.Errorf("Retry-After is %q, want %q", after, c.wantRetry)
			}
			if format := got.header.Get("Content-Type"); format != "application/json" {
				t.Errorf("Content-Type is %q", format)
			}
			if got := hits.Load(); got != c.wantLanded {
				t.Errorf("%d requests came to the API server, want %d", got, c.wantLanded)
			}
			s.wantCounts(map[Kind]int64{c.fault: 1})

			s.setRates(nil)
			if got, err := s.call(c.method, c.url, ""); err != nil || got.code != http.StatusOK || got.body != "done" {
				t.Errorf("without faults the same gets %v %q %v", got.code, got.body, err)
			}
			s.wantCounts(map[Kind]int64{c.fault: 1})
		})
	}
}

func TestACutReplysWriteLandedOnceAndARetryComesThrough(t *testing.T) {
	var hits atomic.Int64
	s := start(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, hits.Add(1)) }, Options{Rates: only(CutReply)})
	if got, err := s.call("PATCH", podPath, "x"); err == nil {
		t.Errorf("got %d %q, want an error", got.code, got.body)
	}
	if got := hits.Load(); got != 1 {
		t.Errorf("the write landed %d times, want once", got)
	}
	s.setRates(nil)
	if got, err := s.call("PATCH", podPath, "x"); err != nil || got.body != "2" {
		t.Errorf("the retry gets %q, %v", got.body, err)
	}
	s.wantCounts(map[Kind]int64{CutReply: 1})
}

// A write that the API server refuses didn't land: its own reply is worth more than a fault.
func TestRefusedWritesLoseNoReply(t *testing.T) {
	for _, kind := range []Kind{LostReply, CutReply, RepeatedWrite} {
		s := start(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "taken", http.StatusConflict) }, Options{Rates: only(kind)})
		if got, err := s.call("PATCH", podPath, "x"); err != nil || got.code != http.StatusConflict || got.body != "taken\n" {
			t.Errorf("%s: got %v %q %v", kind, got.code, got.body, err)
		}
		s.wantCounts(map[Kind]int64{})
	}
}

func TestASlowReplyComesLateAndItsWriteLandedInTime(t *testing.T) {
	landed := make(chan struct{})
	s := start(t, func(w http.ResponseWriter, _ *http.Request) {
		close(landed)
		fmt.Fprint(w, "done")
	}, Options{Rates: only(SlowReply), Slow: Range{150 * time.Millisecond, 200 * time.Millisecond}})
	begun := time.Now()
	got, err := s.call("POST", podsPath, "x")
	if err != nil || got.body != "done" {
		t.Fatalf("got %q, %v", got.body, err)
	}
	if took := time.Since(begun); took < 150*time.Millisecond {
		t.Errorf("took %v, want 150 ms or more", took)
	}
	<-landed
	s.wantCounts(map[Kind]int64{SlowReply: 1})
}

func TestASlowReplyIsGivenUpWithItsClient(t *testing.T) {
	s := start(t, func(http.ResponseWriter, *http.Request) {}, Options{Rates: only(SlowReply), Slow: Range{time.Hour, time.Hour}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		eventually(t, "a reply held back", func() bool { return s.Counts()[SlowReply] == 1 })
		cancel()
	}()
	if resp, err := s.do(ctx, "one", httptest.NewRequest("POST", podsPath, nil)); err == nil {
		t.Errorf("got %d, want an error", resp.StatusCode)
		_ = resp.Body.Close() // the test has failed
	}
	s.wantNoCalls("one")
}

func TestLeasesHaveRatesOfTheirOwn(t *testing.T) {
	s := start(t, func(http.ResponseWriter, *http.Request) {}, Options{Rates: only(InternalError)})
	wantCodes := func(lease, pod int) {
		t.Helper()
		for url, want := range map[string]int{leaseURL: lease, podPath: pod} {
			if got, err := s.call("PUT", url, "x"); err != nil || got.code != want {
				t.Errorf("%s: got %v %v, want %d", url, got.code, err, want)
			}
		}
	}
	wantCodes(200, 500)
	if err := s.SetRates(Rates{Leases: map[Kind]float64{Conflict: 1}}); err != nil {
		t.Fatal(err)
	}
	wantCodes(409, 200)
}

// A list is a count that goes up with every list that the API server answers.
func TestStaleListsAreEarlierOnesAndOnlyWhereTheyMayBe(t *testing.T) {
	var version atomic.Int64
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json;of="+r.URL.Query().Get("labelSelector"))
		fmt.Fprint(w, version.Add(1))
	}, Options{Rates: only(StaleList)})
	const path, anyTime = podsPath + "?labelSelector=x", "&resourceVersion=0&limit=500"
	list := func(controller, url string) string {
		t.Helper()
		got, err := s.callAs(controller, "GET", url, "")
		if err != nil || got.code != http.StatusOK {
			t.Fatalf("got %v, %v", got.code, err)
		}
		if format := got.header.Get("Content-Type"); !strings.HasPrefix(format, "application/json;of=") {
			t.Errorf("Content-Type is %q", format)
		}
		return got.body
	}
	for _, c := range []struct{ controller, url, want, why string }{
		{"one", path + anyTime, "1", "nothing is known yet"},
		{"one", path + anyTime, "1", "the first reply is known"},
		{"two", path + anyTime, "1", "all controllers ask the same API server"},
		{"one", path, "2", "a consistent read is never stale"},
		{"one", path + "&limit=500", "3", "a consistent read in parts is never stale"},
		{"one", path + "&resourceVersion=1", "4", "a list must be as new as its version"},
		{"one", podsPath + "?resourceVersion=0", "5", "no selector"},
		{"one", podsPath + "?labelSelector=y" + anyTime, "6", "another selector"},
		{"one", "/api/v1/namespaces/b/pods?labelSelector=x" + anyTime, "7", "another namespace"},
	} {
		if got := list(c.controller, c.url); got != c.want {
			t.Errorf("%s: got %s, want %s", c.why, got, c.want)
		}
	}
	s.wantCounts(map[Kind]int64{StaleList: 2})

	seen := map[string]bool{}
	for range 50 {
		seen[list("one", path+anyTime)] = true
	}
	if want := map[string]bool{"1": true, "2": true}; !cmp.Equal(seen, want) {
		t.Errorf("stale lists are %v, want both whole ones %v", seen, want)
	}
	s.setRates(nil)
	if got := list("one", path+anyTime); got != "8" {
		t.Errorf("without faults got %s, want 8", got)
	}
}

// events serves a watch that sends what comes from a channel.
func events(lines <-chan string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json;stream=watch")
		_ = http.NewResponseController(w).Flush() // the client sees what is missing
		for {
			select {
			case line := <-lines:
				fmt.Fprint(w, line)
				_ = http.NewResponseController(w).Flush() // the client sees what is missing
			case <-r.Context().Done():
				return
			}
		}
	}
}

// wantEnd waits until a watch is ended by the other side, which no event comes before.
func (s started) wantEnd(r *bufio.Reader) {
	s.t.Helper()
	if got, err := r.ReadString('\n'); err == nil || errors.Is(err, context.DeadlineExceeded) {
		s.t.Errorf("the watch goes on: %q, %v", got, err)
	}
}

// watch starts one as a controller, and ends it with the test, or when nobody waits for it any more.
func (s started) watch(controller string) *bufio.Reader {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*patience)
	s.t.Cleanup(cancel)
	resp, err := s.do(ctx, controller, httptest.NewRequest("GET", podsPath+"?watch=true&resourceVersion=7", nil))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = resp.Body.Close() }) // whatever is left of it
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("got %d", resp.StatusCode)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/json;stream=watch" {
		s.t.Errorf("Content-Type is %q", got)
	}
	return bufio.NewReader(resp.Body)
}

func TestEventsGoThroughOneByOneAtOnce(t *testing.T) {
	lines := make(chan string)
	s := start(t, events(lines), Options{})
	r := s.watch("one") // its headers are there before any event
	for i := range 5 {
		want := fmt.Sprintf("{\"type\":\"ADDED\",\"n\":%d}\n", i)
		lines <- want // the next only when this has arrived
		if got, err := r.ReadString('\n'); err != nil || got != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestACancelledRequestIsCancelledAtTheAPIServer(t *testing.T) {
	for name, url := range map[string]string{"a get": podPath, "a watch": podsPath + "?watch=true"} {
		t.Run(name, func(t *testing.T) {
			arrived, ended := make(chan struct{}), make(chan struct{})
			s := start(t, func(w http.ResponseWriter, r *http.Request) {
				close(arrived)
				<-r.Context().Done()
				close(ended)
			}, Options{})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() {
				resp, err := s.do(ctx, "one", httptest.NewRequest("GET", url, nil))
				if err == nil {
					err = fmt.Errorf("got %d", resp.StatusCode)
					_ = resp.Body.Close() // the test fails
				}
				done <- err
			}()
			<-arrived
			cancel()
			if err := <-done; !strings.Contains(err.Error(), "canceled") {
				t.Error(err)
			}
			select {
			case <-ended:
			case <-time.After(patience):
				t.Error("the API server's request goes on")
			}
		})
	}
}

func TestACutWatchEndsInTheMiddle(t *testing.T) {
	lines := make(chan string)
	s := start(t, events(lines), Options{Rates: only(WatchCut), WatchLife: Range{100 * time.Millisecond, 200 * time.Millisecond}})
	r := s.watch("one")
	lines <- "{}\n"
	if got, err := r.ReadString('\n'); err != nil || got != "{}\n" {
		t.Fatalf("got %q, %v", got, err)
	}
	if got, err := r.ReadString('\n'); err != io.ErrUnexpectedEOF || got != "" { //nolint:errorlint // readers return it bare
		t.Errorf("got %q, %v, want a connection that was closed", got, err)
	}
	s.wantCounts(map[Kind]int64{WatchCut: 1})
}

func TestAnExpiredWatchEndsWithAnEventThatSaysSo(t *testing.T) {
	lines := make(chan string)
	s := start(t, events(lines), Options{Rates: only(ExpiredEvent), WatchLife: Range{100 * time.Millisecond, 200 * time.Millisecond}})
	r := s.watch("one")
	lines <- "{}\n"
	all, err := io.ReadAll(r)
	first, last, _ := strings.Cut(string(all), "\n")
	var event struct {
		Type   string
		Object metav1.Status
	}
	if err != nil || first != "{}" || !strings.HasSuffix(last, "\n") || json.Unmarshal([]byte(last), &event) != nil {
		t.Fatalf("got %q, %v", all, err)
	}
	if event.Type != "ERROR" || event.Object.Code != http.StatusGone || event.Object.Reason != metav1.StatusReasonExpired || event.Object.Kind != "Status" {
		t.Errorf("the last event is %s", last)
	}
	s.wantCounts(map[Kind]int64{ExpiredEvent: 1})
}

func TestAWatchLivesByTheRatesOfTheHour(t *testing.T) {
	lines := make(chan string)
	s := start(t, events(lines), Options{Rates: only(WatchCut), WatchLife: Range{200 * time.Millisecond, 200 * time.Millisecond}})
	r := s.watch("one")
	s.setRates(nil)
	time.Sleep(300 * time.Millisecond) // nothing tells of what doesn't happen
	lines <- "{}\n"
	if got, err := r.ReadString('\n'); err != nil || got != "{}\n" {
		t.Errorf("got %q, %v", got, err)
	}
	s.wantCounts(map[Kind]int64{})

	s.setRates(map[Kind]float64{WatchCut: 1})
	s.wantEnd(r)
	s.wantCounts(map[Kind]int64{WatchCut: 1})
}

func TestDelayedEventsKeepTheirOrder(t *testing.T) {
	lines := make(chan string, 20)
	s := start(t, events(lines), Options{
		Rates: Rates{Objects: map[Kind]float64{DelayedEvent: 0.5}}, EventDelay: Range{10 * time.Millisecond, 20 * time.Millisecond},
	})
	begun := time.Now()
	r := s.watch("one")
	for i := range 20 {
		lines <- fmt.Sprintln(i)
	}
	for i := range 20 {
		if got, err := r.ReadString('\n'); err != nil || got != fmt.Sprintln(i) {
			t.Fatalf("got %q, %v, want %d", got, err, i)
		}
	}
	n := s.Counts()[DelayedEvent]
	if n < 3 || n > 17 {
		t.Errorf("%d of 20 events were delayed, want about 10", n)
	}
	if took, want := time.Since(begun), time.Duration(n)*10*time.Millisecond; took < want {
		t.Errorf("took %v with %d delays, want %v or more", took, n, want)
	}
}

func TestOneControllerIsCutOffAlone(t *testing.T) {
	lines := make(chan string)
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "" {
			events(lines)(w, r)
		}
	}, Options{})
	one := s.watch("one")
	two := s.watch("two")
	if err := s.CutOff("one"); err != nil {
		t.Fatal(err)
	}
	s.wantEnd(one)
	if got, err := s.callAs("one", "GET", podPath, ""); err == nil {
		t.Errorf("the one that is cut off gets %d", got.code)
	}
	if got, err := s.callAs("two", "GET", podPath, ""); err != nil || got.code != http.StatusOK {
		t.Errorf("the other gets %v, %v", got.code, err)
	}
	lines <- "{}\n"
	if got, err := two.ReadString('\n'); err != nil || got != "{}\n" {
		t.Errorf("the watch of the other gets %q, %v", got, err)
	}
	if err := s.Restore("one"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.callAs("one", "GET", podPath, ""); err != nil || got.code != http.StatusOK {
		t.Errorf("after Restore got %v, %v", got.code, err)
	}
	if s.CutOff("three") == nil || s.Restore("three") == nil {
		t.Error("a controller that isn't there can be cut off")
	}
}

// The client reads nothing, as a frozen process: what is sent to it stands in the connection, until that is cut.
func TestAFrozenControllerIsCutOffToo(t *testing.T) {
	ended := make(chan struct{})
	var sent atomic.Int64
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.Header().Set("Content-Type", "application/json;stream=watch")
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)+"\n"); err != nil {
				return
			}
			sent.Add(1)
		}
	}, Options{})
	s.watch("one")
	eventually(t, "all buffers full", func() bool {
		before := sent.Load()
		time.Sleep(200 * time.Millisecond)
		return before > 0 && sent.Load() == before
	})
	if err := s.CutOff("one"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the watch goes on")
	}
	s.wantNoCalls("one")
}

// play sends requests of all sorts and tells what became of each.
func play(t *testing.T, seed uint64) []string {
	s := start(t, func(http.ResponseWriter, *http.Request) {}, Options{Seed: seed, Slow: Range{0, time.Microsecond}, Rates: Rates{
		Objects: map[Kind]float64{Conflict: 0.1, TooManyRequests: 0.1, InternalError: 0.1, LostReply: 0.1, CutReply: 0.1, SlowReply: 0.1},
	}})
	var fates []string
	for i := range 60 {
		before := s.Counts()
		got, err := s.callAs([]string{"one", "two"}[i%2], []string{"GET", "PATCH", "POST"}[i%3], podPath, "x")
		fate := "cut"
		if err == nil {
			fate = fmt.Sprint(got.code, s.Counts()[SlowReply]-before[SlowReply])
		}
		fates = append(fates, fate)
	}
	return fates
}

func TestTheSameSeedDrawsTheSame(t *testing.T) {
	first, again, other := play(t, 7), play(t, 7), play(t, 8)
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the same seed drew (-first +again):\n%s", diff)
	}
	if cmp.Equal(first, other) {
		t.Errorf("another seed drew the same: %v", first)
	}
}

func TestOptionsThatCanNotBeAreRefused(t *testing.T) {
	for name, o := range map[string]Options{
		"a name that isn't part of a path":   {Controllers: []string{"a/b"}},
		"no name":                            {Controllers: []string{""}},
		"a range that ends before it begins": {Slow: Range{2, 1}},
		"a rate above 1":                     {Rates: only("flood")},
		"no directory":                       {Controllers: []string{"a"}, Dir: "/nowhere/at/all\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			o.Config = &rest.Config{Host: "http://127.0.0.1:1"}
			if p, err := Start(t.Context(), o); err == nil {
				p.Close()
				t.Error("no error")
			}
		})
	}
}

func TestTheProxyEndsWithItsContextAndAllThatIsUnderWay(t *testing.T) {
	server := httptest.NewServer(events(nil))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	p, err := Start(ctx, Options{Config: &rest.Config{Host: server.URL}, Controllers: []string{"one"}, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := started{Proxy: p, t: t}
	r := s.watch("one")
	cancel()
	s.wantEnd(r)
	p.Close()
	p.Close() // as often as one likes
}

func TestAnAPIServerThatIsNotThereLooksAsOne(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	p, err := Start(t.Context(), Options{Config: &rest.Config{Host: server.URL}, Controllers: []string{"one"}, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s := started{Proxy: p, t: t}
	if got, err := s.call("GET", podPath, ""); err == nil {
		t.Errorf("got %d %s, want a closed connection", got.code, got.body)
	}
}
