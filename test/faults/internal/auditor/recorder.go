// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// watchAgain is how long the recorder waits after a watch could not be started.
const watchAgain = 100 * time.Millisecond

// Source is the API server, reached by a way on which nothing is injected. A client.WithWatch is one.
type Source interface {
	List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error
	Watch(ctx context.Context, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error)
}

var _ Source = client.WithWatch(nil)

// Recorder writes down what becomes of all Pods, BatchSandboxes, Pools and Nodes: a list of each at its start, and every change
// since. A watch that breaks is taken up at the last revision it told; if that is too old, there is a gap, and the recording fails.
type Recorder struct {
	source Source
	clock  clock.Clock
	stop   context.CancelFunc
	ended  sync.WaitGroup
	failed chan struct{} // closed with the first error

	mu      sync.Mutex
	out     io.Writer
	history History
	changed time.Time
	err     error
}

// Record starts a recorder. Every change is written to out too, as a line of JSON. Stop ends it.
func Record(ctx context.Context, source Source, clk clock.Clock, out io.Writer) (*Recorder, error) {
	r := &Recorder{source: source, clock: clk, out: out, failed: make(chan struct{})}
	from := map[string]string{}
	for _, kind := range []string{"Node", "Pool", "BatchSandbox", "Pod"} {
		var err error
		if from[kind], err = r.list(ctx, kind); err != nil {
			return nil, err
		}
	}
	ctx, r.stop = context.WithCancel(ctx)
	for kind, revision := range from {
		r.ended.Go(func() { r.follow(ctx, kind, revision) })
	}
	return r, nil
}

// Stop ends the recording and returns the history. An error means that there is a gap in it, which nothing may be concluded from.
func (r *Recorder) Stop() (History, error) {
	r.stop()
	r.ended.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.history.sorted(), r.err
}

// SoFar is the history until now.
func (r *Recorder) SoFar() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.history)
}

// LastChange is when something last became of a Pod, BatchSandbox or Pool; zero before that.
func (r *Recorder) LastChange() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Failed is closed when the recording has failed; Stop returns why.
func (r *Recorder) Failed() <-chan struct{} { return r.failed }

// listOf is an empty list of a kind.
func listOf(kind string) client.ObjectList {
	switch kind {
	case "Pod":
		return &corev1.PodList{}
	case "BatchSandbox":
		return &v1alpha1.BatchSandboxList{}
	case "Pool":
		return &v1alpha1.PoolList{}
	default:
		return &corev1.NodeList{}
	}
}

// list records what is there, and returns the revision to watch from.
func (r *Recorder) list(ctx context.Context, kind string) (revision string, err error) {
	list := listOf(kind)
	if err := r.source.List(ctx, list); err != nil {
		return "", fmt.Errorf("list objects of kind %s: %w", kind, err)
	}
	err = meta.EachListItem(list, func(obj runtime.Object) error {
		c, err := r.changeOf(watch.Added, obj)
		if err != nil {
			return err
		}
		c.Initial = true
		return r.record(c)
	})
	if err != nil {
		return "", err
	}
	return list.GetResourceVersion(), nil
}

// follow watches a kind until ctx is done or the recording has failed.
func (r *Recorder) follow(ctx context.Context, kind, revision string) {
	for ctx.Err() == nil {
		next, err := r.watch(ctx, kind, revision)
		revision = next
		if err != nil && ctx.Err() == nil {
			r.fail(fmt.Errorf("watch objects of kind %s from revision %s: %w", kind, revision, err))
			return
		}
	}
}

// watch records until the watch breaks, and returns the last revision it told. An error can't be mended by another watch.
func (r *Recorder) watch(ctx context.Context, kind, revision string) (last string, err error) {
	w, err := r.source.Watch(ctx, listOf(kind), &client.ListOptions{
		Raw: &metav1.ListOptions{ResourceVersion: revision, AllowWatchBookmarks: true},
	})
	if err != nil {
		return revision, r.mendable(ctx, err)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return revision, nil
		case event, open := <-w.ResultChan():
			if !open {
				return revision, nil
			}
			if event.Type == watch.Error {
				return revision, r.mendable(ctx, apierrors.FromObject(event.Object))
			}
			told, err := r.take(event)
			if err != nil {
				return revision, err
			}
			revision = told
		}
	}
}

// mendable waits a moment after an error that another watch may mend, and returns any other.
func (r *Recorder) mendable(ctx context.Context, err error) error {
	if apierrors.IsGone(err) || apierrors.IsResourceExpired(err) {
		return fmt.Errorf("changes are lost, for the watch was broken for too long: %w", err)
	}
	select {
	case <-ctx.Done():
	case <-r.clock.After(watchAgain):
	}
	return nil
}

// take records what a watch tells, and returns the revision to go on from. Bookmarks tell that alone.
func (r *Recorder) take(event watch.Event) (revision string, err error) {
	obj, err := meta.Accessor(event.Object)
	if err != nil {
		return "", err
	}
	revision = obj.GetResourceVersion() // before the object is anybody else's
	if event.Type == watch.Bookmark {
		return revision, nil
	}
	c, err := r.changeOf(event.Type, event.Object)
	if err != nil {
		return "", err
	}
	return revision, r.record(c)
}

func (r *Recorder) changeOf(event watch.EventType, object runtime.Object) (Change, error) {
	obj, ok := object.(client.Object)
	if !ok {
		return Change{}, fmt.Errorf("the API server tells of a %T, which is no object", object)
	}
	names := map[watch.EventType]ChangeType{watch.Added: Added, watch.Modified: Modified, watch.Deleted: Deleted}
	revision, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		return Change{}, fmt.Errorf("put a change of %s in order: %w", obj.GetName(), err)
	}
	return Change{Time: r.clock.Now(), Revision: revision, Type: names[event], Object: essence(obj)}, nil
}

// record writes a change down.
func (r *Recorder) record(c Change) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, c)
	if _, node := c.Object.(*corev1.Node); !node { // nodes never rest: their heartbeats
		r.changed = c.Time
	}
	return c.Write(r.out)
}

func (r *Recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		close(r.failed)
	}
}

// essence is an object without what no rule looks at, so that a long history fits into memory.
func essence(obj client.Object) client.Object {
	obj.SetManagedFields(nil)
	switch o := obj.(type) {
	case *corev1.Pod:
		o.Spec = corev1.PodSpec{NodeName: o.Spec.NodeName, Containers: imagesAlone(o.Spec.Containers)}
		o.Status = corev1.PodStatus{
			Phase: o.Status.Phase, Message: o.Status.Message, PodIP: o.Status.PodIP, Conditions: o.Status.Conditions,
			ContainerStatuses: idsAlone(o.Status.ContainerStatuses), InitContainerStatuses: idsAlone(o.Status.InitContainerStatuses),
		}
	case *v1alpha1.BatchSandbox:
		o.Spec.Template, o.Spec.ShardPatches = nil, nil
	case *corev1.Node:
		o.Status = corev1.NodeStatus{Conditions: slices.DeleteFunc(o.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type != corev1.NodeReady
		})}
	}
	return obj
}

func imagesAlone(containers []corev1.Container) []corev1.Container {
	images := make([]corev1.Container, 0, len(containers))
	for _, c := range containers {
		images = append(images, corev1.Container{Name: c.Name, Image: c.Image})
	}
	return images
}

func idsAlone(statuses []corev1.ContainerStatus) []corev1.ContainerStatus {
	ids := make([]corev1.ContainerStatus, 0, len(statuses))
	for _, s := range statuses {
		ids = append(ids, corev1.ContainerStatus{Name: s.Name, ContainerID: s.ContainerID})
	}
	return ids
}
