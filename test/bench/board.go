// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
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
	// delivered, reported and gone count the batches that are.
	delivered, reported, gone int
}

// shown is what the watch has shown of one batch, and when first. Times that are zero are still to come.
type shown struct {
	object                    *v1alpha1.BatchSandbox // as shown last
	delivered, reported, gone time.Time
	news                      chan struct{} // closed with the delivery
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
	if it.reported.IsZero() && s.object.Spec.Replicas != nil && s.object.Status.Ready >= *s.object.Spec.Replicas {
		it.reported = s.at
		b.reported++
	}
	if it.gone.IsZero() && s.deleted {
		it.gone = s.at
		b.gone++
	}
}

// of is called with the lock held.
func (b *board) of(name string) *shown {
	it := b.batches[name]
	if it == nil {
		it = &shown{news: make(chan struct{})}
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

// counts returns how many are delivered, reported and gone.
func (b *board) counts() (delivered, reported, gone int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.delivered, b.reported, b.gone
}

// await returns when a batch is delivered.
func (b *board) await(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	select {
	case <-b.get(name).news:
		return nil
	case <-b.ended:
		return fmt.Errorf("wait for the delivery of %s: the watch has ended: %w", name, b.err)
	case <-ctx.Done():
		return fmt.Errorf("wait for the delivery of %s: %w", name, ctx.Err())
	}
}

// hasEndpoints says whether a batch has all the endpoints it asked for. They are addresses with three points each.
func hasEndpoints(sb *v1alpha1.BatchSandbox) bool {
	return sb.Spec.Replicas != nil && strings.Count(sb.Annotations[v1alpha1.EndpointsAnnotation], ".") == 3*int(*sb.Spec.Replicas)
}

// podBoard is what a watch of pods has shown.
type podBoard struct {
	*watcher

	mu    sync.Mutex
	ready map[string]time.Time // when a pod was first shown as Ready
	one   *corev1.Pod          // any of them
}

// watchPods opens the watch of the pods with a label before it returns.
func (e *env) watchPods(ctx context.Context, labels client.MatchingLabels) (*podBoard, error) {
	b := &podBoard{ready: map[string]time.Time{}}
	var err error
	b.watcher, err = watchAll(ctx, e, &corev1.PodList{}, b.see, labels)
	return b, err
}

func (b *podBoard) see(s sight[*corev1.Pod]) {
	if s.deleted || !podutil.IsReady(s.object) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, before := b.ready[s.object.Name]; !before {
		b.ready[s.object.Name] = s.at
	}
	b.one = s.object
}

// count returns how many pods were shown as Ready.
func (b *podBoard) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.ready)
}

// since returns how long after a moment each pod was Ready.
func (b *podBoard) since(begin time.Time) []time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	times := make([]time.Duration, 0, len(b.ready))
	for _, at := range b.ready {
		times = append(times, at.Sub(begin))
	}
	return times
}
