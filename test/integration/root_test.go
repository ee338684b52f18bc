// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podtemplate"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// loseRoot deletes the Secret with the root of the controller's tokens.
func (s *space) loseRoot() {
	s.t.Helper()
	s.must(s.client.Delete(s.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: v1alpha1.RootSecretName}}))
}

// rootSecret is that Secret; nil if there is none.
func (s *space) rootSecret() *corev1.Secret {
	s.t.Helper()
	secret := &corev1.Secret{}
	err := s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: v1alpha1.RootSecretName}, secret)
	if apierrors.IsNotFound(err) {
		return nil
	}
	s.must(err)
	return secret
}

// rootsOfPods are the numbers of pods by the root that their executors believe.
func (s *space) rootsOfPods() map[string]int {
	roots := map[string]int{}
	for _, pod := range s.pods() {
		roots[podtemplate.RootOf(&pod.Spec)]++
	}
	return roots
}

// runs waits until n tasks of the batch run.
func (s *space) runs(name string, n int32) {
	s.t.Helper()
	eventually(s.t, "run the tasks of "+name, func() error {
		if st := s.batch(name).Status; st.TaskRunning != n {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
}

// A controller that finds its Secret gone makes a new root. Idle pods of the old one are replaced, a few at a time; the batch
// that holds one is left alone and says what is wrong, and its pod is deleted the moment it is released.
func TestALostRootReplacesIdlePodsAndIsToldByBatchesThatHoldOthers(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	c := s.startController("")
	pool := updatePool("p", 10, 2)
	s.create(pool)
	s.idle("p", 6)
	s.create(makeTaskBatch("held", "p", "sleep 1000", 1))
	s.runs("held", 1)
	s.idle("p", 6)
	held, _, err := annotations(s.batch("held"))
	s.must(err)
	first := podtemplate.RootOf(&s.pods()[0].Spec)

	c.kill()
	s.loseRoot()
	w := s.watchPods()
	s.must(c.start())
	eventually(t, "replace the idle pods", func() error {
		roots := s.rootsOfPods()
		if len(roots) != 2 || roots[first] != 1 || s.pool("p").Status.Updated != 6 || s.pool("p").Status.Available != 6 {
			return fmt.Errorf("%d roots, %d pods of the first, pool %+v", len(roots), roots[first], s.pool("p").Status)
		}
		return nil
	})
	w.mu.Lock()
	if w.least < 4 { // of 6 idle ones, for the held one stays
		t.Errorf("%d usable pods at the least, want 4", w.least)
	}
	if w.deleted[held[0]] {
		t.Errorf("the held pod %s was deleted", held[0])
	}
	w.mu.Unlock()
	s.wantEvent("Updating", "another root")

	message := ""
	eventually(t, "tell of the held pod", func() error {
		st := s.batch("held").Status
		for _, c := range st.Conditions {
			if c.Type == v1alpha1.ConditionTasksCompleted {
				message = c.Message
			}
		}
		if st.TaskUnknown != 1 || !strings.Contains(message, "refuses the controller, whose root is not the one it got with its pod") {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	sb := s.batch("held")
	released := time.Now()
	s.must(s.client.Delete(s.ctx, sb))
	s.gone(sb)
	s.gone(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: held[0]}})
	if took := time.Since(released); took > 20*time.Second { // an executor that can't be reached costs 30 s
		t.Errorf("released after %s", took)
	}

	s.create(makeTaskBatch("next", "p", "true", 2))
	if st := s.tasksEnded("next").Status; st.TaskSucceed != 2 {
		t.Errorf("status %+v, want 2 succeeded", st)
	}
}

// wantEvent waits for an event of this reason in the test's namespace whose note has this text.
func (s *space) wantEvent(reason, text string) {
	s.t.Helper()
	eventually(s.t, "event "+reason, func() error {
		var events corev1.EventList
		s.must(s.client.List(s.ctx, &events, client.InNamespace(s.name)))
		var notes []string
		for _, e := range events.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
			notes = append(notes, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("events %q", notes)
	})
}

// The Secret is read when a controller begins to lead. Deleted later, it is not put back: whoever deletes it wants another
// root, or can restore it from a backup before the next controller leads.
func TestAControllerThatLeadsGoesOnWithoutItsSecret(t *testing.T) {
	s := newSpace(t)
	s.startExecutors()
	c := s.startController("")
	s.create(taskPool("p", 2))
	s.idle("p", 2)
	backup := s.rootSecret()
	s.loseRoot()
	s.create(makeTaskBatch("before", "p", "true", 2))
	if st := s.tasksEnded("before").Status; st.TaskSucceed != 2 {
		t.Errorf("status %+v, want 2 succeeded", st)
	}
	if s.rootSecret() != nil {
		t.Error("the Secret is back")
	}
	c.kill()
	restored := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: backup.Name}, Type: backup.Type, Data: backup.Data}
	s.create(restored)
	before := s.rootsOfPods()
	s.must(c.start())
	s.create(makeTaskBatch("after", "p", "true", 2))
	if st := s.tasksEnded("after").Status; st.TaskSucceed != 2 {
		t.Errorf("status %+v, want 2 succeeded", st)
	}
	if after := s.rootsOfPods(); len(after) != 1 || len(before) != 1 {
		t.Errorf("%d roots before, %d after the backup was restored, want 1 and 1", len(before), len(after))
	}
}

// wiretap stands between the controller and the executor of a pod and keeps what the controller says.
type wiretap struct {
	mu    sync.Mutex
	heard [][]byte // by connection
}

func (w *wiretap) calls() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	var calls [][]byte
	for _, c := range w.heard {
		calls = append(calls, bytes.Clone(c))
	}
	return calls
}

// tap listens on ip:5758 and hands everything on to ip:port.
func (s *space) tap(ip, port string) *wiretap {
	s.t.Helper()
	w := &wiretap{}
	l, err := net.Listen("tcp", ip+":5758")
	s.must(err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { w.relay(in, ip+":"+port) })
		}
	})
	s.t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return w
}

// tee keeps what is read from a connection.
type tee struct {
	io.Reader
	keep func([]byte)
}

func (r tee) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.keep(p[:n])
	return n, err
}

func (w *wiretap) relay(in net.Conn, to string) {
	defer in.Close() //nolint:errcheck // both ends are done
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close() //nolint:errcheck // both ends are done
	w.mu.Lock()
	at := len(w.heard)
	w.heard = append(w.heard, nil)
	w.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(in, out) // the controller may have gone
		_ = in.Close()
	}()
	_, _ = io.Copy(out, tee{in, func(p []byte) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.heard[at] = append(w.heard[at], p...)
	}})
	_ = out.Close()
	<-done
}

// What the controller says to an executor can be overheard in its pod, and is good for nothing: a replay is refused, as is a
// call without a token, and both leave a line in the executor's log.
func TestOnlyTheControllerStartsProcesses(t *testing.T) {
	s := newSpace(t)
	executors := s.startExecutorsOn("5759")
	s.startController("")
	s.create(taskPool("p", 1))
	s.idle("p", 1)
	ip := s.pods()[0].Status.PodIP
	overheard := s.tap(ip, "5759")
	s.create(makeTaskBatch("b", "p", "sleep 1000", 1))
	s.runs("b", 1)

	var set []byte
	for _, said := range overheard.calls() {
		if bytes.HasPrefix(said, []byte("POST /setTasks")) {
			set = said
		}
	}
	// The connection carries more than this call; up to the end of its body it is one request.
	head, rest, ok := bytes.Cut(set, []byte("\r\n\r\n"))
	if !ok || !bytes.Contains(head, []byte("Authorization: Bearer ")) {
		t.Fatalf("overheard %q", set)
	}
	length := 0
	for line := range strings.SplitSeq(string(head), "\r\n") {
		_, _ = fmt.Sscanf(line, "Content-Length: %d", &length) // other lines don't match
	}
	call := append(append(bytes.Clone(head), "\r\n\r\n"...), rest[:length]...)

	refused := func(what string, text []byte, reason string) {
		t.Helper()
		status, err := say(ip+":5759", text)
		if err != nil || status != http.StatusUnauthorized {
			t.Errorf("%s: status %d, %v, want 401", what, status, err)
		}
		eventually(t, "audit line of "+what, func() error {
			for line := range strings.Lines(executors.log.String()) {
				if strings.Contains(line, "audit=true") && strings.Contains(line, "status=401") && strings.Contains(line, reason) {
					return nil
				}
			}
			return errors.New("there is none")
		})
	}
	refused("a replay", call, "token was used before")
	const body = `[{"name":"mine","process":{"command":["true"]}}]`
	refused("a call without a token", fmt.Appendf(nil,
		"POST /setTasks HTTP/1.1\r\nHost: pod\r\nContent-Length: %d\r\n\r\n%s", len(body), body), "no token")
	stranger := taskexecutor.New("http://" + ip + ":5759")
	defer stranger.CloseIdleConnections()
	if tasks, err := stranger.Get(s.ctx); err == nil {
		t.Errorf("a stranger reads the tasks: %+v", tasks)
	}
	s.runs("b", 1) // still
}

// say sends bytes on a connection of their own, and returns the status of the answer.
func say(addr string, text []byte) (int, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close() //nolint:errcheck // all was read that is wanted
	if err := c.SetDeadline(time.Now().Add(settleTime)); err != nil {
		return 0, err
	}
	if _, err := c.Write(text); err != nil {
		return 0, err
	}
	line := make([]byte, len("HTTP/1.1 401"))
	if _, err := io.ReadFull(c, line); err != nil {
		return 0, err
	}
	status := 0
	_, err = fmt.Sscanf(string(line), "HTTP/1.1 %d", &status)
	return status, err
}
