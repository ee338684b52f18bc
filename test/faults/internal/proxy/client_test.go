// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// client returns the client library's own, as a controller makes it from its kubeconfig.
func (s started) client(controller, contentType string) *rest.RESTClient {
	s.t.Helper()
	config := s.config(controller)
	config.QPS = -1
	config.APIPath, config.GroupVersion = "/api", &corev1.SchemeGroupVersion
	config.ContentType, config.AcceptContentTypes = contentType, contentType+",application/json"
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	config.DisableCompression = true // with a transport of its own, whose connections end with the test
	client, err := rest.RESTClientFor(config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(client.Client.CloseIdleConnections)
	return client
}

// Whatever format the client asks for, it knows each fault for what it is.
func TestTheClientLibraryKnowsTheFaults(t *testing.T) {
	for _, contentType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		for kind, is := range map[Kind]func(error) bool{
			Conflict: apierrors.IsConflict, InternalError: apierrors.IsInternalError, LostReply: apierrors.IsTimeout,
			CutReply: func(err error) bool { return err != nil && apierrors.ReasonForError(err) == metav1.StatusReasonUnknown },
		} {
			t.Run(contentType+" "+string(kind), func(t *testing.T) {
				var hits atomic.Int64
				s := start(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) }, Options{Rates: only(kind)})
				err := s.client("one", contentType).Patch(types.MergePatchType).AbsPath(podPath).Body([]byte("{}")).Do(t.Context()).Error()
				if !is(err) {
					t.Errorf("got %v", err)
				}
				want := int64(0)
				if kind == LostReply || kind == CutReply {
					want = 1
				}
				if got := hits.Load(); got != want {
					t.Errorf("the API server got %d requests, want %d", got, want)
				}
			})
		}
		t.Run(contentType+" a watch that is expired, refused or expires", func(t *testing.T) {
			s := start(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", contentType+";stream=watch")
				event := podEvent(t, contentType)
				_, _ = w.Write(event) // the client sees what is missing
				_ = http.NewResponseController(w).Flush()
				_, _ = w.Write(event[:3]) // the next one never comes whole
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}, Options{Rates: only(ExpiredWatch), WatchLife: Range{200 * time.Millisecond, 200 * time.Millisecond}})
			client := s.client("one", contentType)
			begin := func(parameter, value string) (watch.Interface, error) {
				return client.Get().AbsPath(podsPath).Param("watch", "true").Param(parameter, value).Watch(t.Context())
			}
			if w, err := begin("resourceVersion", "7"); !apierrors.IsResourceExpired(err) {
				t.Errorf("the start gets %v, %v", w, err)
			}
			s.setRates(map[Kind]float64{RefusedWatchList: 1})
			if w, err := begin("sendInitialEvents", "true"); !apierrors.IsInvalid(err) {
				t.Errorf("the start with what there is gets %v, %v", w, err)
			}
			s.setRates(map[Kind]float64{ExpiredEvent: 1})
			w, err := begin("resourceVersion", "7")
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			first, last := <-w.ResultChan(), <-w.ResultChan()
			if pod, ok := first.Object.(*corev1.Pod); first.Type != watch.Added || !ok || pod.Name != "p" {
				t.Errorf("the first event is %v", first)
			}
			if last.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(last.Object)) {
				t.Errorf("the last event is %v", last)
			}
			if event, ok := <-w.ResultChan(); ok {
				t.Errorf("after the last event comes %v", event)
			}
			s.wantCounts(map[Kind]int64{ExpiredWatch: 1, RefusedWatchList: 1, ExpiredEvent: 1})
		})
	}
}

func TestTheClientLibraryTriesAgainAfterTooManyRequests(t *testing.T) {
	var hits atomic.Int64
	s := start(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) }, Options{Rates: only(TooManyRequests)})
	client := s.client("one", runtime.ContentTypeJSON)
	done := make(chan error)
	go func() { done <- client.Post().AbsPath(podsPath).Body([]byte("{}")).Do(t.Context()).Error() }()
	eventually(t, "the first try refused", func() bool { return s.Counts()[TooManyRequests] > 0 })
	s.setRates(nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := hits.Load(); got != 1 {
		t.Errorf("the API server got %d requests, want 1", got)
	}
}

// podEvent is an ADDED event of a pod as the API server sends it.
func podEvent(t *testing.T, contentType string) []byte {
	t.Helper()
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	if contentType == runtime.ContentTypeJSON {
		return jsonLine(t, "ADDED", pod)
	}
	raw, err := runtime.Encode(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), pod)
	if err != nil {
		t.Error(err)
	}
	event, err := (&metav1.WatchEvent{Type: "ADDED", Object: runtime.RawExtension{Raw: raw}}).Marshal()
	if err != nil {
		t.Error(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(event))), event...)
}

func jsonLine(t *testing.T, kind string, object any) []byte {
	t.Helper()
	line, err := json.Marshal(map[string]any{"type": kind, "object": object})
	if err != nil {
		t.Error(err)
	}
	return append(line, '\n')
}

// fakeAPI is an API server for config maps of one namespace: its history is a list of changes, and a resource version is how
// many there were.
type fakeAPI struct {
	t       *testing.T
	mu      sync.Mutex
	changes []change
	changed chan struct{} // closed at the next change
}

type change struct {
	kind   string
	object *corev1.ConfigMap
}

func newFakeAPI(t *testing.T) *fakeAPI { return &fakeAPI{t: t, changed: make(chan struct{})} }

// add makes a change.
func (f *fakeAPI) add(kind, name, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes = append(f.changes, change{kind, &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "a", ResourceVersion: strconv.Itoa(len(f.changes) + 1)},
		Data:       map[string]string{"value": value},
	}})
	close(f.changed)
	f.changed = make(chan struct{})
}

// since returns the changes after a version, and what is closed when there are more.
func (f *fakeAPI) since(version int) ([]change, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes[version:], f.changed
}

// state is what the changes come to.
func (f *fakeAPI) state() map[string]string {
	changes, _ := f.since(0)
	state := map[string]string{}
	for _, c := range changes {
		state[c.object.Name] = c.object.Data["value"]
		if c.kind == "DELETED" {
			delete(state, c.object.Name)
		}
	}
	return state
}

// ServeHTTP implements [http.Handler].
func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	query := r.URL.Query()
	switch {
	case query.Get("sendInitialEvents") != "": // what it can't do
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(metav1.Status{Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid}) // the client sees what is missing
	case query.Get("watch") != "":
		version, err := strconv.Atoi(query.Get("resourceVersion"))
		if err != nil {
			f.t.Errorf("watch from %q: %v", query.Get("resourceVersion"), err)
		}
		f.watch(w, r, version)
	default:
		f.list(w)
	}
}

func (f *fakeAPI) list(w http.ResponseWriter) {
	changes, _ := f.since(0)
	items := map[string]corev1.ConfigMap{}
	for _, c := range changes {
		items[c.object.Name] = *c.object
		if c.kind == "DELETED" {
			delete(items, c.object.Name)
		}
	}
	list := corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMapList"}, ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(len(changes))}}
	for _, item := range items {
		list.Items = append(list.Items, item)
	}
	_ = json.NewEncoder(w).Encode(list) // the client sees what is missing
}

func (f *fakeAPI) watch(w http.ResponseWriter, r *http.Request, version int) {
	for {
		changes, more := f.since(version)
		for _, c := range changes {
			_, _ = w.Write(jsonLine(f.t, c.kind, c.object)) // the client sees what is missing
			version++
		}
		_ = http.NewResponseController(w).Flush() // the client sees what is missing
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

// An informer of the client library, whose watches are cut, delayed and expired, and whose lists are refused, slow and stale,
// comes to know every object, each change in its order.
func TestAnInformerSeesEveryObjectInTheEnd(t *testing.T) {
	api := newFakeAPI(t)
	s := start(t, api.ServeHTTP, Options{
		Seed: 3, Slow: Range{0, 5 * time.Millisecond}, WatchLife: Range{20 * time.Millisecond, 150 * time.Millisecond}, EventDelay: Range{0, 5 * time.Millisecond},
		Rates: Rates{Objects: map[Kind]float64{
			SlowReply: 0.05, StaleList: 0.4, ExpiredWatch: 0.1, WatchCut: 0.3, ExpiredEvent: 0.15, DelayedEvent: 0.1,
		}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	met := []Kind{StaleList, WatchCut, ExpiredWatch, ExpiredEvent, DelayedEvent}
	var backwards atomic.Int64
	var informers []cache.SharedInformer
	inform := func() {
		lw := cache.NewListWatchFromClient(s.client("one", runtime.ContentTypeJSON), "configmaps", "a", fields.Everything())
		informer := cache.NewSharedInformer(lw, &corev1.ConfigMap{}, 0)
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(before, after any) {
			if version(before) > version(after) {
				backwards.Add(1)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		informers = append(informers, informer)
		running.Go(func() { informer.RunWithContext(ctx) })
	}
	inform()
	enough := func() bool {
		counts := s.Counts()
		for _, kind := range met {
			if counts[kind] < 3 {
				return false
			}
		}
		return true
	}
	begun := time.Now()
	for i := 0; i < 300 || !enough(); i++ {
		if time.Since(begun) > 3*patience {
			t.Fatalf("this run shows too little: want 3 of each of %v, got %v", met, s.Counts())
		}
		name := fmt.Sprint("o", i%40)
		switch {
		case i%11 == 10 && api.state()[name] != "":
			api.add("DELETED", name, "")
		case api.state()[name] != "":
			api.add("MODIFIED", name, fmt.Sprint(i))
		default:
			api.add("ADDED", name, fmt.Sprint(i))
		}
		if i%25 == 24 && len(informers) < 12 {
			inform() // a process that starts anew, and may be told the past
		}
		time.Sleep(5 * time.Millisecond) // so that watches live and die meanwhile
	}
	t.Log(s.Counts())
	for i, informer := range informers {
		eventually(t, fmt.Sprintf("informer %d knows what is true", i), func() bool {
			known := map[string]string{}
			for _, object := range informer.GetStore().List() {
				if m, ok := object.(*corev1.ConfigMap); ok {
					known[m.Name] = m.Data["value"]
				}
			}
			return cmp.Equal(known, api.state())
		})
	}
	if n := backwards.Load(); n > 0 {
		t.Errorf("%d objects went back in time", n)
	}
}

func version(object any) int {
	m, _ := object.(*corev1.ConfigMap)           // 0 for what is none
	n, _ := strconv.Atoi(m.GetResourceVersion()) // the fake's own
	return n
}
