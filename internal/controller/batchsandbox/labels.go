// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

const (
	// labelDelay is how long after its last delivery a batch's pods get its labels. A hold shorter than that gets none. Where a batch was
	// given pods in the last busyFor, it is busyLabelDelay: such deliveries need the API server.
	labelDelay     = 5 * time.Second
	busyLabelDelay = time.Minute
	busyFor        = time.Second

	// labelGap is the least time between the labels of all batches: 50 a second, however many pods are delivered. Where the API
	// server is slow it is labelShare times as long as the last one took, up to maxLabelGap: labels are to have a fifth of what one
	// client can do. A batch gets up to labelsPerTurn at once.
	labelGap      = 20 * time.Millisecond
	maxLabelGap   = time.Second
	labelShare    = 5
	labelsPerTurn = 10

	// labelRetry is how long after a pod changed under its label the next try is.
	labelRetry = 250 * time.Millisecond
)

// labelTurns hands out the moments at which batches label their pods, one after the other: labels may lag, and deliveries must
// not wait for them. It is safe for concurrent use.
type labelTurns struct {
	mu   sync.Mutex
	free time.Time
	took time.Duration // the last label

	delivered time.Time // when any batch was given pods last
}

// deliver notes that a batch was given pods.
func (t *labelTurns) deliver(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.delivered = now
}

// delay is how much longer a batch waits before it takes a turn, that was given its last pods so long ago.
func (t *labelTurns) delay(now time.Time, ago time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ago >= labelDelay && now.Sub(t.delivered) < busyFor {
		return max(0, busyLabelDelay-ago)
	}
	return max(0, labelDelay-ago)
}

// labelled notes how long a label took.
func (t *labelTurns) labelled(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.took = took
}

// take returns when there is a turn for so many labels, now at the earliest.
func (t *labelTurns) take(now time.Time, pods int) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	turn := t.free
	if turn.Before(now) {
		turn = now
	}
	gap := min(max(labelGap, labelShare*t.took), maxLabelGap)
	t.free = turn.Add(time.Duration(min(pods, labelsPerTurn)) * gap)
	return turn
}

// label puts the batch's labels on some of the pods it holds from a pool, and makes it their second owner, so that a
// foreground deletion of the pool spares them. It returns when to go on, 0 for never.
func (r *Reconciler) label(ctx context.Context, obs *observed, m *memory) (time.Duration, error) {
	if !obs.pooled() {
		return 0, nil
	}
	todo := unlabelled(obs)
	if len(todo) == 0 {
		return 0, nil
	}
	poolGoes := obs.pool == nil || obs.pool.DeletionTimestamp != nil // perhaps in the foreground, which only owned pods survive
	if wait := r.labels.delay(obs.now, obs.now.Sub(m.lastDelivery)); wait > 0 && m.labelTurn.IsZero() && !poolGoes {
		return wait, nil
	}
	if m.labelTurn.IsZero() {
		m.labelTurn = r.labels.take(obs.now, len(todo))
	}
	if wait := m.labelTurn.Sub(obs.now); wait > 0 && !poolGoes {
		return wait, nil
	}
	m.labelTurn = time.Time{}
	again := time.Duration(0)
	if left := len(todo) - labelsPerTurn; left > 0 {
		todo, m.labelTurn = todo[:labelsPerTurn], r.labels.take(obs.now, left)
		again = max(time.Millisecond, m.labelTurn.Sub(obs.now))
	}
	for _, index := range todo {
		err := r.labelPod(ctx, obs.sb, index, obs.sandboxes[index])
		switch {
		case apierrors.IsConflict(err):
			again = labelRetry // not every change of a pod brings its batch back here
		case err != nil:
			return 0, err
		}
	}
	return again, nil
}

// unlabelled are the indexes whose pods have no labels of the batch yet.
func unlabelled(obs *observed) []int {
	var indexes []int
	for i, s := range obs.sandboxes {
		if s.usable() && !s.labelled && obs.wanted(i) {
			indexes = append(indexes, i)
		}
	}
	return indexes
}

func (r *Reconciler) labelPod(ctx context.Context, sb *v1alpha1.BatchSandbox, index int, s sandbox) error {
	pod := &corev1.Pod{}
	if err := r.client.Get(ctx, types.NamespacedName{Namespace: sb.Namespace, Name: s.podName}, pod); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("get pod %s: %w", s.podName, err))
	}
	body := mustJSON(map[string]any{"metadata": map[string]any{
		"resourceVersion": pod.ResourceVersion,
		"uid":             s.podUID,
		"labels": map[string]string{
			v1alpha1.BatchNameLabel: sb.Name, v1alpha1.PodIndexLabel: strconv.Itoa(index),
		},
		"ownerReferences": append(withoutOwner(pod.OwnerReferences, sb.UID), metav1.OwnerReference{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "BatchSandbox", Name: sb.Name, UID: sb.UID,
		}),
	}})
	begin := r.clock.Now()
	err := r.client.Patch(ctx, pod, client.RawPatch(types.MergePatchType, []byte(body)))
	r.labels.labelled(r.clock.Since(begin))
	if apierrors.IsNotFound(err) {
		return nil // its event brings the batch back here
	}
	if err != nil {
		return fmt.Errorf("label pod %s: %w", s.podName, err)
	}
	r.ledger.RefreshPod(poolKey(sb), pod)
	return nil
}

func withoutOwner(owners []metav1.OwnerReference, uid types.UID) []metav1.OwnerReference {
	kept := slices.DeleteFunc(slices.Clone(owners), func(o metav1.OwnerReference) bool { return o.UID == uid })
	if kept == nil {
		return []metav1.OwnerReference{}
	}
	return kept
}
