// SPDX-License-Identifier: Apache-2.0

package taskexecutor_test

import (
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"k8s.io/utils/clock"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

// BenchmarkWaitingCalls counts what a call costs that waits for news: one for each running task. The executors are sockets that
// never answer, so that next to nothing of theirs is counted.
func BenchmarkWaitingCalls(b *testing.B) {
	const calls = 1000
	root, err := token.NewRoot(time.Now())
	if err != nil {
		b.Fatal(err)
	}
	signer, err := token.NewSigner(root, clock.RealClock{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		silent := newSilent(b)
		before := used()
		ctx, cancel := context.WithCancel(b.Context())
		transport := taskexecutor.NewTransport()
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				c := taskexecutor.New("http://"+silent.listener.Addr().String(), taskexecutor.WithTransport(transport),
					taskexecutor.WithTokens(token.ForPod(signer.Sign, "uid")))
				if _, _, err := c.Wait(ctx, "1", taskexecutor.MaxWait); err == nil {
					b.Error("a silent executor has answered")
				}
			})
		}
		silent.wait(calls)
		after := used()
		b.ReportMetric(float64(after.heap-before.heap)/calls, "heap-B/call")
		b.ReportMetric(float64(after.stacks-before.stacks)/calls, "stack-B/call")
		b.ReportMetric(float64(after.goroutines-before.goroutines)/calls, "goroutines/call")
		cancel()
		wg.Wait()
		silent.close()
	}
}

type usage struct {
	heap, stacks int64
	goroutines   int
}

func used() usage {
	for range 3 { // stacks shrink by half with each collection
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{heap: int64(m.HeapAlloc), stacks: int64(m.StackInuse), goroutines: runtime.NumGoroutine()}
}

// silent accepts connections, reads what comes first, and says nothing.
type silent struct {
	b        *testing.B
	listener net.Listener
	arrived  chan net.Conn
	conns    []net.Conn
}

func newSilent(b *testing.B) *silent {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &silent{b: b, listener: l, arrived: make(chan net.Conn)}
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				close(s.arrived)
				return
			}
			s.arrived <- c
		}
	}()
	return s
}

func (s *silent) wait(n int) {
	for range n {
		s.conns = append(s.conns, <-s.arrived)
	}
	buf := make([]byte, 4096)
	for _, c := range s.conns {
		if _, err := c.Read(buf); err != nil {
			s.b.Fatal(err)
		}
	}
}

func (s *silent) close() {
	_ = s.listener.Close()
	for _, c := range s.conns {
		_ = c.Close()
	}
}
