// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// author is the controller that makes a call.
type author string

const (
	batchController author = "batch"
	poolController  author = "pool"
	rebuilder       author = "rebuild"
)

// call is a call of the API server, or of an executor, that a controller has made and waits for.
type call struct {
	task *task
	verb string
	kind kind
	name string // of the object, or the address of the executor

	// do carries the call out. It returns what the caller gets.
	do    func() (any, error)
	reply chan reply

	// soon says that a call whose answer was lost lands after the next one of its task.
	soon bool
}

type reply struct {
	value any
	err   error
}

func (c *call) String() string {
	return fmt.Sprintf("%s %s %s of %s", c.verb, c.kind, c.name, c.task)
}

// errDead is what the calls of a controller that was killed come to.
var errDead = errors.New("this process is dead")

// errLost is an answer that never came.
var errLost = apierrors.NewTimeoutError("the answer was lost", 1)

// gate holds back every call until the test lets it through, so that what happens when is the test's to say.
type gate struct {
	mu      sync.Mutex
	waiting []*call
}

// pass waits until the test lets the call through.
func (g *gate) pass(c *call) (any, error) {
	c.reply = make(chan reply)
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	g.mu.Unlock()
	r := <-c.reply
	return r.value, r.err
}

// passWithin is pass for callers that may give up: then the call is not made.
func (g *gate) passWithin(ctx context.Context, c *call) (any, error) {
	c.reply = make(chan reply)
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	g.mu.Unlock()
	select {
	case r := <-c.reply:
		return r.value, r.err
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		g.waiting = slices.DeleteFunc(g.waiting, func(other *call) bool { return other == c })
		return nil, ctx.Err()
	}
}

// calls are those that wait, in an order that doesn't depend on which goroutine was faster.
func (g *gate) calls() []*call {
	g.mu.Lock()
	defer g.mu.Unlock()
	slices.SortFunc(g.waiting, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.task.id, b.task.id), cmp.Compare(a.verb, b.verb), cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
	})
	return slices.Clone(g.waiting)
}

func (g *gate) release(c *call, r reply) {
	g.mu.Lock()
	g.waiting = slices.DeleteFunc(g.waiting, func(other *call) bool { return other == c })
	g.mu.Unlock()
	c.reply <- r
}

// apiClient is what a controller sees of the API server: reads come from the cache at once, calls go through the gate.
type apiClient struct {
	client.Client // nothing else is used

	process *process
}

// apiReader reads past the cache.
type apiReader struct{ process *process }

func (c apiClient) Get(ctx context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	if c.process.dead.Load() {
		return errDead
	}
	obj, ok := c.process.cache.objects[kindOf(into)][key.Name]
	if !ok {
		return apierrors.NewNotFound(kindOf(into).resource(), key.Name)
	}
	copyInto(obj, into)
	return nil
}

func (c apiClient) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if c.process.dead.Load() {
		return errDead
	}
	o := (&client.ListOptions{}).ApplyOptions(opts)
	fill(list, matching(sorted(c.process.cache.objects[kindOf(list)]), o), o.UnsafeDisableDeepCopy != nil && *o.UnsafeDisableDeepCopy)
	return nil
}

func (c apiClient) Create(ctx context.Context, obj client.Object, _ ...client.CreateOption) error {
	sent := clone(obj)
	return c.process.write(ctx, obj, "create", func(by *call) (client.Object, error) {
		return c.process.world.server.create(by, sent)
	})
}

func (c apiClient) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	o := (&client.DeleteOptions{}).ApplyOptions(opts)
	name := obj.GetName()
	return c.process.write(ctx, obj, "delete", func(by *call) (client.Object, error) {
		return nil, c.process.world.server.remove(by, kindOf(obj), name, o.Preconditions)
	})
}

func (c apiClient) Patch(ctx context.Context, obj client.Object, patch client.Patch, _ ...client.PatchOption) error {
	return c.process.patch(ctx, obj, patch, patchTarget{kind: kindOf(obj), name: obj.GetName()})
}

func (c apiClient) Status() client.SubResourceWriter { return statusWriter{process: c.process} }

type statusWriter struct {
	client.SubResourceWriter // nothing else is used

	process *process
}

func (w statusWriter) Patch(ctx context.Context, obj client.Object, patch client.Patch, _ ...client.SubResourcePatchOption) error {
	return w.process.patch(ctx, obj, patch, patchTarget{kind: kindOf(obj), name: obj.GetName(), status: true})
}

func (p *process) patch(ctx context.Context, obj client.Object, patch client.Patch, target patchTarget) error {
	data, err := patch.Data(obj)
	if err != nil {
		return err
	}
	verb := "patch"
	if target.status {
		verb = "patch status"
	}
	return p.write(ctx, obj, verb, func(by *call) (client.Object, error) {
		p.world.logf("    %s", data)
		return p.world.server.patch(by, target, data)
	})
}

func (p *process) write(ctx context.Context, obj client.Object, verb string, do func(by *call) (client.Object, error)) error {
	c := &call{task: taskOf(ctx), verb: verb, kind: kindOf(obj), name: obj.GetName()}
	c.do = func() (any, error) { return do(c) }
	value, err := p.pass(c)
	if result, ok := value.(client.Object); ok && result != nil && err == nil {
		copyInto(result, obj)
		if pod, ok := result.(*corev1.Pod); ok && verb == "patch" {
			p.noteFitness(pod)
		}
	}
	return err
}

func (p *process) pass(c *call) (any, error) {
	if p.dead.Load() {
		return nil, errDead
	}
	return p.world.gate.pass(c)
}

func (p *process) passWithin(ctx context.Context, c *call) (any, error) {
	if p.dead.Load() {
		return nil, errDead
	}
	return p.world.gate.passWithin(ctx, c)
}

func (r apiReader) Get(ctx context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	c := &call{task: taskOf(ctx), verb: "get", kind: kindOf(into), name: key.Name}
	c.do = func() (any, error) { return r.process.world.server.get(c.kind, key.Name) }
	value, err := r.process.pass(c)
	if err != nil {
		return err
	}
	copyInto(value.(client.Object), into) //nolint:forcetypeassert // do returns objects
	return nil
}

// pageSize is how many objects the API server returns at once, whatever was asked for.
const pageSize = 3

func (r apiReader) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	o := (&client.ListOptions{}).ApplyOptions(opts)
	c := &call{task: taskOf(ctx), verb: "list", kind: kindOf(list), name: o.Continue}
	c.do = func() (any, error) { return r.process.world.server.page(c.kind, o) }
	value, err := r.process.pass(c)
	if err != nil {
		return err
	}
	p := value.(page) //nolint:forcetypeassert // do returns pages
	for _, obj := range p.objects {
		if pod, ok := obj.(*corev1.Pod); ok {
			r.process.noteFitness(pod)
		}
	}
	fill(list, p.objects, false)
	list.SetContinue(p.next)
	return nil
}

// page is a part of a list that was begun at one resourceVersion.
type page struct {
	objects []client.Object
	next    string
}

// page reads one page of a list. All pages show the state at the first one.
func (s *server) page(k kind, o *client.ListOptions) (any, error) {
	if o.Continue != "" {
		rest := s.continued[o.Continue]
		return s.cut(rest), nil
	}
	return s.cut(matching(s.list(k), o)), nil
}

func (s *server) cut(objects []client.Object) page {
	if len(objects) <= pageSize {
		return page{objects: objects}
	}
	token := fmt.Sprintf("page-%03d", len(s.continued)+1)
	s.continued[token] = objects[pageSize:]
	return page{objects: objects[:pageSize], next: token}
}

// indexes are the fields that a cache can be asked for, as the controllers register them.
func indexed(obj client.Object, name string) string {
	switch name {
	case "batchsandbox.owner":
		if owner := metav1.GetControllerOf(obj); owner != nil && owner.Kind == "BatchSandbox" {
			return string(owner.UID)
		}
		return ""
	case "batchsandbox.pool":
		return obj.(*v1alpha1.BatchSandbox).Spec.PoolRef //nolint:forcetypeassert // only batches have this index
	default:
		panic("there is no index " + name)
	}
}

func matching(objects []client.Object, o *client.ListOptions) []client.Object {
	if o.Namespace != "" && o.Namespace != namespace {
		return nil
	}
	return slices.DeleteFunc(objects, func(obj client.Object) bool {
		if o.LabelSelector != nil && !o.LabelSelector.Matches(labelSet(obj.GetLabels())) {
			return true
		}
		if o.FieldSelector == nil {
			return false
		}
		return slices.ContainsFunc(o.FieldSelector.Requirements(), func(r fieldRequirement) bool { return indexed(obj, r.Field) != r.Value })
	})
}

func copyInto(from, into client.Object) {
	switch o := into.(type) {
	case *corev1.Pod:
		from.(*corev1.Pod).DeepCopyInto(o) //nolint:forcetypeassert // kinds don't mix
	case *v1alpha1.BatchSandbox:
		from.(*v1alpha1.BatchSandbox).DeepCopyInto(o) //nolint:forcetypeassert // kinds don't mix
	case *v1alpha1.Pool:
		from.(*v1alpha1.Pool).DeepCopyInto(o) //nolint:forcetypeassert // kinds don't mix
	case *corev1.Namespace:
		from.(*corev1.Namespace).DeepCopyInto(o) //nolint:forcetypeassert // kinds don't mix
	}
}

// fill puts objects into a list; shallow leaves what they share with the cache shared.
func fill(list client.ObjectList, objects []client.Object, shallow bool) {
	for _, obj := range objects {
		if !shallow {
			obj = clone(obj)
		}
		switch l := list.(type) {
		case *corev1.PodList:
			l.Items = append(l.Items, *obj.(*corev1.Pod)) //nolint:forcetypeassert // kinds don't mix
		case *v1alpha1.BatchSandboxList:
			l.Items = append(l.Items, *obj.(*v1alpha1.BatchSandbox)) //nolint:forcetypeassert // kinds don't mix
		case *v1alpha1.PoolList:
			l.Items = append(l.Items, *obj.(*v1alpha1.Pool)) //nolint:forcetypeassert // kinds don't mix
		}
	}
}
