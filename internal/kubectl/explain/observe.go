// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/utils/podutil"
)

const (
	// systemNamespace is where the controller is looked for first.
	systemNamespace = "opensandbox-system"

	// maxLooked is of how many pods that are not Ready the events and nodes are read: of more, the first ones tell enough.
	maxLooked = 20
)

// Observe reads what there is to know about an object, with the rights of the user. Only the object itself must be readable.
func Observe(ctx context.Context, c client.Reader, kind string, key types.NamespacedName, now time.Time) (Facts, error) {
	o := &observer{ctx: ctx, reader: c, facts: Facts{Now: now, Kind: kind, Namespace: key.Namespace, Name: key.Name}}
	if err := o.object(key); err != nil {
		return Facts{}, err
	}
	f := &o.facts
	for _, read := range []func() error{o.pods, o.batches, o.events, o.nodes, o.quotas, o.lease} {
		if err := read(); err != nil {
			return Facts{}, err
		}
	}
	slices.Sort(f.Hidden)
	f.Hidden = slices.Compact(f.Hidden)
	return *f, nil
}

type observer struct {
	ctx    context.Context
	reader client.Reader
	facts  Facts
}

// allow takes the right to read something for optional: what is forbidden is noted, and what is not there is missing.
func (o *observer) allow(what string, err error) error {
	switch {
	case apierrors.IsForbidden(err):
		o.facts.Hidden = append(o.facts.Hidden, what)
		return nil
	case apierrors.IsNotFound(err) && !cluster.IsNotInstalled(err):
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", what, err)
	default:
		return nil
	}
}

// object reads the object, and the pool of a batch. Where there is no batch of that name there may be a pool.
func (o *observer) object(key types.NamespacedName) error {
	f := &o.facts
	if f.Kind == KindBatch {
		sb := &v1alpha1.BatchSandbox{}
		err := o.reader.Get(o.ctx, key, sb)
		switch {
		case err == nil && sb.Spec.PoolRef == "":
			f.Batch = sb
			return nil
		case err == nil:
			f.Batch, key.Name = sb, sb.Spec.PoolRef
		case !apierrors.IsNotFound(err) || cluster.IsNotInstalled(err):
			return err
		}
	}
	pool := &v1alpha1.Pool{}
	err := o.reader.Get(o.ctx, key, pool)
	switch {
	case err == nil:
		f.Pool = pool
		return nil
	case f.Kind == KindBatch:
		return o.allow("pools", err)
	case apierrors.IsNotFound(err) && !cluster.IsNotInstalled(err):
		return nil
	default:
		return err
	}
}

// poolName is the pool that matters, "" for none.
func (o *observer) poolName() string {
	f := &o.facts
	switch {
	case f.Kind == KindPool:
		return f.Name
	case f.Batch != nil:
		return f.Batch.Spec.PoolRef
	default:
		return ""
	}
}

func (o *observer) pods() error {
	f := &o.facts
	if f.Batch != nil {
		pods, err := cluster.Pods(o.ctx, o.reader, f.Batch)
		if apierrors.IsForbidden(err) {
			return o.allow("pods", err)
		}
		// An annotation that can't be read has a condition that says so.
		for _, pod := range pods {
			if pod != nil {
				f.Pods = append(f.Pods, *pod)
			}
		}
	}
	if o.poolName() == "" {
		return nil
	}
	var list corev1.PodList
	err := o.reader.List(o.ctx, &list, client.InNamespace(f.Namespace), client.MatchingLabels{v1alpha1.PoolNameLabel: o.poolName()})
	f.PoolPods = list.Items
	return o.allow("pods", err)
}

func (o *observer) batches() error {
	f := &o.facts
	if o.poolName() == "" {
		return nil
	}
	var list v1alpha1.BatchSandboxList
	err := o.reader.List(o.ctx, &list, client.InNamespace(f.Namespace))
	for i := range list.Items {
		if list.Items[i].Spec.PoolRef == o.poolName() {
			f.Batches = append(f.Batches, list.Items[i])
		}
	}
	return o.allow("batchsandboxes", err)
}

// unready are the pods that are not Ready, the batch's before the pool's, up to maxLooked.
func (o *observer) unready() []corev1.Pod {
	var pods []corev1.Pod
	for _, pod := range slices.Concat(o.facts.Pods, o.facts.PoolPods) {
		if !podutil.IsReady(&pod) && len(pods) < maxLooked && !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Name == pod.Name }) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// events reads those about the object, by its name, for they outlive it, about its pool, and about pods that are not Ready.
func (o *observer) events() error {
	f := &o.facts
	about := [][2]string{{f.Kind, f.Name}}
	if f.Kind == KindBatch && f.Pool != nil {
		about = append(about, [2]string{KindPool, f.Pool.Name})
	}
	for _, pod := range o.unready() {
		about = append(about, [2]string{"Pod", pod.Name})
	}
	for _, a := range about {
		var list corev1.EventList
		err := o.reader.List(o.ctx, &list, client.InNamespace(f.Namespace),
			client.MatchingFields{"involvedObject.kind": a[0], "involvedObject.name": a[1]})
		if err != nil {
			return o.allow("events", err)
		}
		f.Events = append(f.Events, list.Items...)
	}
	return nil
}

func (o *observer) nodes() error {
	seen := map[string]bool{"": true}
	for _, pod := range o.unready() {
		if seen[pod.Spec.NodeName] {
			continue
		}
		seen[pod.Spec.NodeName] = true
		node := &corev1.Node{}
		err := o.reader.Get(o.ctx, client.ObjectKey{Name: pod.Spec.NodeName}, node)
		if err != nil {
			return o.allow("nodes", err)
		}
		o.facts.Nodes = append(o.facts.Nodes, *node)
	}
	return nil
}

func (o *observer) quotas() error {
	var list corev1.ResourceQuotaList
	err := o.reader.List(o.ctx, &list, client.InNamespace(o.facts.Namespace))
	o.facts.Quotas = list.Items
	return o.allow("resourcequotas", err)
}

// lease reads the lease of the controller, from its usual namespace, else from any.
func (o *observer) lease() error {
	lease := &coordinationv1.Lease{}
	err := o.reader.Get(o.ctx, client.ObjectKey{Namespace: systemNamespace, Name: v1alpha1.LeaderElectionID}, lease)
	if err == nil {
		o.facts.Lease = lease
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return o.allow("leases in "+systemNamespace, err)
	}
	var list coordinationv1.LeaseList
	err = o.reader.List(o.ctx, &list, client.MatchingFields{"metadata.name": v1alpha1.LeaderElectionID})
	if err == nil && len(list.Items) == 1 { // several are of controllers for several namespaces: which is ours is not known
		o.facts.Lease = &list.Items[0]
	}
	return o.allow("leases", err)
}
