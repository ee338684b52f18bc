// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

func pool(name string, bufferMin, bufferMax, poolMin, poolMax int) string {
	return fmt.Sprintf(`---
apiVersion: sandbox.opensandbox.io/v1alpha1
kind: Pool
metadata: {name: %s}
spec:
  template:
    spec:
      shareProcessNamespace: true
      terminationGracePeriodSeconds: 1
      containers:
      - {name: sandbox-container, image: "ubuntu:latest", command: ["sleep", "3600"]}
      - name: task-executor
        image: opensandbox/task-executor:dev
        securityContext: {capabilities: {add: ["SYS_PTRACE"]}}
  capacitySpec: {bufferMin: %d, bufferMax: %d, poolMin: %d, poolMax: %d}
`, name, bufferMin, bufferMax, poolMin, poolMax)
}

// batch has a task in each sandbox that runs its script in sh.
func batch(name, pool string, scripts ...string) string {
	patches := make([]string, len(scripts))
	for i, script := range scripts {
		patches[i] = fmt.Sprintf(`{spec: {process: {args: [%q]}}}`, script)
	}
	return fmt.Sprintf(`---
apiVersion: sandbox.opensandbox.io/v1alpha1
kind: BatchSandbox
metadata: {name: %s}
spec:
  replicas: %d
  poolRef: %s
  taskTemplate: {spec: {process: {command: ["sh", "-c"], args: ["true"]}}}
  shardTaskPatches: [%s]
`, name, len(scripts), pool, strings.Join(patches, ", "))
}

func TestTheDashboardFollowsPoolsAndBatchesLiveAndIsUsableWithTheKeyboard(t *testing.T) {
	s := newSpace(t, "research")
	b := newTab(t)
	b.open(s.dashboard())
	b.sees("#pools", "There is no pool here.")
	b.exec(`window.sameDocument = true`)

	// A pool comes and grows.
	s.apply(pool("python", 2, 4, 2, 12))
	b.sees("#pools .card", "python")
	b.sees("#pools .card", "3 idle") // the middle of bufferMin and bufferMax
	b.eventually("the bar has idle pods", `document.querySelector("svg.bar rect.idle") !== null && document.querySelector("svg.chart path.idle") !== null`)
	s.kubectl("", "patch", "pool", "python", "--type=merge", `-p={"spec":{"capacitySpec":{"bufferMin":4,"bufferMax":5}}}`)
	b.sees("#pools .card", "4 idle")
	b.sees("#pools .card .reason", "Last scaling")

	// A batch comes and ends, one of its tasks in failure.
	s.apply(batch("evaluation", "python", "echo scored 0.93; sleep 2", "echo cannot open the model >&2; exit 3", "echo scored 0.87; sleep 2"))
	b.sees("#batches tr", "evaluation")
	b.sees("#batches tr .state", "Running")
	b.sees("#batches tr .state", "Failed")
	b.sees("#batches tr", "2 succeeded, 1 failed")
	b.sees("#batches tr", "NonZeroExit at index 1")
	b.eventually("how it ended is read out", `document.getElementById("spoken").textContent.includes("Batch evaluation: Failed")`)

	// More demand than a pool may meet, and a task that goes on.
	s.apply(pool("browser", 1, 2, 1, 2) + batch("crawl", "browser", "sleep 600", "sleep 600") + batch("crawl-next", "browser", "sleep 600", "sleep 600") +
		batch("training", "python", "i=0; while sleep 0.5; do i=$((i+1)); echo epoch $i of 100; done", "sleep 600"))
	b.sees("#pools .card", "2 held 0 idle 0 starting 2 waited for")
	b.sees("#pools .card", "5 held 4 idle 0 starting")
	b.sees("#batches tr", "Number 1 in the queue of the pool")
	b.sees("#pools .card", "PoolMaxReached")
	b.sees("#batches tr", "2 running")
	if !eval[bool](b, `window.sameDocument`) {
		t.Error("the page was loaded again")
	}
	b.wantAccessible("the overview")
	b.picture("dashboard-light.png", "light")
	b.picture("dashboard-dark.png", "dark")

	// All of it without a mouse.
	b.exec(`document.activeElement.blur()`)
	if n := b.tabTo(".skip"); n != 1 {
		t.Errorf("the link that skips to the content is number %d", n)
	}
	b.press(kb.Enter)
	b.eventually("the content is focused", `document.activeElement.id === "main"`)
	b.tabTo(`#filter input`)
	b.press("eval")
	b.eventually("only one batch is listed", `document.querySelectorAll("#batches tr").length === 1`)
	b.sees("#shown", "1 of 4 batches")
	if !eval[bool](b, `document.activeElement.matches("#filter input") && document.activeElement.value === "eval" && location.search === "?q=eval"`) {
		t.Error("the filter lost what was typed, or the focus, or is not in the address")
	}
	b.tabTo(`#batches a[href$="/evaluation"]`)
	b.press(kb.Enter)
	b.sees("h1", "Batch evaluation")
	b.sees("#connection-text", "Live")
	b.sees(`#grid a[data-state="Failed"]`, "1")
	b.sees("#tasks tr", "1 Failed 3 NonZeroExit 1")
	b.sees("#tasks tr", "cannot open the model")
	b.sees("#conditions tr", "TasksCompleted")
	if got := eval[string](b, `document.querySelector('#grid a[data-state="Failed"]').textContent`); got != "Sandbox 1, failed, NonZeroExit" {
		t.Errorf("a cell of the grid is read out as %q", got)
	}
	b.wantAccessible("the page of a batch")
	b.picture("batch.png", "light")
	b.tabTo(`#tasks tr a[href$="/1"]`)
	b.press(kb.Enter)
	b.sees("h1", "Sandbox 1")
	b.sees("#output .stderr", "cannot open the model")
	b.wantAccessible("the page of a sandbox")
	b.wantNoProblems()
}

func TestTheOutputOfATaskIsFollowed(t *testing.T) {
	s := newSpace(t, "output")
	address := s.dashboard()
	s.apply(pool("small", 1, 1, 1, 3) + batch("train", "small", "i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo epoch $i; sleep 0.1; done"))
	b := newTab(t)
	b.open(address + "batches/" + s.name + "/train/0")
	b.sees("#output", "epoch 1")
	b.exec(`window.first = document.querySelector("#output .line")`)
	seen := eval[int](b, `document.querySelectorAll("#output .line").length`)
	b.eventually("more lines come", fmt.Sprintf(`document.querySelectorAll("#output .line").length > %d`, seen+5))
	if !eval[bool](b, `window.first.isConnected && window.first.innerText === "epoch 1"`) {
		t.Error("the first line was replaced")
	}
	if !eval[bool](b, `[...document.querySelectorAll("#output .line")].every((l, i) => l.innerText === "epoch " + (i+1))`) {
		t.Errorf("the lines are not in their order: %s", eval[string](b, `document.getElementById("output").innerText`))
	}

	b.open(address + "pools/" + s.name + "/small")
	b.sees("#batches tr", "train")
	b.sees("#conditions tr", "Ready")
	b.wantAccessible("the page of a pool")
	b.wantNoProblems()
}

func TestFiveHundredBatchesAreListedAndOnlyWhatChangedIsSent(t *testing.T) {
	const batches = 500
	s := newSpace(t, "many")
	var creating sync.WaitGroup
	for worker := range 5 {
		var list strings.Builder
		for i := worker; i < batches; i += 5 {
			fmt.Fprintf(&list, "---\napiVersion: sandbox.opensandbox.io/v1alpha1\nkind: BatchSandbox\nmetadata: {name: batch-%03d}\nspec: {replicas: 2, poolRef: nowhere}\n", i)
		}
		creating.Go(func() {
			if out, err := run(list.String(), "create", "-n", s.name, "-f", "-"); err != nil {
				t.Errorf("create batches: %v\n%s", err, out)
			}
		})
	}
	creating.Wait()
	address := s.dashboard()
	b := newTab(t)
	b.open(address)
	b.eventually("all batches are listed and judged",
		fmt.Sprintf(`document.querySelectorAll('#batches tr .state[data-look="bad"]').length === %d`, batches))
	do(b, chromedp.Navigate(address))
	b.eventually("it was painted", `performance.getEntriesByName("first-contentful-paint").length === 1`)
	t.Logf("first paint of %d batches after %.0f ms, all of the document after %.0f ms", batches,
		eval[float64](b, `performance.getEntriesByName("first-contentful-paint")[0].startTime`),
		eval[float64](b, `performance.getEntriesByType("navigation")[0].domContentLoadedEventEnd`))
	b.sees("#connection-text", "Live")
	b.eventually("the rows are there", fmt.Sprintf(`document.querySelectorAll("#batches tr").length === %d`, batches))
	b.exec(`document.querySelectorAll("#batches tr").forEach(r => { r.kept = true })`)

	before := b.bytes()
	s.kubectl("", "patch", "batchsandbox", "batch-250", "--type=merge", `-p={"spec":{"replicas":7}}`)
	b.sees("#batches tr", "0/7")
	t.Logf("one batch that changed: %d bytes", b.bytes()-before)
	if got := b.bytes() - before; got > 20_000 {
		t.Errorf("%d bytes came for one row, want as many as a few rows have", got)
	}
	before = b.bytes()
	s.kubectl("", "delete", "batchsandbox", "batch-100")
	b.eventually("its row goes", fmt.Sprintf(`document.querySelectorAll("#batches tr").length === %d`, batches-1))
	t.Logf("one batch that was deleted: %d bytes", b.bytes()-before)
	if !eval[bool](b, `[...document.querySelectorAll("#batches tr")].every(r => r.kept)`) {
		t.Error("rows were made anew")
	}
	b.exec(`document.querySelector("#filter input").focus()`)
	b.press("batch-49")
	b.eventually("the filter leaves ten of them", `document.querySelectorAll("#batches tr").length === 10`)
	b.wantNoProblems()
}
