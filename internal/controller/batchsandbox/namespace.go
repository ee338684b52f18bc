// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
)

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get

const (
	// namespaceAskEvery is the least time between two reads of one namespace.
	namespaceAskEvery = time.Second

	// maxNamespaces bounds the answers that are kept; losing them costs reads.
	maxNamespaces = 1024
)

// namespaces says which namespaces are being deleted. It reads one only when something happens that a deletion of the
// namespace would explain, and so needs no watch and no right to list. It is safe for concurrent use.
type namespaces struct {
	reader client.Reader
	clock  clock.PassiveClock

	mu      sync.Mutex
	answers map[string]namespaceAnswer
}

type namespaceAnswer struct {
	at   time.Time
	goes bool
}

// goes says whether a namespace is being deleted. One that can't be read counts as staying.
func (n *namespaces) goes(ctx context.Context, name string) bool {
	now := n.clock.Now()
	n.mu.Lock()
	known, asked := n.answers[name]
	n.mu.Unlock()
	if asked && now.Sub(known.at) < namespaceAskEvery {
		return known.goes
	}
	namespace := &corev1.Namespace{}
	if err := n.reader.Get(ctx, client.ObjectKey{Name: name}, namespace); err != nil {
		logf.FromContext(ctx).V(1).Info("the namespace can't be read", "reason", err.Error())
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.answers == nil || len(n.answers) >= maxNamespaces {
		n.answers = map[string]namespaceAnswer{}
	}
	n.answers[name] = namespaceAnswer{at: now, goes: namespace.DeletionTimestamp != nil}
	return n.answers[name].goes
}

// namespaceGoes says that a batch gets nothing new and is told nothing more, for its namespace is being deleted. The
// namespace is asked about only when the batch has lost sandboxes or its pool. Once it goes it never comes back.
func (r *Reconciler) namespaceGoes(ctx context.Context, obs *observed, p plan, m *memory) bool {
	if !m.namespaceGoes && (len(m.losses.untold) > 0 || losesPool(obs, p)) {
		m.namespaceGoes = r.namespaces.goes(ctx, obs.sb.Namespace)
	}
	if m.namespaceGoes {
		m.losses.untold = nil
		r.ledger.LeaveQueue(client.ObjectKeyFromObject(obs.sb))
	}
	return m.namespaceGoes
}

// losesPool says that it is news that the pool is going or gone.
func losesPool(obs *observed, p plan) bool {
	if p.problem == nil || (p.problem.reason != v1alpha1.ReasonPoolTerminating && p.problem.reason != v1alpha1.ReasonPoolNotFound) {
		return false
	}
	told := condition(obs.sb, p.problem.condition)
	return told == nil || told.Reason != p.problem.reason
}
