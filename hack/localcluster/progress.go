// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// progress tells a person what is going on: one line when a step begins, one every 15 s while it lasts, and one with
// the time taken when a step of more than 2 s ends.
type progress struct {
	out   io.Writer
	start time.Time
	mu    sync.Mutex
}

func newProgress(out io.Writer) *progress {
	return &progress{out: out, start: time.Now()}
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "[%5.1fs] %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

// step runs fn and keeps telling that it is not over yet.
func (p *progress) step(what string, fn func() error) error {
	p.say("%s", what)
	began := time.Now()
	over := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(15 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.say("still at it: %s (%s)", what, time.Since(began).Round(time.Second))
			case <-over:
				return
			}
		}
	}()
	err := fn()
	close(over)
	<-done
	if took := time.Since(began); err == nil && took > 2*time.Second {
		p.say("done: %s (%s)", what, took.Round(100*time.Millisecond))
	}
	return err
}

// poll calls probe every interval until it says true, fails or ctx ends.
func poll(ctx context.Context, every time.Duration, probe func() (bool, error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		ok, err := probe()
		if ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
