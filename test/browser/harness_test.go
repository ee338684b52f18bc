// SPDX-License-Identifier: Apache-2.0

// Package browser tests the dashboard of kubectl sandbox in a headless browser, against a real node with the controller deployed.
// Run: make test-browser.
package browser

import (
	"bufio"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// settleTime bounds how long anything may take to come true. It is generous: the machine may be busy.
const settleTime = 3 * time.Minute

// axe finds what makes a page hard to use for some people.
//
//go:embed third_party/axe-core/axe.min.js
var axe string

var screenshots = flag.String("screenshots", "", "folder to write the pictures of the docs to")

// space is the namespace of one test.
type space struct {
	t    *testing.T
	name string
}

func newSpace(t *testing.T, name string) *space {
	t.Helper()
	if os.Getenv("KUBECONFIG") == "" {
		t.Fatal("KUBECONFIG is not set: run `make test-browser`")
	}
	s := &space{t: t, name: name + "-" + strings.ToLower(rand.Text()[:6])}
	s.kubectl("", "create", "namespace", s.name)
	t.Cleanup(func() {
		if t.Failed() {
			for _, args := range [][]string{{"get", "pools,batchsandboxes,pods", "-o", "wide"}, {"get", "events", "--sort-by=.lastTimestamp"}} {
				out, err := run("", append([]string{"-n", s.name}, args...)...)
				t.Logf("$ kubectl %s\n%.8000s(%v)", strings.Join(args, " "), out, err)
			}
		}
		s.kubectl("", "delete", "batchsandboxes,pools", "--all", "--timeout=180s")
		s.kubectl("", "delete", "namespace", s.name, "--wait=false")
	})
	return s
}

// kubectl runs kubectl with an input in the test's namespace.
func (s *space) kubectl(input string, args ...string) string {
	s.t.Helper()
	out, err := run(input, append([]string{"-n", s.name}, args...)...)
	if err != nil {
		s.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func run(input string, args ...string) (string, error) {
	cmd := exec.Command("kubectl", args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *space) apply(yaml string) {
	s.t.Helper()
	s.kubectl(yaml, "apply", "-f", "-")
}

// dashboard starts kubectl sandbox dashboard for the namespace, and returns its address.
func (s *space) dashboard() string {
	s.t.Helper()
	plugin, err := filepath.Abs("../../bin/kubectl-sandbox")
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(plugin, "dashboard", "-n", s.name)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("start the dashboard: %v (make build)", err)
	}
	s.t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			s.t.Errorf("interrupt the dashboard: %v", err)
		}
		if err := cmd.Wait(); err != nil {
			s.t.Errorf("the dashboard ended with %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.t.Fatalf("read the dashboard's address: %v", err)
	}
	return strings.TrimSpace(line)
}

// tab is a browser's tab, and what went wrong in it.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // errors in the console, exceptions, requests of others
	received int      // bytes of messages
}

// newTab starts a browser with one tab.
func newTab(t *testing.T) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, // root has none
		chromedp.WindowSize(1360, 1040), chromedp.Flag("force-device-scale-factor", "1"),
	)
	allocated, stop := chromedp.NewExecAllocator(t.Context(), options...)
	b := &tab{t: t}
	ctx, cancel := chromedp.NewContext(allocated, chromedp.WithListener(b.observe))
	t.Cleanup(func() { cancel(); stop() })
	b.ctx = ctx
	err := chromedp.Do(ctx, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error { // starts the browser
		_, err := cdp.Call(ctx, target, network.Enable, network.EnableParams{})
		return err
	}))
	if err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	return b
}

func (b *tab) observe(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		if kind := string(e.Type); kind == "error" || kind == "warning" || kind == "assert" {
			b.problems = append(b.problems, fmt.Sprintf("console.%s: %v", kind, e.Args))
		}
	case *runtime.EventExceptionThrown:
		b.problems = append(b.problems, "exception: "+(&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			b.problems = append(b.problems, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err == nil && u.Scheme != "data" && u.Hostname() != "127.0.0.1" {
			b.problems = append(b.problems, "request of a third party: "+e.Request.URL)
		}
	case *network.EventEventSourceMessageReceived:
		b.received += len(e.Data)
	}
}

// wantNoProblems fails the test if anything was wrong so far.
func (b *tab) wantNoProblems() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.problems {
		b.t.Errorf("in the browser: %s", p)
	}
	b.problems = nil
}

func (b *tab) bytes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.received
}

// do runs an action in the page.
func do[T any](b *tab, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, settleTime)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("in the browser: %v", err)
	}
	return value
}

// eval returns the value of an expression in the page, or of what it promises.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	return do(b, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// exec runs statements in the page.
func (b *tab) exec(statements string) { b.t.Helper(); eval[int](b, statements+"; 0") }

func (b *tab) press(key string) { b.t.Helper(); do(b, chromedp.KeyEvent(key)) }

// eventually waits until an expression is true in the page.
func (b *tab) eventually(what, expression string) {
	b.t.Helper()
	deadline := time.Now().Add(settleTime)
	for !eval[bool](b, expression) {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: not within %v; the page shows:\n%s", what, settleTime, eval[string](b, `document.body.innerText`))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// sees waits until an element has a text.
func (b *tab) sees(selector, text string) {
	b.t.Helper()
	quoted, _ := json.Marshal(text)
	b.eventually(selector+" shows "+text, fmt.Sprintf(
		`[...document.querySelectorAll(%q)].some(e => e.innerText.replace(/\s+/g, " ").includes(%s))`, selector, quoted))
}

func (b *tab) open(address string) {
	b.t.Helper()
	do(b, chromedp.Navigate(address))
	b.sees("#connection-text", "Live")
}

// tabTo presses Tab until an element that matches is focused, and returns how often.
func (b *tab) tabTo(selector string) int {
	b.t.Helper()
	for n := 1; n <= 200; n++ {
		b.press(kb.Tab)
		if eval[bool](b, fmt.Sprintf(`document.activeElement.matches(%q)`, selector)) {
			b.wantVisibleFocus()
			return n
		}
	}
	b.t.Fatalf("200 times Tab didn't lead to %s", selector)
	return 0
}

// wantVisibleFocus fails the test if whoever looks can't tell where the keyboard is.
func (b *tab) wantVisibleFocus() {
	b.t.Helper()
	if !eval[bool](b, `(() => {
		const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
		return s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 && r.width > 1 && r.height > 1;
	})()`) {
		b.t.Errorf("the focus on %s can't be seen", eval[string](b, `document.activeElement.outerHTML.slice(0, 200)`))
	}
}

// scheme makes the page light or dark.
func (b *tab) scheme(name string) {
	b.t.Helper()
	do(b, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: name},
			{Name: "prefers-reduced-motion", Value: "reduce"}, // so that axe sees no colour on its way to another
		}})
		return err
	}))
}

// wantAccessible fails the test for each serious or critical finding of axe, in light and in dark.
func (b *tab) wantAccessible(page string) {
	b.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		b.exec(axe)
		findings := eval[[]string](b, `axe.run(document).then(r => {
			if (r.passes.length < 20) return ["only " + r.passes.length + " rules were checked"];
			return r.violations.filter(v => v.impact === "serious" || v.impact === "critical").map(
				v => v.impact + " " + v.id + ": " + v.help + ": " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + " " + n.failureSummary).join(" | "))
		})`)
		for _, f := range findings {
			b.t.Errorf("%s in %s: %s", page, scheme, f)
		}
	}
	b.scheme("light")
}

// picture writes what the window shows, if the pictures are wanted.
func (b *tab) picture(name, scheme string) {
	b.t.Helper()
	if *screenshots == "" {
		return
	}
	b.scheme(scheme)
	png := do(b, chromedp.CaptureScreenshot())
	if len(png) > 300<<10 {
		b.t.Errorf("%s has %d bytes, want at most 300 KiB", name, len(png))
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name), png, 0o644); err != nil {
		b.t.Error(err)
	}
	b.scheme("light")
}
