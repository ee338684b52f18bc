// SPDX-License-Identifier: Apache-2.0

package taskexecutor_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"time"

	"opensandbox.io/controller/internal/task-executor/server"
	"opensandbox.io/controller/internal/task-executor/task"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

var (
	startedAt  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	finishedAt = startedAt.Add(90*time.Second + 250*time.Millisecond)
)

// memory are the tasks of an executor without processes: each runs until somebody waits for news, and ends as its command
// says: "true" and "echo" do well, others don't. The API in front of it is the executor's own.
type memory struct {
	list     []taskexecutor.Task
	revision int
	err      error // what every change is answered with, if set
	recycled taskexecutor.RecycleState
}

func (m *memory) find(name string) int {
	for i := range m.list {
		if m.list[i].Name == name {
			return i
		}
	}
	return -1
}

func (m *memory) Set(want []taskexecutor.Task) ([]taskexecutor.Task, error) {
	if m.err != nil {
		return nil, m.err
	}
	if err := taskexecutor.ValidateSet(want); err != nil {
		return nil, fmt.Errorf("%w: %w", task.ErrInvalid, err)
	}
	list := []taskexecutor.Task{}
	for _, wanted := range want {
		if i := m.find(wanted.Name); i >= 0 {
			if !reflect.DeepEqual(wanted.Process, m.list[i].Process) {
				return nil, fmt.Errorf("%w: task %q is known with another process; choose another name", task.ErrConflict, wanted.Name)
			}
			wanted = m.list[i]
		}
		if wanted.ProcessStatus == nil {
			wanted.ProcessStatus = &taskexecutor.ProcessStatus{Running: &taskexecutor.Running{StartedAt: startedAt}}
		}
		list = append(list, wanted)
	}
	m.list, m.revision = list, m.revision+1
	return list, nil
}

func (m *memory) Add(want taskexecutor.Task) (taskexecutor.Task, error) {
	if _, err := m.Set(append(m.list, want)); err != nil {
		return taskexecutor.Task{}, err
	}
	return m.list[len(m.list)-1], nil
}

func (m *memory) Get(name string) (taskexecutor.Task, error) {
	i := m.find(name)
	if i < 0 {
		return taskexecutor.Task{}, fmt.Errorf("task %q: %w", name, task.ErrNotFound)
	}
	return m.list[i], nil
}

func (m *memory) Remove(name string) error {
	i := m.find(name)
	if i < 0 {
		return fmt.Errorf("task %q: %w", name, task.ErrNotFound)
	}
	m.list = append(m.list[:i:i], m.list[i+1:]...)
	return nil
}

func (m *memory) Wait(_ context.Context, since string, _ time.Duration) ([]taskexecutor.Task, string) {
	if since == m.name() {
		m.revision++
		for i := range m.list {
			m.list[i].ProcessStatus = ended(m.list[i].Process)
		}
	}
	return m.list, m.name()
}

func (m *memory) name() string { return fmt.Sprintf("life-%d", m.revision) }

func ended(p taskexecutor.Process) *taskexecutor.ProcessStatus {
	end := taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted, Message: "exit status 0", StartedAt: startedAt, FinishedAt: finishedAt}
	switch p.Command[0] {
	case "echo":
		end.Output = p.Args[0]
	case "true":
	default:
		end.ExitCode, end.Reason, end.Message, end.Output = 7, taskexecutor.ReasonNonZeroExit, "exit status 7", "no <such> thing"
	}
	return &taskexecutor.ProcessStatus{Terminated: &end}
}

func (m *memory) Ask(string) error { return m.err }

func (m *memory) State() (taskexecutor.RecycleState, error) { return m.recycled, m.err }

func (m *memory) handler() http.Handler {
	return server.NewHandler(m, m, slog.New(slog.DiscardHandler))
}

// startExecutor serves an executor that is empty, until stop is called.
func startExecutor(guard func(http.Handler) http.Handler) (url string, stop func()) {
	handler := (&memory{list: []taskexecutor.Task{}}).handler()
	if guard != nil {
		handler = guard(handler)
	}
	srv := httptest.NewServer(handler)
	return srv.URL, srv.Close
}
