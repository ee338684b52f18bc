// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/podutil"
)

// board is what one watch of all batches has shown. It is what a client knows that waits for deliveries.
type board struct {
	*watcher

	mu      sync.Mutex
	batches map[string]*shown
	// delivered counts those that are, settled those that are reported, or were gone before that.
	delivered, settled int
}

// shown is what the watch has shown of one batch, and when first. Times that are zero are still to come.
type shown struct {
	object                    *v1alpha1.BatchSandbox // as shown last
	delivered, reported, gone time.Time
	news, end                 chan struct{} // closed with the delivery, and when it is gone
}

// watchBatches opens the watch before it returns.
func (e *env) watchBatches(ctx context.Context) (*board, error) {
	b := &board{batches: map[string]*shown{}}
	var err error
	b.watcher, err = watchAll(ctx, e, &v1alpha1.BatchSandboxList{}, b.see)
	return b, err
}

func (b *board) see(s sight[*v1alpha1.BatchSandbox]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	it := b.of(s.object.Name)
	it.object = s.object
	if it.delivered.IsZero() && hasEndpoints(s.object) {
		it.delivered = s.at
		b.delivered++
		close(it.news)
	}
	settled := !it.reported.IsZero() || !it.gone.IsZero()
	if it.reported.IsZero() && s.object.Spec.Replicas != nil && s.object.Status.Ready >= *s.object.Spec.Replicas {
		it.reported = s.at
	}
	if it.gone.IsZero() && s.deleted {
		it.gone = s.at
		close(it.end)
	}
	if !settled && (!it.reported.IsZero() || !it.gone.IsZero()) {
		b.settled++
	}
}

// of is called with the lock held.
func (b *board) of(name string) *shown {
	it := b.batches[name]
	if it == nil {
		it = &shown{news: make(chan struct{}), end: make(chan struct{})}
		b.batches[name] = it
	}
	return it
}

// get returns a copy of what is known of a batch.
func (b *board) get(name string) shown {
	b.mu.Lock()
	defer b.mu.Unlock()
	return *b.of(name)
}

// counts returns how many are delivered, and how many need no more waiting for.
func (b *board) counts() (delivered, settled int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.delivered, b.settled
}

// await returns when a batch is delivered.
func (b *board) await(ctx context.Context, name string) error {
	return b.waitFor(ctx, b.get(name).news, "the delivery of "+name)
}

// awaitEnd returns when a batch is gone.
func (b *board) awaitEnd(ctx context.Context, name string) error {
	return b.waitFor(ctx, b.get(name).end, "the end of "+name)
}

func (w *watcher) waitFor(ctx context.Context, news <-chan struct{}, what string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	select {
	case <-news:
		return nil
	case <-w.ended:
		return fmt.Errorf("wait for %s: the watch has ended: %w", what, errors.Join(w.err, ctx.Err()))
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", what, ctx.Err())
	}
}

// hasEndpoints says whether a batch has all the endpoints it asked for. They are addresses with three points each.
func hasEndpoints(sb *v1alpha1.BatchSandbox) bool {
	return sb.Spec.Replicas != nil && strings.Count(sb.Annotations[v1alpha1.EndpointsAnnotation], ".") == 3*int(*sb.Spec.Replicas)
}

// podBoard is what a watch of pods has shown.
type podBoard struct {
	*watcher

	mu     sync.Mutex
	ready  map[string]podSight // when a pod was first shown as Ready
	want   int
	enough chan struct{} // closed when so many are
}

type podSight struct {
	pod *corev1.Pod
	at  time.Time
}

// watchPods opens the watch of pods before it returns. want is how many are expected to become Ready.
func (e *env) watchPods(ctx context.Context, want int, which ...client.ListOption) (*podBoard, error) {
	b := &podBoard{ready: map[string]podSight{}, want: want, enough: make(chan struct{})}
	var err error
	b.watcher, err = watchAll(ctx, e, &corev1.PodList{}, b.see, which...)
	return b, err
}

func (b *podBoard) see(s sight[*corev1.Pod]) {
	if s.deleted || !podutil.IsReady(s.object) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, before := b.ready[s.object.Name]; before {
		return
	}
	b.ready[s.object.Name] = podSight{s.object, s.at}
	if len(b.ready) == b.want {
		close(b.enough)
	}
}

// any returns one of the pods that were Ready; nil if there was none.
func (b *podBoard) any() *corev1.Pod {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.ready {
		return s.pod
	}
	return nil
}

// since returns how long after a moment each pod was Ready.
func (b *podBoard) since(begin time.Time) []time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	times := make([]time.Duration, 0, len(b.ready))
	for _, s := range b.ready {
		times = append(times, s.at.Sub(begin))
	}
	return times
}
