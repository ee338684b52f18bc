// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/base64"
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
	"k8s.io/utils/clock"

	"opensandbox.io/controller/internal/task-executor/enter"
	"opensandbox.io/controller/internal/task-executor/sandbox"
	"opensandbox.io/controller/internal/task-executor/store"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
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
		env     string // of the main container's name
		mode    string // of the mode
		want    Options
		wantErr string
	}{
		"defaults": {want: defaults},
		"one dash or two": {args: []string{"-listen-addr=127.0.0.1:1", "--data-dir", "/d"},
			want: with(func(o *Options) { o.ListenAddr, o.DataDir = "127.0.0.1:1", "/d" })},
		"the container's name from the environment": {env: "main", want: with(func(o *Options) { o.MainContainer = "main" })},
		"a flag wins over the environment": {env: "main", args: []string{"-main-container-name=other"},
			want: with(func(o *Options) { o.MainContainer = "other" })},
		"sidecar without a value":      {args: []string{"-enable-sidecar-mode"}, want: with(func(o *Options) { o.Mode = sandbox.Sidecar })},
		"sidecar with a value":         {args: []string{"-enable-sidecar-mode=true"}, want: with(func(o *Options) { o.Mode = sandbox.Sidecar })},
		"no sidecar":                   {args: []string{"-enable-sidecar-mode=false"}, want: with(func(o *Options) { o.Mode = sandbox.Own })},
		"sidecar from the environment": {mode: "true", want: with(func(o *Options) { o.Mode = sandbox.Sidecar })},
		"a flag wins over the environment's mode": {mode: "true", args: []string{"-enable-sidecar-mode=false"},
			want: with(func(o *Options) { o.Mode = sandbox.Own })},
		"a bad mode in the environment": {mode: "perhaps", wantErr: "$SANDBOX_SIDECAR_MODE"},
		"sidecar as it comes":           {args: []string{"-enable-sidecar-mode=auto"}, want: defaults},
		"another log level":             {args: []string{"-log-level=debug"}, want: with(func(o *Options) { o.LogLevel = slog.LevelDebug })},
		"a bad mode":                    {args: []string{"-enable-sidecar-mode=maybe"}, wantErr: "auto"},
		"a bad address":                 {args: []string{"-listen-addr=5758"}, wantErr: "host:port"},
		"no data directory":             {args: []string{"-data-dir="}, wantErr: "-data-dir"},
		"an argument":                   {args: []string{"serve"}, wantErr: "only flags"},
		"a flag nobody knows":           {args: []string{"-nope"}, wantErr: "nope"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var told bytes.Buffer
			got, err := parse(tc.args, func(name string) string {
				return map[string]string{sandbox.MainContainerEnv: tc.env, "SANDBOX_SIDECAR_MODE": tc.mode}[name]
			}, &told)
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

// newRoot makes a root, and what the environment of an executor says of it.
func newRoot(t *testing.T) (token.Root, map[string]string) {
	t.Helper()
	root, err := token.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return root, map[string]string{
		taskexecutor.RootCertificateEnv: base64.StdEncoding.EncodeToString(root.Certificate.Raw), taskexecutor.PodUIDEnv: "the-pod",
	}
}

func TestWhereTheExecutorListensAndWhomItBelieves(t *testing.T) {
	_, env := newRoot(t)
	for name, tc := range map[string]struct {
		args    []string
		env     map[string]string
		want    string // address
		wantErr string
	}{
		"with a root, everywhere":                    {env: env, want: "0.0.0.0:5758"},
		"without, on loopback":                       {want: "127.0.0.1:5758"},
		"without, on the port that was asked for":    {args: []string{"-listen-addr=10.0.0.1:99"}, want: "127.0.0.1:99"},
		"without, where every address was asked for": {args: []string{"-listen-addr=:99"}, want: "127.0.0.1:99"},
		"without, on the loopback address asked for": {args: []string{"-listen-addr=127.0.0.9:99"}, want: "127.0.0.9:99"},
		"without, by name":                           {args: []string{"-listen-addr=localhost:99"}, want: "localhost:99"},
		"without, on IPv6":                           {args: []string{"-listen-addr=[::1]:99"}, want: "[::1]:99"},
		"without, everywhere when told so":           {args: []string{"-allow-unauthenticated"}, want: "0.0.0.0:5758"},
		"a root that is no base64":                   {env: map[string]string{taskexecutor.RootCertificateEnv: "%"}, wantErr: taskexecutor.RootCertificateEnv},
		"a root that is no certificate":              {env: map[string]string{taskexecutor.RootCertificateEnv: "AAAA"}, wantErr: taskexecutor.RootCertificateEnv},
		"a root, but nobody says which pod this is":  {env: map[string]string{taskexecutor.RootCertificateEnv: env[taskexecutor.RootCertificateEnv]}, wantErr: taskexecutor.PodUIDEnv},
	} {
		t.Run(name, func(t *testing.T) {
			var told bytes.Buffer
			opts, err := parse(tc.args, func(name string) string { return tc.env[name] }, &told)
			if (err != nil) != (tc.wantErr != "") || !strings.Contains(told.String(), tc.wantErr) {
				t.Fatalf("error %v, told %q, want %q", err, told.String(), tc.wantErr)
			}
			if err == nil && opts.address() != tc.want {
				t.Errorf("listens on %s, want %s", opts.address(), tc.want)
			}
		})
	}
}

// An executor with a root does what the controller says and nobody else.
func TestRunBelievesTheControllerAlone(t *testing.T) {
	root, env := newRoot(t)
	opts := Options{
		ListenAddr: freeAddr(t), DataDir: t.TempDir(), Mode: sandbox.Own, LogLevel: slog.LevelError,
		Root: root.Certificate, PodUID: env[taskexecutor.PodUIDEnv],
	}
	signer, err := token.NewSigner(root, clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	client := func(pod string) *taskexecutor.Client {
		c := taskexecutor.New("http://"+opts.ListenAddr, taskexecutor.WithTokens(func(method, path string, body []byte) (string, error) {
			return signer.Sign(token.Call{PodUID: pod, Method: method, Path: path, Body: body})
		}))
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, opts) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	stranger := taskexecutor.New("http://" + opts.ListenAddr)
	defer stranger.CloseIdleConnections()
	awaitHealthy(t, stranger)

	for name, c := range map[string]*taskexecutor.Client{"without a token": stranger, "with the token of another pod": client("another")} {
		var refused *taskexecutor.StatusError
		if _, err := c.Get(t.Context()); !errors.As(err, &refused) || refused.Status != 401 {
			t.Errorf("%s: %v, want a 401", name, err)
		}
	}
	controller := client(opts.PodUID)
	task := taskexecutor.Task{Name: "a/b", Process: taskexecutor.Process{Command: []string{"true"}}}
	if _, err := controller.Create(t.Context(), task); err == nil || strings.Contains(err.Error(), "401") {
		t.Errorf("a bad name with a token: %v, want a 400", err)
	}
	if _, err := controller.Set(t.Context(), []taskexecutor.Task{{Name: "x", Process: task.Process}}); err != nil {
		t.Error(err)
	}
	if _, _, err := controller.Wait(t.Context(), "a/b c", time.Second); err != nil {
		t.Errorf("a query that has to be escaped: %v", err)
	}
	if err := controller.Delete(t.Context(), "a b"); !taskexecutor.IsNotFound(err) {
		t.Errorf("a path that has to be escaped: %v, want a 404", err)
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
