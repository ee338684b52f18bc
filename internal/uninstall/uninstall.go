// SPDX-License-Identifier: Apache-2.0

// Package uninstall sees to it that a controller can be removed without leaving anything behind: batches and pools have
// finalizers that nobody but a controller takes off, and a controller makes a Lease and a Secret that no manifest names.
package uninstall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// Policy says what happens to batches and pools that are there when their controller is about to go.
type Policy string

const (
	// Refuse keeps the controller as long as there is a batch or a pool that nobody has deleted.
	Refuse Policy = "Refuse"
	// Delete deletes all batches, then all pools.
	Delete Policy = "Delete"
)

const (
	// look is the time between two looks at the API server.
	look = 500 * time.Millisecond
	// shown is how many objects a message names.
	shown = 5
)

// Options say what is removed.
type Options struct {
	Client client.Client
	Policy Policy

	// WatchNamespaces are the namespaces that the controller looks after; none means all.
	WatchNamespaces []string

	// Namespace is the controller's own.
	Namespace string

	// Timeout bounds how long all of it may take.
	Timeout time.Duration
}

// objects are what is known of objects of any kind.
type objects []metav1.PartialObjectMetadata

// Before is to be done while the controller still runs. It returns nil when there is no batch, no pool and no pod of one any more.
//
//	| batches and pools     | policy | result                                                       |
//	|-----------------------|--------|--------------------------------------------------------------|
//	| none                  | any    | waits until their pods are gone                              |
//	| all are being deleted | any    | waits until they and their pods are gone                     |
//	| others                | Refuse | an error that names them; nothing is changed                 |
//	| others                | Delete | deletes batches, then pools, and waits for each and for pods |
func Before(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if o.Policy == Refuse {
		if err := o.refuse(ctx); err != nil {
			return err
		}
	}
	for _, kind := range []string{"BatchSandbox", "Pool"} { // batches hold the pods of pools
		remaining := func(ctx context.Context) (objects, error) { return o.deleteAll(ctx, kind) }
		if err := untilNone(ctx, plural(kind), remaining); err != nil {
			return fmt.Errorf("%w. Only a running controller takes off their finalizers: look whether it runs, and at its log; then uninstall again", err)
		}
	}
	for _, label := range []string{v1alpha1.BatchNameLabel, v1alpha1.PoolNameLabel} {
		pods := func(ctx context.Context) (objects, error) {
			return o.list(ctx, corev1.SchemeGroupVersion.WithKind("Pod"), client.HasLabels{label})
		}
		if err := untilNone(ctx, "pods of sandboxes", pods); err != nil {
			return fmt.Errorf("%w. Look why they don't end; then uninstall again", err)
		}
	}
	return nil
}

// After is to be done once the controller was told to end: it waits for that, and deletes the Lease and the Secret it made.
func After(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	o.WatchNamespaces = []string{o.Namespace}
	controllers := func(ctx context.Context) (objects, error) {
		// The first label alone is that of many other controllers.
		return o.list(ctx, corev1.SchemeGroupVersion.WithKind("Pod"),
			client.MatchingLabels{"control-plane": "controller-manager", "app.kubernetes.io/name": "opensandbox-controller"})
	}
	if err := untilNone(ctx, "controllers", controllers); err != nil { // one that still runs may make its Lease anew
		return err
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: v1alpha1.LeaderElectionID}}
	root := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: v1alpha1.RootSecretName}}
	return errors.Join(
		client.IgnoreNotFound(o.Client.Delete(ctx, lease)),
		client.IgnoreNotFound(o.Client.Delete(ctx, root)))
}

// refuse returns an error if there is a batch or a pool that nobody has deleted.
func (o Options) refuse(ctx context.Context) error {
	var wanted []string
	for _, kind := range []string{"BatchSandbox", "Pool"} {
		found, err := o.list(ctx, v1alpha1.GroupVersion.WithKind(kind))
		if err != nil {
			return err
		}
		if found = slices.DeleteFunc(found, beingDeleted); len(found) > 0 {
			wanted = append(wanted, fmt.Sprintf("%s %s", plural(kind), found))
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	return fmt.Errorf("still there: %s. Nothing was removed. Delete all batchsandboxes and then all pools%s, and uninstall again: "+
		"their finalizers need the controller", strings.Join(wanted, "; "), o.how())
}

// how says which ones a user has to delete.
func (o Options) how() string {
	if len(o.WatchNamespaces) > 0 {
		return " in " + strings.Join(o.WatchNamespaces, ", ")
	}
	return " (kubectl delete batchsandboxes --all -A && kubectl delete pools --all -A)"
}

// deleteAll returns the objects of a kind that are there; under Delete those that are not being deleted are deleted.
func (o Options) deleteAll(ctx context.Context, kind string) (objects, error) {
	found, err := o.list(ctx, v1alpha1.GroupVersion.WithKind(kind))
	if err != nil || o.Policy != Delete {
		return found, err
	}
	for i := range found {
		if beingDeleted(found[i]) {
			continue
		}
		if err := client.IgnoreNotFound(o.Client.Delete(ctx, &found[i])); err != nil {
			return found, fmt.Errorf("delete %s: %w", client.ObjectKeyFromObject(&found[i]), err)
		}
	}
	return found, nil
}

// list returns the objects of a kind in all namespaces that are looked after; none if the API server doesn't know the kind.
func (o Options) list(ctx context.Context, gvk schema.GroupVersionKind, options ...client.ListOption) (objects, error) {
	namespaces := o.WatchNamespaces
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	var found objects
	for _, ns := range namespaces {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		err := o.Client.List(ctx, list, append(slices.Clone(options), client.InNamespace(ns))...)
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", plural(gvk.Kind), err)
		}
		for _, item := range list.Items {
			item.SetGroupVersionKind(gvk)
			found = append(found, item)
		}
	}
	return found, nil
}

// untilNone waits until there are none of these objects. An error of a look is kept, and the next look may do better.
func untilNone(ctx context.Context, what string, remaining func(context.Context) (objects, error)) error {
	var left objects
	var problem error
	err := wait.PollUntilContextCancel(ctx, look, true, func(ctx context.Context) (bool, error) {
		found, err := remaining(ctx)
		if ctx.Err() != nil {
			return false, nil // the last look that was not cut short tells more
		}
		left, problem = found, err
		return err == nil && len(found) == 0, nil
	})
	switch {
	case err == nil:
		return nil
	case problem != nil:
		return fmt.Errorf("wait until there are no %s: %w", what, problem)
	default:
		return fmt.Errorf("%s are not gone in time: %s", what, left)
	}
}

func beingDeleted(m metav1.PartialObjectMetadata) bool { return m.DeletionTimestamp != nil }

// String names the first few of them.
func (o objects) String() string {
	var names []string
	for i := range o[:min(len(o), shown)] {
		names = append(names, client.ObjectKeyFromObject(&o[i]).String())
	}
	text := strings.Join(names, ", ")
	if more := len(o) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func plural(kind string) string {
	if kind == "BatchSandbox" {
		return "batchsandboxes"
	}
	return strings.ToLower(kind) + "s"
}
