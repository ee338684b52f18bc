// SPDX-License-Identifier: Apache-2.0

// Package executor tests the real task-executor binary as a process of its own: killed, restarted, and driven over its port
// as the controller drives it. Tasks run in the executor's own root, so no cluster is needed.
package executor

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/utils/clock"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

const (
	// patience bounds whatever should come true. It is generous: the machine may be busy.
	patience = 60 * time.Second
	// look is the time between two looks.
	look = 5 * time.Millisecond
	// podUID is the pod that the executors under test believe to be in.
	podUID = "11111111-2222-3333-4444-555555555555"
)

// binary is the executor under test.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "executor tests:", err)
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "executor-test-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary = filepath.Join(dir, "task-executor")
	build := exec.Command("go", "build", "-o", binary, "../../cmd/task-executor")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the executor: %w: %s", err, out)
	}
	return m.Run(), nil
}

// installation is a data directory, an address, and what the controller needs to be believed. It outlives the executor's
// process.
type installation struct {
	t    *testing.T
	dir  string
	addr string
	env  []string
	root token.Root
	sign *token.Signer
	// stdout is where the executor's goes, nil for nowhere.
	stdout *os.File
}

func newInstallation(t *testing.T) *installation {
	t.Helper()
	root, err := token.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := token.NewSigner(root, clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	return &installation{t: t, dir: filepath.Join(t.TempDir(), "data"), addr: freeAddr(t), root: root, sign: signer, env: []string{
		"PATH=" + os.Getenv("PATH"), taskexecutor.PodUIDEnv + "=" + podUID,
		taskexecutor.RootCertificateEnv + "=" + base64.StdEncoding.EncodeToString(root.Certificate.Raw),
	}}
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

// client returns a client with the controller's tokens.
func (in *installation) client() *taskexecutor.Client {
	c := taskexecutor.New("http://"+in.addr, taskexecutor.WithTokens(func(method, path string, body []byte) (string, error) {
		return in.sign.Sign(token.Call{PodUID: podUID, Method: method, Path: path, Body: body})
	}))
	in.t.Cleanup(c.CloseIdleConnections)
	return c
}

// life is one process of the executor.
type life struct {
	cmd   *exec.Cmd
	log   string        // path of its log
	ended chan struct{} // closed when it has ended
	begun time.Time
}

// begin starts an executor on the installation.
func (in *installation) begin(name string) (*life, error) {
	l := &life{log: filepath.Join(in.t.TempDir(), name+".log"), ended: make(chan struct{}), begun: time.Now()}
	log, err := os.Create(l.log)
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // the executor has its own copy
	l.cmd = exec.Command(binary, "-listen-addr="+in.addr, "-data-dir="+in.dir, "-enable-sidecar-mode=false")
	l.cmd.Env, l.cmd.Stderr = in.env, log
	if in.stdout != nil {
		l.cmd.Stdout = in.stdout
	}
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the process
		_ = l.cmd.Wait() // how it ended is for the test to judge, from its log
		close(l.ended)
	}()
	in.t.Cleanup(func() { l.kill() })
	return l, nil
}

// kill kills the executor and waits for its end. One that has ended is left alone.
func (l *life) kill() {
	_ = l.cmd.Process.Signal(syscall.SIGKILL) // an error says that it has ended
	<-l.ended
}

// stop asks the executor to end, and says how it did.
func (l *life) stop() error {
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-l.ended
	if !l.cmd.ProcessState.Success() {
		return fmt.Errorf("%s; its log:\n%s", l.cmd.ProcessState, l.readLog())
	}
	return nil
}

func (l *life) readLog() string {
	data, err := os.ReadFile(l.log)
	return fmt.Sprint(string(data), errors.Join(err))
}

// serve begins a life, and waits until it serves.
func (in *installation) serve(name string, c *taskexecutor.Client) *life {
	in.t.Helper()
	l, err := in.begin(name)
	if err != nil {
		in.t.Fatal(err)
	}
	if err := l.healthy(in.t.Context(), c); err != nil {
		in.t.Fatal(err)
	}
	return l
}

// healthy waits until the executor serves.
func (l *life) healthy(ctx context.Context, c *taskexecutor.Client) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := c.Health(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-l.ended:
			return fmt.Errorf("the executor ended: %s:\n%s", l.cmd.ProcessState, l.readLog())
		case <-ctx.Done():
			return err
		case <-time.After(look):
		}
	}
}

// processesWith returns the command lines of all living processes that have one of the traces in their command line or in
// their environment.
func processesWith(traces ...string) ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, dir := range dirs {
		args, _ := os.ReadFile(dir + "/cmdline") // gone meanwhile
		env, _ := os.ReadFile(dir + "/environ")
		for _, trace := range traces {
			if strings.Contains(string(args), trace) || strings.Contains(string(env), trace) {
				found = append(found, filepath.Base(dir)+" "+strings.ReplaceAll(string(args), "\x00", " "))
				break
			}
		}
	}
	return found, nil
}

// started reports whether a process, as processesWith tells it, is a descendant of this life of the executor. What earlier lives
// have left is none.
func (l *life) started(process string) bool {
	pid, _, _ := strings.Cut(process, " ")
	for pid != "" && pid != "0" {
		if pid == fmt.Sprint(l.cmd.Process.Pid) {
			return true
		}
		data, _ := os.ReadFile("/proc/" + pid + "/stat") // gone meanwhile
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) < 2 {
			return false
		}
		pid = fields[1]
	}
	return false
}

// childrenOf returns the stat lines of the children of a process, of those too that have ended and were not collected.
func childrenOf(pid int) ([]string, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, file := range files {
		data, _ := os.ReadFile(file) // gone meanwhile
		line := string(data)
		if fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:]); len(fields) > 1 && fields[1] == fmt.Sprint(pid) {
			found = append(found, line)
		}
	}
	return found, nil
}
