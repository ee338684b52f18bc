// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

// post sends a request with a token as it is, and returns the status of the answer.
func (in *installation) post(path, raw, body string) int {
	in.t.Helper()
	req, err := http.NewRequestWithContext(in.t.Context(), http.MethodPost, "http://"+in.addr+path, strings.NewReader(body))
	if err != nil {
		in.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+raw)
	transport := taskexecutor.NewTransport()
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		in.t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		in.t.Error(err)
	}
	if err := resp.Body.Close(); err != nil {
		in.t.Error(err)
	}
	return resp.StatusCode
}

// Who has overheard a call can't repeat it, be it that the executor was killed in between.
func TestACallIsNotTakenAgainByTheNextLifeOfTheExecutor(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	const body = `[{"name":"a","process":{"command":["true"]}}]`
	raw, err := in.sign.Sign(token.Call{PodUID: podUID, Method: http.MethodPost, Path: "/setTasks", Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range []int{http.StatusOK, http.StatusUnauthorized, http.StatusUnauthorized} {
		l := in.serve(fmt.Sprint("life-", n), in.client())
		if got := in.post("/setTasks", raw, body); got != want {
			t.Errorf("life %d answered %d, want %d", n, got, want)
		}
		if got := in.post("/setTasks", raw, body); got != http.StatusUnauthorized {
			t.Errorf("life %d answered %d the second time, want 401", n, got)
		}
		l.kill()
		if log := l.readLog(); strings.Count(log, "audit=true") == 0 || !strings.Contains(log, "used before") {
			t.Errorf("life %d has no audit line of the refused call:\n%s", n, log)
		}
	}
}

// A task that is stopped, and doesn't end for SIGTERM, has ten seconds.
func TestATaskThatStaysIsKilledTenSecondsAfterItWasAskedToEnd(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	c := in.client()
	l := in.serve("life", c)
	asked := filepath.Join(t.TempDir(), "asked")
	task := taskexecutor.Task{Name: "stays", Process: taskexecutor.Process{
		Command: []string{"sh", "-c", `trap 'echo asked >> "$ASKED"' TERM; echo ready > "$ASKED"; while :; do sleep 0.05; done`},
		Env:     []taskexecutor.EnvVar{{Name: "ASKED", Value: asked}},
	}}
	if _, err := c.Set(t.Context(), []taskexecutor.Task{task}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(look) {
		if data, _ := os.ReadFile(asked); string(data) == "ready\n" { // not there yet
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the task didn't begin")
		}
	}
	begun := time.Now()
	list, err := c.Set(t.Context(), nil)
	for revision := ""; err == nil && len(list) > 0 && time.Since(begun) < patience; {
		if time.Since(begun) > time.Second && time.Since(begun) < 9*time.Second && list[0].ProcessStatus.Running == nil {
			t.Errorf("while it is being stopped it is %+v", list[0].ProcessStatus)
		}
		list, revision, err = c.Wait(t.Context(), revision, 2*time.Second)
	}
	took := time.Since(begun)
	if err != nil || len(list) > 0 || took < 10*time.Second || took > 20*time.Second {
		t.Errorf("gone after %s (%v, %v), want 10s", took, list, err)
	}
	if data, err := os.ReadFile(asked); err != nil || string(data) != "ready\nasked\n" {
		t.Errorf("it has left %q, %v, want that it was asked to end once", data, err)
	}
	if err := l.stop(); err != nil {
		t.Error(err)
	}
}

// Nobody reads what the executor prints, as while the container runtime is restarted. Tasks run on, their ends are told, and
// the executor ends when it is asked to.
func TestAnExecutorWhoseLogIsNotReadTellsHowTasksEnd(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close() //nolint:errcheck // never read from
	in.stdout = write
	l, err := in.begin("life")
	if err := errors.Join(err, write.Close()); err != nil {
		t.Fatal(err)
	}
	c := in.client()
	if err := l.healthy(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	loud := taskexecutor.Task{Name: "loud", Process: taskexecutor.Process{
		Command: []string{"sh", "-c", "yes | head -c 1000000; echo; echo the-end; exit 3"}}}
	if _, err := c.Set(t.Context(), []taskexecutor.Task{loud}); err != nil {
		t.Fatal(err)
	}
	if end := in.awaitEnd(c, "loud"); end.ExitCode != 3 || !strings.HasSuffix(end.Output, "the-end") {
		t.Errorf("it ended with %+v, want exit code 3 and its last output", end)
	}
	if err := l.stop(); err != nil {
		t.Error(err)
	}
}
