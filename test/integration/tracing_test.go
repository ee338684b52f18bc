// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	collectorv1 "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spanNames are the names of the spans that were received, sorted, once each.
type spanNames struct {
	mu    sync.Mutex
	names []string
}

func (n *spanNames) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	request := &collectorv1.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	if err != nil || req.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(req.URL, err), http.StatusBadRequest)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				n.names = append(n.names, span.GetName())
			}
		}
	}
	slices.Sort(n.names)
	n.names = slices.Compact(n.names)
}

func (n *spanNames) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.names, ", ")
}

// Spans are sent every five seconds: those of a delivery just now are sent because the controller ends.
func TestAControllerThatEndsSendsItsLastTraces(t *testing.T) {
	var got spanNames
	receiver := httptest.NewServer(&got)
	defer receiver.Close()
	s := newSpace(t)
	s.startExecutors()
	c := s.startController("", "--tracing-endpoint="+receiver.URL)
	s.create(taskPool("p", 1))
	s.idle("p", 1)
	s.create(makeTaskBatch("b", "p", "exit 0", 1))
	s.tasksEnded("b")
	c.signal(syscall.SIGTERM)
	if err := c.ended(); err != nil {
		t.Errorf("the controller ended with %v", err)
	}
	if want := "choose, delivery, dispatch task, patch batchsandboxes, patch batchsandboxes/status, queue"; got.String() != want {
		t.Errorf("spans %s, want %s", &got, want)
	}
}

func TestAReceiverOfTracesThatIsAwayKeepsNobodyWaiting(t *testing.T) {
	s := newSpace(t)
	c := s.startController("", "--tracing-endpoint=http://"+freeAddress(t))
	s.create(makePool("p", 0, 1, 1, 1))
	s.idle("p", 1)
	s.create(makeBatch("b", "p", 1))
	s.delivered("b", 1)
	c.signal(syscall.SIGTERM)
	if err := c.ended(); err != nil {
		t.Errorf("the controller ended with %v", err)
	}
	if log := c.log.String(); !strings.Contains(log, "traces are lost") {
		t.Errorf("the log says nothing of lost traces:\n%s", tail(log, 10))
	}
}
