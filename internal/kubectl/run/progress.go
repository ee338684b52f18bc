// SPDX-License-Identifier: Apache-2.0

package run

import (
	"time"

	"k8s.io/utils/clock"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/tasks"
)

const (
	// progressAfter is how long a run says nothing: most are over by then.
	progressAfter = 2 * time.Second
	// progressEvery is the least time between two lines.
	progressEvery = 5 * time.Second
)

// progress tells what is waited for: not at once, not often, and not again.
type progress struct {
	runner *runner
	timer  clock.Timer
	last   string
}

func (r *runner) newProgress() *progress {
	return &progress{runner: r, timer: r.factory.Clock().NewTimer(progressAfter)}
}

// due delivers when it is time to tell.
func (p *progress) due() <-chan time.Time { return p.timer.C() }

func (p *progress) tell(sb *v1alpha1.BatchSandbox) {
	p.timer.Reset(progressEvery)
	text := tasks.Progress(sb)
	if p.runner.quiet || text == p.last {
		return
	}
	p.last = text
	p.runner.tell("batchsandbox %s: %s", p.runner.batch.Name, text)
}

func (p *progress) stop() { p.timer.Stop() }
