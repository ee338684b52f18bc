// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"io"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// Pauses before a watch that broke is begun again.
const (
	watchAgain    = 250 * time.Millisecond
	watchAgainMax = 5 * time.Second
)

// BatchWatch looks at one batch. It needs the rights to get and to watch it, and none to list.
type BatchWatch struct {
	Client client.WithWatch
	Clock  clock.WithTicker
	Key    client.ObjectKey
	// Tell is told of a connection that broke, once for each time.
	Tell io.Writer
}

// Run calls seen with the batch as it is, and again after each change, which may repeat a state. A nil batch doesn't exist: it was deleted, or
// never made. It returns nil when seen returns false, or the error that a further try can't mend, or that of ctx.
func (w BatchWatch) Run(ctx context.Context, seen func(*v1alpha1.BatchSandbox) (more bool)) error {
	pause := watchAgain
	for {
		looked := false
		more, err := w.once(ctx, func(sb *v1alpha1.BatchSandbox) bool {
			looked = true
			return seen(sb)
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !more:
			return nil
		case IsRefused(err):
			return err
		case looked:
			pause = watchAgain
		case err != nil && pause == watchAgain:
			fmt.Fprintf(w.Tell, "Can't see batchsandbox %s at the moment, and tries again: %v\n", w.Key.Name, err)
		}
		again := w.Clock.NewTimer(pause)
		select {
		case <-again.C():
		case <-ctx.Done():
			again.Stop()
			return ctx.Err()
		}
		pause = min(2*pause, watchAgainMax)
	}
}

// once watches until the watch ends. The look comes after the watch has begun, so that no deletion is missed in between.
func (w BatchWatch) once(ctx context.Context, seen func(*v1alpha1.BatchSandbox) bool) (more bool, err error) {
	events, err := w.Client.Watch(ctx, &v1alpha1.BatchSandboxList{},
		client.InNamespace(w.Key.Namespace), client.MatchingFields{"metadata.name": w.Key.Name})
	if err != nil {
		return true, err
	}
	defer events.Stop()
	sb := &v1alpha1.BatchSandbox{}
	switch err := w.Client.Get(ctx, w.Key, sb); {
	case apierrors.IsNotFound(err) && !IsNotInstalled(err):
		sb = nil
	case err != nil:
		return true, err
	}
	if !seen(sb) {
		return false, nil
	}
	for event := range events.ResultChan() {
		sb, ok := event.Object.(*v1alpha1.BatchSandbox)
		if !ok || sb.Name != w.Key.Name {
			continue // an error, after which the watch ends, or a bookmark
		}
		if event.Type == watch.Deleted {
			sb = nil
		}
		if !seen(sb) {
			return false, nil
		}
	}
	return true, nil
}
