// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"opensandbox.io/controller/internal/task-executor/enter"
	"opensandbox.io/controller/internal/task-executor/sandbox"
	"opensandbox.io/controller/internal/task-executor/store"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// TestMain lets the test binary play the command: started with "enter" it becomes a task's process.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == enter.Command {
		os.Exit(enter.Main())
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("os/signal.loop"))
}

func TestParse(t *testing.T) {
	defaults := Options{ListenAddr: "0.0.0.0:5758", DataDir: "/var/lib/sandbox/tasks", LogLevel: slog.LevelInfo}
	with := func(change func(o *Options)) Options {
		o := defaults
		change(&o)
		return o
	}
	cases := map[string]struct {
		args    []string
		env     string
		want    Options
		wantErr string
	}{
		"defaults": {want: defaults},
		"one dash or two": {args: []string{"-listen-addr=127.0.0.1:1", "--data-dir", "/d"},
			want: with(func(o *Options) { o.ListenAddr, o.DataDir = "127.0.0.1:1", "/d" })},
		"the container's name from the environment": {env: "main", want: with(func(o *Options) { o.MainContainer = "main" })},
		"a flag wins over the environment": {env: "main", args: []string{"-main-container-name=other"},
			want: with(func(o *Options) { o.MainContainer = "other" })},
		"sidecar without a value": {args: []string{"-enable-sidecar-mode"}, want: with(func(o *Options) { o.Mode = sandbox.Sidecar })},
		"sidecar with a value":    {args: []string{"-enable-sidecar-mode=true"}, want: with(func(o *Options) { o.Mode = sandbox.Sidecar })},
		"no sidecar":              {args: []string{"-enable-sidecar-mode=false"}, want: with(func(o *Options) { o.Mode = sandbox.Own })},
		"sidecar as it comes":     {args: []string{"-enable-sidecar-mode=auto"}, want: defaults},
		"another log level":       {args: []string{"-log-level=debug"}, want: with(func(o *Options) { o.LogLevel = slog.LevelDebug })},
		"a bad mode":              {args: []string{"-enable-sidecar-mode=maybe"}, wantErr: "auto"},
		"a bad address":           {args: []string{"-listen-addr=5758"}, wantErr: "host:port"},
		"no data directory":       {args: []string{"-data-dir="}, wantErr: "-data-dir"},
		"an argument":             {args: []string{"serve"}, wantErr: "only flags"},
		"a flag nobody knows":     {args: []string{"-nope"}, wantErr: "nope"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var told bytes.Buffer
			got, err := parse(tc.args, func(name string) string { return map[string]string{sandbox.MainContainerEnv: tc.env}[name] }, &told)
			if (err != nil) != (tc.wantErr != "") || !strings.Contains(told.String(), tc.wantErr) {
				t.Fatalf("error %v, told %q, want %q", err, told.String(), tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := parse([]string{"-help"}, os.Getenv, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("error %v, want ErrHelp", err)
	}
}

// freeAddr returns an address nobody listens on at the moment.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nobody has connected
	return l.Addr().String()
}

// awaitHealthy waits until an executor answers.
func awaitHealthy(t *testing.T, c *taskexecutor.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		err := c.Health(ctx)
		if err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// TestRun drives the whole daemon by its client: start, long poll, stop, and an orderly end.
func TestRun(t *testing.T) {
	opts := Options{ListenAddr: freeAddr(t), DataDir: t.TempDir(), Mode: sandbox.Own, LogLevel: slog.LevelError}
	client := taskexecutor.New("http://" + opts.ListenAddr)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, opts) }()
	awaitHealthy(t, client)

	if err := run(ctx, opts); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a second executor on the same data: %v, want ErrInUse", err)
	}

	task := taskexecutor.Task{Name: "a", Process: taskexecutor.Process{Command: []string{"sh", "-c", "echo hello; exit 3"}}}
	if _, err := client.Set(t.Context(), []taskexecutor.Task{task}); err != nil {
		t.Fatal(err)
	}
	revision := ""
	for {
		tasks, rev, err := client.Wait(t.Context(), revision, 20*time.Second)
		if err != nil || rev == revision {
			t.Fatalf("no change within 20 s: %v", err)
		}
		revision = rev
		if end := tasks[0].ProcessStatus.Terminated; end != nil {
			if end.ExitCode != 3 || end.Output != "hello" {
				t.Errorf("end %+v", end)
			}
			break
		}
	}
	_, err := client.Set(t.Context(), []taskexecutor.Task{{Name: "b"}})
	var refused *taskexecutor.StatusError
	if !errors.As(err, &refused) || refused.Status != 400 || !strings.Contains(refused.Message, "command") {
		t.Errorf("a task without a command: %v, want a 400 that names it", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// The kubelet restarts the pod's containers for exactly this end.
func TestRunEndsToBeRecycledOnceItHasNoTasks(t *testing.T) {
	opts := Options{ListenAddr: freeAddr(t), DataDir: t.TempDir(), Mode: sandbox.Own, InPod: true, LogLevel: slog.LevelError}
	client := taskexecutor.New("http://" + opts.ListenAddr)
	defer client.CloseIdleConnections()
	ended := make(chan error, 1)
	go func() { ended <- run(t.Context(), opts) }()
	awaitHealthy(t, client)

	if state, err := client.Recycled(t.Context()); err != nil || state.Clean || len(state.Reasons) == 0 {
		t.Errorf("an executor that came from no recycling says %+v, %v", state, err)
	}
	task := taskexecutor.Task{Name: "a", Process: taskexecutor.Process{Command: []string{"sleep", "1000"}}}
	if _, err := client.Set(t.Context(), []taskexecutor.Task{task}); err != nil {
		t.Fatal(err)
	}
	if err := client.Recycle(t.Context(), "x"); !taskexecutor.IsConflict(err) {
		t.Errorf("with a task it answers %v, want a conflict", err)
	}
	if _, err := client.Set(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := client.Recycle(t.Context(), "x")
		if err == nil {
			break
		}
		if !taskexecutor.IsConflict(err) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if err := <-ended; !errors.Is(err, errRecycle) {
		t.Errorf("run ended with %v, want %v", err, errRecycle)
	}
}

func TestRunTellsWhatIsWrong(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nobody has connected
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		opts Options
		want string
	}{
		"an address that is taken":        {Options{ListenAddr: l.Addr().String(), DataDir: t.TempDir()}, "address already in use"},
		"a data directory that is a file": {Options{ListenAddr: "127.0.0.1:0", DataDir: file}, "data directory"},
	}
	for name, tc := range cases {
		tc.opts.Mode, tc.opts.LogLevel = sandbox.Own, slog.LevelError
		if err := run(t.Context(), tc.opts); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, tc.want)
		}
	}
}

// TestLinesStayWhole though many tasks write at once.
func TestLinesStayWhole(t *testing.T) {
	var out bytes.Buffer
	w := newLineWriter(&out)
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for range 100 {
				w.write(fmt.Sprint("t", i), "stdout", []byte("text"))
			}
		})
	}
	writers.Wait()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 800 {
		t.Fatalf("%d lines, want 800", len(lines))
	}
	for _, line := range lines {
		if len(line) != len("task=t0 stream=stdout | text") || !strings.HasSuffix(line, " stream=stdout | text") {
			t.Fatalf("line %q", line)
		}
	}
}
