// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/latency"
	"opensandbox.io/controller/internal/utils/podutil"
)

// Starts measures how long the pods that this process makes for pools take to be Ready, by its own clock: the times that a
// pod itself tells are whole seconds. It keeps the pods that are on their way, and no other. It is safe for concurrent use.
type Starts struct {
	clock   clock.PassiveClock
	seconds prometheus.Histogram

	mu   sync.Mutex
	sent map[types.NamespacedName]time.Time // when the create was sent
}

// NewStarts returns a Starts and registers its metric.
func NewStarts(registry prometheus.Registerer, clk clock.PassiveClock) (*Starts, error) {
	s := &Starts{
		clock: clk, sent: map[types.NamespacedName]time.Time{},
		seconds: prometheus.NewHistogram(latency.Options("opensandbox_pool_pod_start_seconds",
			"Time from the create of a pool's pod, when it is sent, to the sight of the pod Ready and with an address. Recycled pods don't count.")),
	}
	if err := registry.Register(s.seconds); err != nil {
		return nil, fmt.Errorf("register the start times of pods: %w", err)
	}
	return s, nil
}

// Observe takes over what the watch shows of a pod.
func (s *Starts) Observe(pod *corev1.Pod) {
	if _, pooled := pod.Labels[v1alpha1.PoolNameLabel]; !pooled || !podutil.IsReady(pod) || pod.Status.PodIP == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	if sent, ours := s.sent[key]; ours {
		delete(s.sent, key)
		s.seconds.Observe(max(0, s.clock.Since(sent)).Seconds())
	}
}

// Forget says that a pod is gone, or was never made.
func (s *Starts) Forget(pod types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sent, pod)
}

// send notes that the create of a pod is about to be sent.
func (s *Starts) send(pod types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[pod] = s.clock.Now()
}
