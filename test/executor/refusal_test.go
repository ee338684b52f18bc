// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

// aTask is a set of one task that leaves a mark if it ever runs.
func aTask(mark string) string {
	return fmt.Sprintf(`[{"name":"a","process":{"command":["touch",%q]}}]`, mark)
}

// request is a call of /setTasks as it goes over the wire.
func request(path, raw, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: pod\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", path, raw, len(body), body)
}

// signed is the token of a call of /setTasks, by a signer whose clock is this far ahead.
func signed(t *testing.T, root token.Root, pod, body string, ahead time.Duration) string {
	t.Helper()
	var clk clock.PassiveClock = clock.RealClock{}
	if ahead != 0 {
		clk = clocktesting.NewFakePassiveClock(time.Now().Add(ahead))
	}
	signer, err := token.NewSigner(root, clk)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := signer.Sign(token.Call{PodUID: pod, Method: "POST", Path: "/setTasks", Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// send writes bytes on a connection of their own, each pause apart if there is one, and returns the status of the answer and
// the connection's address.
func (in *installation) send(text []byte, pause time.Duration) (status int, from string, err error) {
	c, err := (&net.Dialer{}).DialContext(in.t.Context(), "tcp", in.addr)
	if err != nil {
		return 0, "", err
	}
	defer c.Close() //nolint:errcheck // all was read that is wanted
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, "", err
	}
	answered := make(chan error, 1)
	line := make([]byte, len("HTTP/1.1 401"))
	go func() {
		_, err := io.ReadFull(c, line)
		answered <- err
	}()
	for len(text) > 0 && err == nil {
		n := len(text)
		if pause > 0 {
			n = 1
		}
		if _, writeErr := c.Write(text[:n]); writeErr != nil {
			break // the answer says why
		}
		text = text[n:]
		select {
		case err = <-answered:
			answered <- err
			text = nil
		case <-time.After(pause):
		}
	}
	if err := <-answered; err != nil {
		return 0, "", err
	}
	_, err = fmt.Sscanf(string(line), "HTTP/1.1 %d", &status)
	return status, c.LocalAddr().String(), err
}

// auditLine waits for the line about the connection from this address.
func (l *life) auditLine(t *testing.T, from string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(look) {
		for line := range strings.Lines(l.readLog()) {
			if strings.Contains(line, "audit=true") && strings.Contains(line, "remote="+from+" ") {
				return line
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no audit line about %s:\n%s", from, l.readLog())
		}
	}
}

// Whatever is refused is answered with its status, leaves a line that says why, and starts nothing. The answer doesn't say
// why, and no line has the token.
func TestWhatIsRefusedAndTold(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	l := in.serve("life", in.client())
	stranger, err := token.NewRoot(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(t.TempDir(), "mark")
	body := aTask(mark)
	large := strings.Repeat(" ", taskexecutor.MaxBodyBytes+1)
	ours := func(body string) string { return signed(t, in.root, podUID, body, 0) }
	used := ours("[]")
	if got := in.post("/setTasks", used, "[]"); got != 200 {
		t.Fatalf("the call itself was answered with %d", got)
	}
	for name, tc := range map[string]struct {
		text       []byte
		pause      time.Duration
		want       int
		wantReason string
	}{
		"no token":                  {text: bytes.Replace(request("/setTasks", "x", body), []byte("Authorization: Bearer x\r\n"), nil, 1), want: 401, wantReason: "no token"},
		"a key of another root":     {text: request("/setTasks", signed(t, stranger, podUID, body, 0), body), want: 401, wantReason: "unknown key"},
		"an expired token":          {text: request("/setTasks", signed(t, in.root, podUID, body, -2*time.Minute), body), want: 401, wantReason: "out of its time"},
		"a token from the future":   {text: request("/setTasks", signed(t, in.root, podUID, body, 2*time.Minute), body), want: 401, wantReason: "out of its time"},
		"the token of another pod":  {text: request("/setTasks", signed(t, in.root, "another", body, 0), body), want: 401, wantReason: "another pod"},
		"a replay":                  {text: request("/setTasks", used, "[]"), want: 401, wantReason: "used before"},
		"another path":              {text: request("/tasks", ours(body), body), want: 401, wantReason: "another call"},
		"another query":             {text: request("/setTasks?a=b", ours(body), body), want: 401, wantReason: "another call"},
		"another body":              {text: request("/setTasks", ours("[]"), body), want: 401, wantReason: "another call"},
		"a body over the limit":     {text: request("/setTasks", ours(large), large), want: 413, wantReason: "larger than 1 MiB"},
		"headers byte by byte":      {text: request("/setTasks", ours(body), body), pause: 100 * time.Millisecond, want: 408, wantReason: "in time"},
		"headers over their limit":  {text: []byte("GET /getTasks HTTP/1.1\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n"), want: 431, wantReason: "too large"},
		"something else than HTTP":  {text: []byte("\x16\x03\x01\x00\r\n\r\n"), want: 400, wantReason: "no request"},
		"the recycling of a pod":    {text: request("/recycle", "x", `{"id":"x"}`), want: 401, wantReason: "malformed"},
		"an outdated, cut-off body": {text: request("/setTasks", ours(body), body+" "), want: 401, wantReason: "another call"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, from, err := in.send(tc.text, tc.pause)
			if err != nil || status != tc.want {
				t.Fatalf("status %d, %v, want %d", status, err, tc.want)
			}
			line := l.auditLine(t, from)
			if !strings.Contains(line, fmt.Sprintf("status=%d ", tc.want)) || !strings.Contains(line, tc.wantReason) {
				t.Errorf("audit line %q, want status %d and %q", line, tc.want, tc.wantReason)
			}
			if strings.Contains(line, "eyJ") { // as every token begins
				t.Errorf("the audit line has the token: %q", line)
			}
			if _, err := os.Stat(mark); !os.IsNotExist(err) {
				t.Errorf("the task was run (%v)", err)
			}
		})
	}
}

// An executor that a user starts by hand knows nobody to believe: it serves its own machine alone.
func TestWithoutARootOnlyLoopbackIsServed(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	in.env = in.env[:1]
	_, port, err := net.SplitHostPort(in.addr)
	if err != nil {
		t.Fatal(err)
	}
	l := &installation{t: t, dir: in.dir, addr: "0.0.0.0:" + port, env: in.env}
	c := taskexecutor.New("http://127.0.0.1:" + port)
	defer c.CloseIdleConnections()
	l.serve("life", c)
	if _, err := c.Set(t.Context(), nil); err != nil {
		t.Errorf("on loopback: %v", err)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	others := []string{"127.0.0.2"}
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			others = append(others, ip.IP.String())
		}
	}
	for _, ip := range others {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(ip, port), time.Second)
		if err == nil {
			t.Errorf("%s is served", ip)
			_ = c.Close()
		}
	}
}

// What an executor knows is no secret, but nobody's business in a task either.
func TestATaskSeesNothingOfWhomItsExecutorBelieves(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	c := in.client()
	in.serve("life", c)
	out := filepath.Join(t.TempDir(), "environment")
	if _, err := c.Set(t.Context(), []taskexecutor.Task{{Name: "a", Process: taskexecutor.Process{
		Command: []string{"sh", "-c", `env > "$OUT.new"; mv "$OUT.new" "$OUT"`}, Env: []taskexecutor.EnvVar{{Name: "OUT", Value: out}},
	}}}); err != nil {
		t.Fatal(err)
	}
	var env []byte
	var err error
	for deadline := time.Now().Add(patience); ; time.Sleep(look) {
		if env, err = os.ReadFile(out); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	for _, name := range []string{taskexecutor.RootCertificateEnv, taskexecutor.PodUIDEnv} {
		if strings.Contains(string(env), name) {
			t.Errorf("the task's environment has %s", name)
		}
	}
	if !strings.Contains(string(env), "PATH=") {
		t.Errorf("environment %q, want the executor's otherwise", env)
	}
}
