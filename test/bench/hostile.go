// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/bench/internal/plot"
	"opensandbox.io/controller/test/bench/internal/report"
)

const (
	// hostileNamespace is that of the user who does harm.
	hostileNamespace = "bench-hostile"
	// hostilePool is the pool there that all wait for, and hostilePoolMax its size.
	hostilePool    = "small"
	hostilePoolMax = 5
	// hostileClients make hostileEdits changes a second in all. Every hostilePoolEdit-th is one of the pool, which has the
	// controller look at every batch that waits for it.
	hostileClients  = 8
	hostileEdits    = 100
	hostilePoolEdit = 5
	// hostileTasks is the number of batches with a task in a pod where nobody answers.
	hostileTasks = 50
)

func hostileScenario() scenario {
	return scenario{
		name: "hostile",
		about: "RATE batches of one a second for FOR from a pool of POOL: alone, beside edits of objects that are not the controller's, " +
			"and beside as many edits in another namespace of N batches that wait, are wrong or can't be served",
		sizes: sizes{N: 2000, Pool: 300, Rate: 10, For: 20 * time.Second},
		run:   runHostile,
		plot:  distributions("A hostile namespace: from when a batch of another one was due to the endpoints", plot.Log),
	}
}

// nuisance is what somebody else does meanwhile.
type nuisance struct {
	key, what string
	// prepare makes what do needs; nil for nothing.
	prepare func(ctx context.Context) error
	// do does it once; nil for nobody who does anything.
	do func(ctx context.Context, i int) error
}

func runHostile(ctx context.Context, e *env, s sizes) (findings, error) {
	pool := fixedPool("victim", s.Pool, v1alpha1.RecycleNoop)
	if err := errors.Join(e.prepareHostile(ctx), e.fresh(ctx, s.Pool, pool)); err != nil {
		return findings{}, err
	}
	var f findings
	for _, n := range []nuisance{
		{key: "alone", what: "alone"},
		{"foreign", "beside edits of objects that are not the controller's", e.makeForeign, e.editForeign},
		{"hostile", "beside the hostile namespace",
			func(ctx context.Context) error { return e.makeHostile(ctx, s.N) },
			func(ctx context.Context, i int) error { return e.editHostile(ctx, i, s.N) }},
	} {
		if err := e.suffer(ctx, s, pool, n, &f); err != nil {
			return findings{}, fmt.Errorf("%s: %w", n.what, err)
		}
	}
	p99 := func(of string) float64 {
		for _, m := range f.metrics {
			if m.Key == of+"P99" {
				return m.Value
			}
		}
		return 0
	}
	f.add(report.Metric{Key: "p99Ratio", What: "p99 beside the hostile namespace over that beside foreign edits", Value: ratio(p99("hostile"), p99("foreign"))})
	return f, errors.Join(e.clearHostile(ctx), e.clear(ctx))
}

// suffer measures deliveries while a nuisance goes on, and leaves the pool whole.
func (e *env) suffer(ctx context.Context, s sizes, pool *v1alpha1.Pool, n nuisance, f *findings) error {
	if n.prepare != nil {
		if err := n.prepare(ctx); err != nil {
			return err
		}
	}
	due := arrivals(uint64(e.run), s.Rate, s.For) //nolint:gosec // runs count from 1
	if len(due) > s.Pool {
		return fmt.Errorf("a pool of %d has no room for %d batches: raise POOL", s.Pool, len(due))
	}
	v := volley{kind: n.key, pool: pool.Name, n: len(due), clients: rateClients, due: due, patience: ratePatience}
	var got round
	done, err := e.beside(ctx, n, func() (err error) {
		got, err = e.fireCounted(ctx, v, e.create)
		return err
	})
	if err != nil {
		return err
	}
	delivered := times{key: n.key, what: n.what + ": from when a batch was due to the endpoints", all: got.times}
	f.add(report.Metric{Key: n.key + "Missing", What: n.what + ": not delivered", Goal: report.AtMost(0), Value: float64(got.missing)})
	f.add(delivered.metrics()...)
	if done > 0 {
		f.add(report.Metric{Key: n.key + "Edits", What: n.what + ": edits a second", Value: float64(done) / got.costs.took.Seconds()})
		f.add(got.costs.metrics(n.key+"Costs", "edit", int(done))...)
	}
	f.keep(n.what, got.times)
	if err := e.cluster.Client.DeleteAllOf(ctx, &v1alpha1.BatchSandbox{}, client.InNamespace(benchNamespace)); err != nil {
		return fmt.Errorf("delete what was delivered: %w", err)
	}
	if err := e.none(ctx, v1alpha1.GroupVersion.String(), "BatchSandbox"); err != nil {
		return err
	}
	return e.whole(ctx, s.Pool, pool)
}

// beside runs f while a nuisance goes on, hostileEdits times a second, and returns how often it was done.
func (e *env) beside(ctx context.Context, n nuisance, f func() error) (int64, error) {
	if n.do == nil {
		return 0, f()
	}
	nuisances, end := context.WithCancelCause(ctx)
	var done, turn atomic.Int64
	var wg sync.WaitGroup
	for range hostileClients {
		wg.Go(func() {
			tick := time.NewTicker(hostileClients * time.Second / hostileEdits)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-nuisances.Done():
					return
				}
				if err := n.do(nuisances, int(turn.Add(1))); err != nil && nuisances.Err() == nil {
					end(err) // the first counts
					return
				}
				done.Add(1)
			}
		})
	}
	err := f()
	wrong := context.Cause(nuisances)
	end(nil)
	wg.Wait()
	return done.Load(), errors.Join(err, wrong)
}

func hostileMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: hostileNamespace, Name: name}
}

func (e *env) prepareHostile(ctx context.Context) error {
	err := e.cluster.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: hostileNamespace}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s: %w", hostileNamespace, err)
	}
	return e.clearHostile(ctx) // what a run left that was cut off
}

func (e *env) clearHostile(ctx context.Context) error {
	for _, object := range []client.Object{&v1alpha1.BatchSandbox{}, &v1alpha1.Pool{}, &corev1.ConfigMap{}} {
		if err := e.cluster.Client.DeleteAllOf(ctx, object, client.InNamespace(hostileNamespace)); err != nil {
			return fmt.Errorf("delete what the hostile namespace has: %w", err)
		}
	}
	if err := e.noneIn(ctx, hostileNamespace, v1alpha1.GroupVersion.String(), "BatchSandbox"); err != nil {
		return err
	}
	return e.noneIn(ctx, hostileNamespace, "v1", "Pod")
}

// makeForeign and editForeign do with ConfigMaps what makeHostile and editHostile do with batches: what the API server and the
// client alone cost.
func (e *env) makeForeign(ctx context.Context) error {
	return inParallel(ctx, hostileClients, hostilePoolEdit, func(ctx context.Context, i int) error {
		return e.cluster.Client.Create(ctx, &corev1.ConfigMap{ObjectMeta: hostileMeta(fmt.Sprintf("foreign-%d", i))})
	})
}

func (e *env) editForeign(ctx context.Context, i int) error {
	object := &corev1.ConfigMap{ObjectMeta: hostileMeta(fmt.Sprintf("foreign-%d", i%hostilePoolEdit))}
	return e.edit(ctx, object, fmt.Sprintf(`{"data":{"edit":"%d"}}`, i))
}

func (e *env) edit(ctx context.Context, object client.Object, patch string) error {
	return e.cluster.Client.Patch(ctx, object, client.RawPatch(types.MergePatchType, []byte(patch)))
}

func hostileName(i int) string { return fmt.Sprintf("hostile-%05d", i) }

// makeHostile makes n batches that are never all served.
func (e *env) makeHostile(ctx context.Context, n int) error {
	pool := fixedPool(hostilePool, hostilePoolMax, v1alpha1.RecycleNoop)
	pool.Namespace = hostileNamespace
	if err := e.cluster.Client.Create(ctx, pool); err != nil {
		return fmt.Errorf("make pool %s: %w", pool.Name, err)
	}
	return inParallel(ctx, hostileClients, n, func(ctx context.Context, i int) error {
		return e.create(ctx, hostileBatch(i))
	})
}

// hostileBatch is one that waits, asks for what can never be, has a wrong template, has one that the API server refuses, has a
// hand-written allocation, or has a task that nobody takes.
func hostileBatch(i int) *v1alpha1.BatchSandbox {
	sb := batchOf(hostileName(i), hostilePool, 1)
	sb.Namespace = hostileNamespace
	switch i % 6 {
	case 1:
		gang := int32(2 * hostilePoolMax)
		sb.Spec.Replicas, sb.Spec.MinAvailable = &gang, &gang
	case 2:
		sb.Spec.PoolRef, sb.Spec.Template = "", rawObject(`{"spec":{"containers":"none"}}`)
	case 3:
		sb.Spec.PoolRef, sb.Spec.Template = "", rawObject(`{"spec":{"containers":[{"name":"Not A Name"}]}}`)
	case 4:
		sb.Annotations = map[string]string{v1alpha1.AllocStatusAnnotation: "broken"}
	case 5:
		if i < 6*hostileTasks {
			sb.Spec.PoolRef, sb.Spec.Template = "", templateObject()
			sb.Spec.TaskTemplate = &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{Process: v1alpha1.Process{Command: []string{"true"}}}}
		}
	}
	return sb
}

// editHostile changes one of the batches so that the controller has to look at it, or else the pool that they wait for.
func (e *env) editHostile(ctx context.Context, i, n int) error {
	if i%hostilePoolEdit == 0 {
		pool := &v1alpha1.Pool{ObjectMeta: hostileMeta(hostilePool)}
		return e.edit(ctx, pool, fmt.Sprintf(`{"spec":{"capacitySpec":{"bufferMax":%d}}}`, hostilePoolMax+i/hostilePoolEdit%2))
	}
	sb := &v1alpha1.BatchSandbox{ObjectMeta: hostileMeta(hostileName(i * 7 % n))}
	if i%2 == 0 {
		return e.edit(ctx, sb, fmt.Sprintf(`{"metadata":{"annotations":{"%s":"broken %d"}}}`, v1alpha1.AllocReleaseAnnotation, i))
	}
	return e.edit(ctx, sb, fmt.Sprintf(`{"spec":{"priority":%d}}`, i))
}
