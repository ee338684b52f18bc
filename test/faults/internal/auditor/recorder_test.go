// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// server is an API server that has pods alone: those of the list, and those that a watch tells.
type server struct {
	mu      sync.Mutex
	from    []string // the revisions that watches of pods were started from
	refuse  error    // the next watch of pods
	watches []*watch.RaceFreeFakeWatcher
}

func (s *server) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.SetResourceVersion("10")
	if pods, ok := list.(*corev1.PodList); ok {
		pods.Items = []corev1.Pod{*podAt("there", "7")}
	}
	return nil
}

func (s *server) Watch(_ context.Context, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := watch.NewRaceFreeFake()
	if _, ok := list.(*corev1.PodList); !ok {
		return w, nil
	}
	o := client.ListOptions{}
	o.ApplyOptions(opts)
	s.from = append(s.from, o.AsListOptions().ResourceVersion)
	if err := s.refuse; err != nil {
		s.refuse = nil
		return nil, err
	}
	s.watches = append(s.watches, w)
	return w, nil
}

func (s *server) watch(n int) *watch.RaceFreeFakeWatcher {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches[n]
}

func podAt(name, revision string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: revision, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "sandbox", Image: "i", Command: []string{"c"}}}},
		Status:     corev1.PodStatus{Message: Unclean},
	}
}

func expired() *metav1.Status {
	status := apierrors.NewResourceExpired("too old").Status()
	return &status
}

// inShort are the changes of a history in short.
func inShort(h History) []string {
	var all []string
	for _, c := range h {
		initial := ""
		if c.Initial {
			initial = " initially"
		}
		all = append(all, string(c.Type)+" "+c.Object.GetName()+" "+c.Object.GetResourceVersion()+initial)
	}
	return all
}

// record runs a recorder of s in a bubble of time: tell is called once all watches stand.
func record(t *testing.T, s *server, tell func()) (h History, file string, err error) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r, startErr := Record(t.Context(), s, clock.RealClock{}, &out)
		if startErr != nil {
			t.Fatal(startErr)
		}
		synctest.Wait()
		tell()
		time.Sleep(time.Second) // longer than any wait of the recorder
		synctest.Wait()
		h, err = r.Stop()
		select {
		case <-r.Failed():
			if err == nil {
				t.Error("the recording failed without an error")
			}
		default:
			if err != nil {
				t.Errorf("the recording doesn't tell that it failed: %v", err)
			}
		}
		file = out.String()
	})
	return h, file, err
}

func TestARecordingHasWhatWasThereAndEveryChange(t *testing.T) {
	s := &server{}
	h, file, err := record(t, s, func() {
		s.watch(0).Add(podAt("x", "11"))
		s.watch(0).Modify(podAt("x", "12"))
		s.watch(0).Delete(podAt("x", "13"))
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"Added there 7 initially", "Added x 11", "Modified x 12", "Deleted x 13"}
	if diff := cmp.Diff(want, inShort(h)); diff != "" {
		t.Errorf("recorded (-want +got):\n%s", diff)
	}
	pod := h[1].Object.(*corev1.Pod)
	images := []corev1.Container{{Name: "sandbox", Image: "i"}}
	if pod.Spec.NodeName != "n" || !cmp.Equal(pod.Spec.Containers, images) || pod.Status.Message != Unclean || len(pod.ManagedFields) > 0 {
		t.Errorf("recorded pod %+v, want its node, its images and its message, and neither commands nor managed fields", pod)
	}
	read, err := ReadHistory(strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(asJSON(h), asJSON(read)); diff != "" {
		t.Errorf("read from the file (-recorded +read):\n%s", diff)
	}
}

func TestAWatchThatBreaksIsTakenUp(t *testing.T) {
	for name, breaks := range map[string]func(*server){
		"the connection is cut":  func(s *server) { s.watch(0).Stop() },
		"the server has trouble": func(s *server) { s.watch(0).Error(&apierrors.NewInternalError(errors.New("trouble")).ErrStatus) },
		"the next is refused once": func(s *server) {
			s.mu.Lock()
			s.refuse = apierrors.NewTooManyRequests("slowly", 1)
			s.mu.Unlock()
			s.watch(0).Stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{}
			h, _, err := record(t, s, func() {
				s.watch(0).Add(podAt("x", "11"))
				s.watch(0).Action(watch.Bookmark, podAt("", "20"))
				synctest.Wait()
				breaks(s)
				time.Sleep(time.Second)
				s.watch(1).Delete(podAt("x", "21"))
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"Added there 7 initially", "Added x 11", "Deleted x 21"}, inShort(h)); diff != "" {
				t.Errorf("recorded (-want +got):\n%s", diff)
			}
			if first, last := s.from[0], s.from[len(s.from)-1]; first != "10" || last != "20" {
				t.Errorf("watched from %v, want from 10 and then from 20", s.from)
			}
		})
	}
}

func TestAGapIsAnError(t *testing.T) {
	for name, expires := range map[string]func(*server){
		"in a watch": func(s *server) { s.watch(0).Error(expired()) },
		"at the start of the next": func(s *server) {
			s.mu.Lock()
			s.refuse = apierrors.NewResourceExpired("too old")
			s.mu.Unlock()
			s.watch(0).Stop()
		},
		"gone, as older servers say": func(s *server) {
			s.mu.Lock()
			s.refuse = &apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusGone, Reason: metav1.StatusReasonGone}}
			s.mu.Unlock()
			s.watch(0).Stop()
		},
		"a change without a revision": func(s *server) { s.watch(0).Add(podAt("x", "")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{}
			if _, _, err := record(t, s, func() { expires(s) }); err == nil {
				t.Error("no error, want one")
			}
		})
	}
}

func TestASummaryCounts(t *testing.T) {
	s := newStory()
	s.makePool("p", 2)
	s.makePods("p", "x", "y")
	s.ask("a", "p")
	s.ask("b", "p")
	s.name("a", "x")
	s.name("a", "") // it loses it
	s.name("a", "y")
	s.ask("c", "p")
	s.name("b", "y")
	sum := Summarize(s.history, s.marks, s.audit())
	if sum.Changes != len(s.history) || sum.Deliveries != 2 || sum.Handed != 3 || sum.ByKind[DoublyHeld] != 1 || len(sum.ByKind) != 10 || len(sum.Findings) != 1 {
		t.Errorf("summary %+v of %d changes, want 2 deliveries, 3 pods handed over and one finding", sum, len(s.history))
	}
}
