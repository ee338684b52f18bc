// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func mustParse(t *testing.T, method, rawURL string) request {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	return parse(method, u)
}

func TestRequestsAreReadByTheRulesOfTheAPI(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	pools := schema.GroupResource{Group: "sandbox.opensandbox.io", Resource: "pools"}
	for name, c := range map[string]struct {
		method, url string
		want        request
	}{
		"a list of a namespace":         {"GET", "/api/v1/namespaces/a/pods", request{verb: verbList, resource: pods}},
		"a list of all namespaces":      {"GET", "/api/v1/pods?resourceVersion=0&limit=500", request{verb: verbList, resource: pods, version: "0", paged: true}},
		"a further page":                {"GET", "/api/v1/pods?limit=500&continue=x", request{verb: verbList, resource: pods, paged: true, continued: true}},
		"no limit written out":          {"GET", "/api/v1/pods?limit=0", request{verb: verbList, resource: pods}},
		"a list not older than another": {"GET", "/api/v1/pods?resourceVersion=7&resourceVersionMatch=NotOlderThan", request{verb: verbList, resource: pods, version: "7", match: "NotOlderThan"}},
		"a watch":                       {"GET", "/apis/sandbox.opensandbox.io/v1alpha1/pools?watch=true&resourceVersion=5", request{verb: verbWatch, resource: pools, version: "5"}},
		"a watch with what there is":    {"GET", "/api/v1/pods?watch=1&sendInitialEvents=true", request{verb: verbWatch, resource: pods, initialEvents: true}},
		"one object":                    {"GET", "/api/v1/namespaces/a/pods/p", request{verb: verbGet, resource: pods, name: "p"}},
		"a cluster's object":            {"GET", "/api/v1/nodes/n", request{verb: verbGet, resource: schema.GroupResource{Resource: "nodes"}, name: "n"}},
		"a namespace":                   {"PUT", "/api/v1/namespaces/a", request{verb: verbUpdate, resource: schema.GroupResource{Resource: "namespaces"}, name: "a"}},
		"a namespace's status":          {"PUT", "/api/v1/namespaces/a/status", request{verb: verbUpdate, resource: schema.GroupResource{Resource: "namespaces"}, name: "a"}},
		"a create":                      {"POST", "/api/v1/namespaces/a/pods", request{verb: verbCreate, resource: pods}},
		"a patch of a status":           {"PATCH", "/apis/sandbox.opensandbox.io/v1alpha1/namespaces/a/pools/p/status", request{verb: verbUpdate, resource: pools, name: "p"}},
		"a deletion of many":            {"DELETE", "/api/v1/namespaces/a/pods", request{verb: verbDelete, resource: pods}},
		"the version":                   {"GET", "/version", request{}},
		"what groups there are":         {"GET", "/apis", request{}},
		"what is in a group":            {"GET", "/apis/apps/v1", request{}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, mustParse(t, c.method, c.url), cmp.AllowUnexported(request{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What can meet what, as the table above choose has it: with the rate of one kind at 1.
func TestARequestMeetsOnlyWhatItCanMeet(t *testing.T) {
	const pods, pod = "/api/v1/namespaces/a/pods", "/api/v1/namespaces/a/pods/p"
	always := []Kind{TooManyRequests, InternalError}
	for name, c := range map[string]struct {
		method, url string
		want        []Kind
	}{
		"a get":                              {"GET", pod, []Kind{SlowReply}},
		"a get of any time":                  {"GET", pod + "?resourceVersion=0", []Kind{SlowReply}},
		"a consistent list":                  {"GET", pods, []Kind{SlowReply}},
		"a list of any time":                 {"GET", pods + "?resourceVersion=0", []Kind{SlowReply, StaleList}},
		"a list of any time, in so many":     {"GET", pods + "?resourceVersion=0&resourceVersionMatch=NotOlderThan&limit=500", []Kind{SlowReply, StaleList}},
		"a list of exactly that time":        {"GET", pods + "?resourceVersion=0&resourceVersionMatch=Exact", []Kind{SlowReply}},
		"a list not older than":              {"GET", pods + "?resourceVersion=9", []Kind{SlowReply}},
		"a further page of a list":           {"GET", pods + "?resourceVersion=0&continue=x", []Kind{SlowReply}},
		"a create":                           {"POST", pods, []Kind{LostReply, CutReply, SlowReply, RepeatedWrite}},
		"an update":                          {"PUT", pod, []Kind{Conflict, LostReply, CutReply, SlowReply, RepeatedWrite}},
		"a patch":                            {"PATCH", pod, []Kind{Conflict, LostReply, CutReply, SlowReply, RepeatedWrite}},
		"a delete":                           {"DELETE", pod, []Kind{LostReply, CutReply, SlowReply, RepeatedWrite}},
		"a watch from now":                   {"GET", pods + "?watch=true", nil},
		"a watch from any time":              {"GET", pods + "?watch=true&resourceVersion=0", nil},
		"a watch from a version":             {"GET", pods + "?watch=true&resourceVersion=9", []Kind{ExpiredWatch}},
		"a watch with what there is":         {"GET", pods + "?watch=true&sendInitialEvents=true", []Kind{RefusedWatchList}},
		"a watch of one object by its field": {"GET", pods + "?watch=true&fieldSelector=metadata.name%3Dp", nil},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[Kind]bool{}
			for _, kind := range append(c.want, always...) {
				want[kind] = true
			}
			req := mustParse(t, c.method, c.url)
			for _, kind := range perRequest {
				if got := choose(req, map[Kind]float64{kind: 1}, 0.5) == kind; got != want[kind] {
					t.Errorf("%s: met is %v, want %v", kind, got, want[kind])
				}
			}
		})
	}
}

func TestFaultsComeAtTheirRates(t *testing.T) {
	rates := map[Kind]float64{Conflict: 0.05, InternalError: 0.1, CutReply: 0.2, WatchCut: 0.3, DelayedEvent: 1}
	req := mustParse(t, "PATCH", "/api/v1/namespaces/a/pods/p")
	source := rand.New(rand.NewPCG(1, 2))
	const n = 20_000
	got := map[Kind]float64{}
	for range n {
		got[choose(req, rates, newDraw(source).pick)] += 1.0 / n
	}
	for kind, want := range map[Kind]float64{Conflict: 0.05, InternalError: 0.1, CutReply: 0.2, "": 0.65} {
		if math.Abs(got[kind]-want) > 0.01 {
			t.Errorf("the rate of %q is %.3f, want %.2f", kind, got[kind], want)
		}
	}
	if len(got) != 4 {
		t.Errorf("met %v, want three kinds and none", got)
	}
}

// What a watch draws for its events, however many they are, changes nothing for the requests behind it, and is the same each
// time.
func TestDrawsDependOnTheSeedAndTheOrderOfRequestsAlone(t *testing.T) {
	drawn := func(events int) (requests, ofEvents []float64) {
		source := rand.New(rand.NewPCG(1, 2))
		for range 10 {
			d := newDraw(source)
			requests = append(requests, d.pick, d.share, d.stale)
			ofEvents = append(ofEvents, d.event.Float64(), d.spans.Float64())
			for range events {
				d.event.Float64()
				d.spans.Float64()
			}
		}
		return requests, ofEvents
	}
	requests, events := drawn(1)
	again, eventsAgain := drawn(5)
	if diff := cmp.Diff(requests, again); diff != "" {
		t.Errorf("requests (-first +again):\n%s", diff)
	}
	if diff := cmp.Diff(events, eventsAgain); diff != "" {
		t.Errorf("events (-first +again):\n%s", diff)
	}
}

func TestRatesThatCanNotBeAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		rates Rates
		want  string
	}{
		"none":                           {Rates{}, ""},
		"all that there is":              {Rates{Objects: map[Kind]float64{Conflict: 0.5, SlowReply: 0.5, WatchCut: 0.5, ExpiredEvent: 0.5, DelayedEvent: 1}}, ""},
		"ten tenths, which are more":     {Rates{Objects: map[Kind]float64{Conflict: 0.1, TooManyRequests: 0.2, InternalError: 0.3, LostReply: 0.4}}, ""},
		"spans of which two would apply": {Rates{Leases: map[Kind]float64{WatchCut: 0.6, ExpiredEvent: 0.6}}, "must not sum to more than 1"},
		"an unknown kind":                {Rates{Objects: map[Kind]float64{"flood": 0.1}}, `rates of objects: there is no fault "flood"`},
		"a negative rate":                {Rates{Leases: map[Kind]float64{Conflict: -0.1}}, "rates of leases: the rate of conflict must be from 0 to 1"},
		"a rate above 1":                 {Rates{Objects: map[Kind]float64{DelayedEvent: 1.5}}, "must be from 0 to 1"},
		"a rate that is no number":       {Rates{Objects: map[Kind]float64{Conflict: math.NaN()}}, "must be from 0 to 1"},
		"rates of which two would apply": {Rates{Objects: map[Kind]float64{Conflict: 0.6, SlowReply: 0.6}}, "must not sum to more than 1"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.rates.validate()
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestRangesAreDrawnFromEndToEnd(t *testing.T) {
	r := Range{Min: time.Second, Max: 3 * time.Second}
	for share, want := range map[float64]time.Duration{0: time.Second, 0.5: 2 * time.Second, 1: 3 * time.Second} {
		if got := r.at(share); got != want {
			t.Errorf("at %v: %v, want %v", share, got, want)
		}
	}
}

func TestEveryFaultThatIsAReplyHasOne(t *testing.T) {
	want := map[Kind]int32{
		Conflict: http.StatusConflict, TooManyRequests: http.StatusTooManyRequests, InternalError: http.StatusInternalServerError,
		LostReply: http.StatusGatewayTimeout, ExpiredWatch: http.StatusGone, RefusedWatchList: http.StatusUnprocessableEntity, ExpiredEvent: http.StatusGone,
		RepeatedWrite: http.StatusInternalServerError,
	}
	for _, kind := range slices.Concat(perRequest, perSpan, perEvent) {
		status, ok := statusOf(kind, request{})
		if code := want[kind]; ok != (code != 0) || status.Code != code {
			t.Errorf("%s: %v %d, want %d", kind, ok, status.Code, code)
		}
	}
}
