// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/indexset"
	"opensandbox.io/controller/test/bench/internal/audit"
	"opensandbox.io/controller/test/bench/internal/executors"
	"opensandbox.io/controller/test/bench/internal/report"
	"opensandbox.io/controller/test/bench/internal/stats"
)

const (
	tasksPool = "tasks"
	// meanTask is how long a task of the first batch runs on average.
	meanTask = 200 * time.Millisecond
	// lagGoal is the goal for the time from a task's end to a status that shows it, in ms.
	lagGoal = 250
)

func tasksScenario() scenario {
	return scenario{
		name:  "tasks",
		about: "a batch of N tasks from a warm pool: dispatch, FOR at rest, RATE ends a second",
		sizes: sizes{N: 2000, Rate: 500, For: 30 * time.Second},
		run:   runTasks,
	}
}

// tasksRun is one run of the scenario.
type tasksRun struct {
	*env
	sizes
	host    *executors.Host
	before  snapshot // of the controller with a warm pool and no task
	metrics []report.Metric
}

// runTasks measures two batches of the same warm pool. The tasks of the first run for a moment: it shows how fast many are
// started and reported. Those of the second run until told: it shows what running tasks cost, and how soon their ends are seen.
func runTasks(ctx context.Context, e *env, s sizes) (findings, error) {
	if s.Pool == 0 {
		s.Pool = s.N + s.N/50
	}
	if s.Pool < s.N {
		return findings{}, fmt.Errorf("a pool of %d has no room for %d tasks: raise POOL or lower N", s.Pool, s.N)
	}
	host, err := e.executors()
	if err != nil {
		return findings{}, err
	}
	t := &tasksRun{env: e, sizes: s, host: host}
	for _, step := range []func(context.Context) error{t.warm, t.short, t.long} {
		if err := step(ctx); err != nil {
			return findings{}, err
		}
	}
	return findings{metrics: t.metrics}, nil
}

func (t *tasksRun) add(m report.Metric) { t.metrics = append(t.metrics, m) }

// warm makes the pool and waits until its pods are served.
func (t *tasksRun) warm(ctx context.Context) error {
	size := int32(t.Pool) //nolint:gosec // a number of pods
	pool := &v1alpha1.Pool{
		ObjectMeta: metav1.ObjectMeta{Namespace: benchNamespace, Name: tasksPool},
		Spec: v1alpha1.PoolSpec{
			Template: &v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: []byte(
				`{"spec":{"containers":[{"name":"sandbox","image":"none"},{"name":"task-executor","image":"none"}]}}`)}},
			CapacitySpec:    v1alpha1.CapacitySpec{BufferMax: size, PoolMin: size, PoolMax: size},
			RecycleStrategy: &v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleNoop},
		},
	}
	err := t.cluster.Client.Create(ctx, pool)
	if apierrors.IsAlreadyExists(err) {
		err = t.cluster.Client.Patch(ctx, pool, client.Merge)
	}
	if err != nil {
		return fmt.Errorf("make the pool: %w", err)
	}
	if err := t.poolReady(ctx); err != nil {
		return err
	}
	t.before, err = t.snapshot(ctx)
	return err
}

func (t *tasksRun) poolReady(ctx context.Context) error {
	pool := &v1alpha1.Pool{}
	return t.until(ctx, stepTimeout, "the pool is warm", func() (bool, string) {
		err := t.cluster.Client.Get(ctx, types.NamespacedName{Namespace: benchNamespace, Name: tasksPool}, pool)
		available, serving := int(pool.Status.Available), t.host.Serving()
		return err == nil && available == t.Pool && serving == t.Pool, fmt.Sprintf("%d of %d are available, %d served", available, t.Pool, serving)
	})
}

// short runs tasks that end after a moment.
func (t *tasksRun) short(ctx context.Context) error {
	mark, err := t.audit.Now()
	if err != nil {
		return err
	}
	cpu, hostCPU, err := t.cpu()
	if err != nil {
		return err
	}
	stopProfile := t.profileCPU(ctx, "short", 3*time.Second)
	b, err := t.create(ctx, "short", executors.Drawn(meanTask))
	if err != nil {
		return err
	}
	defer b.stop()
	if err := t.until(ctx, stepTimeout, "all tasks are reported", b.allEnded); err != nil {
		return err
	}
	used, hostUsed, err := t.cpu()
	if err != nil {
		return err
	}
	if err := stopProfile(); err != nil {
		return err
	}
	writes, err := t.audit.Writes(mark)
	if err != nil {
		return err
	}
	lags, err := t.lags(b)
	if err != nil {
		return err
	}
	t.add(report.Metric{Key: "delivered", What: "from the batch's creation to all its endpoints", Unit: "ms", Value: stats.Milliseconds(b.delivered.Sub(b.created))})
	t.add(report.Metric{Key: "reported", What: "from the batch's creation to all its tasks reported, each run for " + meanTask.String() + " on average", Unit: "ms", Value: stats.Milliseconds(b.completed.Sub(b.created))})
	t.add(report.Metric{Key: "reportedLagP50", What: "meanwhile from a task's end to a status that shows it, p50", Unit: "ms", Value: stats.Milliseconds(stats.Quantile(lags, 0.5))})
	t.add(report.Metric{Key: "reportedLagP99", What: "the same, p99", Unit: "ms", Value: stats.Milliseconds(stats.Quantile(lags, 0.99))})
	t.add(report.Metric{Key: "reportedStatusWrites", What: "meanwhile status writes", Value: statusWrites(writes)})
	t.add(report.Metric{Key: "reportedCPU", What: "meanwhile the controller's CPU time", Unit: "s", Value: (used - cpu).Seconds()})
	t.add(report.Metric{Key: "reportedHostCPU", What: "meanwhile the CPU time of the process that serves the executors", Unit: "s", Value: (hostUsed - hostCPU).Seconds()})
	return t.remove(ctx, b)
}

// long runs tasks that end when told.
func (t *tasksRun) long(ctx context.Context) error {
	b, err := t.create(ctx, "long", executors.UntilTold())
	if err != nil {
		return err
	}
	defer b.stop()
	if err := t.until(ctx, stepTimeout, "all tasks run", func() (bool, string) { return b.running(t.N) }); err != nil {
		return err
	}
	t.add(report.Metric{Key: "started", What: "from the batch's creation to all its tasks shown as running", Unit: "ms", Value: stats.Milliseconds(b.allRun.Sub(b.created))})
	if err := t.settle(ctx); err != nil {
		return err
	}
	if err := t.idle(ctx); err != nil {
		return err
	}
	if err := t.ends(ctx, b); err != nil {
		return err
	}
	return t.remove(ctx, b)
}

// idle measures what running tasks cost while nothing happens.
func (t *tasksRun) idle(ctx context.Context) error {
	mark, err := t.audit.Now()
	if err != nil {
		return err
	}
	first, err := t.snapshot(ctx)
	if err != nil {
		return err
	}
	if err := t.rest(ctx, t.For, "the time at rest is over"); err != nil {
		return err
	}
	second, err := t.snapshot(ctx)
	if err != nil {
		return err
	}
	if err := t.profileHeap(ctx); err != nil {
		return err
	}
	writes, err := t.audit.Writes(mark)
	if err != nil {
		return err
	}
	per1000 := func(v float64) float64 { return v / float64(t.N) * 1000 }
	cores := (second.cpu - first.cpu).Seconds() / second.at.Sub(first.at).Seconds()
	t.add(report.Metric{Key: "restCPU", What: "at rest, per 1,000 running tasks: CPU", Unit: "% of a core", Value: per1000(cores) * 100})
	t.add(report.Metric{Key: "restMemory", What: "the same: memory above that with a warm pool alone", Unit: "MiB", Value: per1000(mib(second.memory - t.before.memory))})
	t.add(report.Metric{Key: "restHeap", What: "the same: heap in use", Unit: "MiB", Value: per1000(mib(second.heap - t.before.heap))})
	t.add(report.Metric{Key: "restStacks", What: "the same: stacks in use", Unit: "MiB", Value: per1000(mib(second.stacks - t.before.stacks))})
	t.add(report.Metric{Key: "restGoroutines", What: "the same: goroutines", Value: per1000(second.goroutines - t.before.goroutines)})
	t.add(report.Metric{Key: "restSockets", What: "the same: open connections", Value: per1000(second.sockets - t.before.sockets)})
	t.add(report.Metric{Key: "memory", What: "memory of the controller with all of them running", Unit: "MiB", Value: mib(second.memory)})
	t.add(report.Metric{Key: "peakMemory", What: "the most it had so far", Unit: "MiB", Value: mib(second.peak)})
	t.add(report.Metric{Key: "restWrites", What: "API writes of the controller at rest", Value: float64(writes.Sum(controllerAgent, ""))})
	t.add(report.Metric{Key: "restReconciles", What: "reconciles at rest", Value: second.reconciles - first.reconciles})
	return nil
}

// ends has the tasks end, and measures how soon the status shows it.
func (t *tasksRun) ends(ctx context.Context, b *batch) error {
	mark, err := t.audit.Now()
	if err != nil {
		return err
	}
	first, err := t.snapshot(ctx)
	if err != nil {
		return err
	}
	stopProfile := t.profileCPU(ctx, "ends", time.Duration(float64(t.N)/t.Rate*float64(time.Second)))
	if err := t.host.End(t.Rate); err != nil {
		return err
	}
	if err := t.until(ctx, stepTimeout, "all ends are seen", b.allEnded); err != nil {
		return err
	}
	second, err := t.snapshot(ctx)
	if err != nil {
		return err
	}
	if err := stopProfile(); err != nil {
		return err
	}
	writes, err := t.audit.Writes(mark)
	if err != nil {
		return err
	}
	lags, err := t.lags(b)
	if err != nil {
		return err
	}
	per1000 := func(v float64) float64 { return v / float64(t.N) * 1000 }
	at := strconv.FormatFloat(t.Rate, 'f', -1, 64) + " ends a second"
	for _, q := range []struct {
		key, what string
		q         float64
		goal      report.Goal
	}{
		{"lagP50", "p50", 0.5, report.Goal{}}, {"lagP90", "p90", 0.9, report.Goal{}},
		{"lagP99", "p99", 0.99, report.AtMost(lagGoal)}, {"lagMax", "most", 1, report.Goal{}},
	} {
		t.add(report.Metric{Key: q.key, What: "at " + at + ": from a task's end to a status that shows it, " + q.what, Unit: "ms",
			Goal: q.goal, Value: stats.Milliseconds(stats.Quantile(lags, q.q))})
	}
	t.add(report.Metric{Key: "endWrites", What: "per 1,000 ends: status writes", Value: per1000(statusWrites(writes))})
	t.add(report.Metric{Key: "endOtherWrites", What: "the same: other API writes of the controller", Value: per1000(float64(writes.Sum(controllerAgent, "")) - statusWrites(writes))})
	t.add(report.Metric{Key: "endReconciles", What: "the same: reconciles", Value: per1000(second.reconciles - first.reconciles)})
	t.add(report.Metric{Key: "endCPU", What: "the same: CPU time", Unit: "s", Value: per1000((second.cpu - first.cpu).Seconds())})
	return nil
}

// lags are the times from the end of each task to the first status that showed it.
func (t *tasksRun) lags(b *batch) ([]time.Duration, error) {
	ends := t.host.Ends()
	b.mu.Lock()
	defer b.mu.Unlock()
	lags := make([]time.Duration, 0, t.N)
	for index := range t.N {
		end, ended := ends[fmt.Sprintf("%s-%d-1", b.uid, index)]
		seen, shown := b.seen[index]
		if !ended || !shown {
			return nil, fmt.Errorf("task %d: ended %v, shown %v, at its first try", index, ended, shown)
		}
		lags = append(lags, seen.Sub(end))
	}
	return lags, nil
}

func statusWrites(c audit.Calls) float64 {
	return float64(c.Sum(controllerAgent, "batchsandboxes/status"))
}

// cpu is the CPU time that the controller, and the process that serves the executors, have spent.
func (t *tasksRun) cpu() (controller, host time.Duration, err error) {
	usage, err1 := t.controller.Usage()
	hostUsage, err2 := t.host.Usage()
	return usage.CPU, hostUsage.CPU, errors.Join(err1, err2)
}

// batch is a batch and what a watch has shown of it.
type batch struct {
	kind    string
	name    string
	uid     types.UID
	created time.Time // just before it was asked for
	cancel  context.CancelFunc
	watched chan struct{} // closed when the watch has ended

	mu                           sync.Mutex
	delivered, allRun, completed time.Time
	runs                         int
	seen                         map[int]time.Time // when an index was first shown as ended
	err                          error
}

// create makes a batch of N tasks, and begins to watch it before that.
func (t *tasksRun) create(ctx context.Context, kind string, command []string) (*batch, error) {
	replicas := int32(t.N) //nolint:gosec // a number of pods
	sb := &v1alpha1.BatchSandbox{
		ObjectMeta: metav1.ObjectMeta{Namespace: benchNamespace, Name: kind + "-" + strings.ToLower(rand.Text()[:8])},
		Spec: v1alpha1.BatchSandboxSpec{
			Replicas: &replicas, PoolRef: tasksPool,
			TaskTemplate: &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{Process: v1alpha1.Process{Command: command}}},
		},
	}
	t.host.Clear()
	ctx, cancel := context.WithCancel(ctx)
	b := &batch{kind: kind, name: sb.Name, cancel: cancel, watched: make(chan struct{}), seen: map[int]time.Time{}}
	go func() {
		defer close(b.watched)
		err := follow(ctx, t.env, b.name, &v1alpha1.BatchSandboxList{}, b.see)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.err = err
	}()
	b.created = time.Now()
	if err := t.cluster.Client.Create(ctx, sb); err != nil {
		b.stop()
		return nil, fmt.Errorf("make batch %s: %w", b.name, err)
	}
	b.uid = sb.UID
	return b, nil
}

func (b *batch) stop() {
	b.cancel()
	<-b.watched
}

// see takes in what the watch shows.
func (b *batch) see(s sight[*v1alpha1.BatchSandbox]) (enough bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	status := s.object.Status
	b.runs = int(status.TaskRunning)
	replicas := int(*s.object.Spec.Replicas)
	if b.delivered.IsZero() && hasEndpoints(s.object) {
		b.delivered = s.at
	}
	if b.allRun.IsZero() && b.runs == replicas {
		b.allRun = s.at
	}
	for _, list := range []string{status.CompletedIndexes, status.FailedIndexes} {
		indexes, err := indexset.Parse(list)
		b.err = errors.Join(b.err, err)
		for _, index := range indexes {
			if _, before := b.seen[index]; !before {
				b.seen[index] = s.at
			}
		}
	}
	if b.completed.IsZero() && meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionTasksCompleted) {
		b.completed = s.at
	}
	return s.deleted
}

func (b *batch) running(want int) (bool, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.allRun.IsZero(), fmt.Sprintf("%d of %d run (%v)", b.runs, want, b.err)
}

func (b *batch) allEnded() (bool, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.completed.IsZero(), fmt.Sprintf("%d ended, %d run (%v)", len(b.seen), b.runs, b.err)
}

// remove deletes a batch and waits until its pods are back.
func (t *tasksRun) remove(ctx context.Context, b *batch) error {
	b.stop()
	begin := time.Now()
	sb := &v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Namespace: benchNamespace, Name: b.name}}
	if err := t.cluster.Client.Delete(ctx, sb); err != nil {
		return fmt.Errorf("delete batch %s: %w", b.name, err)
	}
	err := t.until(ctx, stepTimeout, "batch "+b.name+" is gone", func() (bool, string) {
		err := t.cluster.Client.Get(ctx, client.ObjectKeyFromObject(sb), sb)
		return apierrors.IsNotFound(err), fmt.Sprintf("finalizers %v", sb.Finalizers)
	})
	if err != nil {
		return err
	}
	if err := t.poolReady(ctx); err != nil {
		return err
	}
	t.add(report.Metric{Key: b.kind + "Removed", What: "from the deletion of the batch of " + b.kind + " tasks until the pool is whole", Unit: "ms", Value: stats.Milliseconds(time.Since(begin))})
	return nil
}
