// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/faults/internal/auditor"
	"opensandbox.io/controller/test/faults/internal/executors"
	"opensandbox.io/controller/test/faults/internal/proxy"
	"opensandbox.io/controller/test/internal/cluster"
)

const (
	// warmLimit bounds how long the pools may take to be warm before anything is broken.
	warmLimit = time.Minute
	// quiet is how long nothing must have changed before the auditor has a look, which it has lookAgain later again.
	quiet     = 8 * time.Second
	lookAgain = 10 * time.Second
	// restLimit is how long the world may take to be as it should: a create whose reply was lost counts as under way for a
	// minute, and so long may a recycling take, or a node be away.
	restLimit = 110 * time.Second
	// settle is how long the world at rest is looked at.
	settle = 10 * time.Second
	// lookMeanwhile is the time between two looks of the auditor while things are broken, which leave out what is younger than
	// inStep: the watches of two kinds may be that far apart.
	lookMeanwhile = 5 * time.Second
	inStep        = 3 * time.Second
)

// replicaNames are those of the controllers.
var replicaNames = []string{"a", "b"}

// faultRates are what the proxy injects once all is ready.
func faultRates() proxy.Rates {
	return proxy.Rates{
		Objects: map[proxy.Kind]float64{
			proxy.Conflict: 0.02, proxy.TooManyRequests: 0.003, proxy.InternalError: 0.01, proxy.LostReply: 0.02, proxy.CutReply: 0.01,
			proxy.SlowReply: 0.015, proxy.StaleList: 0.2, proxy.ExpiredWatch: 0.05, proxy.RefusedWatchList: 0.3,
			proxy.RepeatedWrite: 0.01,
			proxy.WatchCut:      0.3, proxy.ExpiredEvent: 0.15, proxy.DelayedEvent: 0.004,
		},
		Leases: map[proxy.Kind]float64{
			proxy.Conflict: 0.005, proxy.TooManyRequests: 0.002, proxy.InternalError: 0.005, proxy.LostReply: 0.005, proxy.CutReply: 0.005,
			proxy.SlowReply: 0.01,
		},
	}
}

// executorRates are what the executors inject.
func executorRates() executors.Rates {
	return executors.Rates{executors.CutBefore: 0.03, executors.CutAfter: 0.03, executors.Slow: 0.04, executors.Unclean: 0.15}
}

// show is one run.
type show struct {
	options   Options
	dir       string
	cluster   *cluster.Cluster
	proxy     *proxy.Proxy
	executors *executors.Executors
	recorder  *auditor.Recorder
	replicas  []*replica
	election  *election
	hands     *tally
	caught    []auditor.Finding // that ended the run early
}

// run breaks things for as long as the options ask, judges what became of them, and takes everything down at its end.
func run(ctx context.Context, o Options) (err error) {
	tell("seed %d, for %s", o.Seed, o.For)
	s := &show{options: o, hands: newTally()}
	s.dir = filepath.Join(o.Results, fmt.Sprintf("%s-seed-%d", time.Now().UTC().Format("20060102T150405"), o.Seed))
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	s.cluster, err = cluster.Up(ctx, cluster.Options{Checkout: o.Checkout, Name: o.Cluster, PodCIDR: o.PodCIDR, Nodes: o.Nodes, Out: os.Stderr})
	if err != nil {
		return fmt.Errorf("start the cluster: %w", err)
	}
	defer func() { err = errors.Join(err, s.cluster.Down(ctx)) }()
	nodes, err := s.prepare(ctx)
	if err != nil {
		return err
	}
	v, err := s.perform(ctx, nodes)
	if err != nil {
		return fmt.Errorf("%w (logs are in %s)", err, s.dir)
	}
	return s.publish(v)
}

// prepare makes the namespaces, and returns the nodes.
func (s *show) prepare(ctx context.Context) ([]*corev1.Node, error) {
	for _, name := range []string{faultsNamespace, systemNamespace} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := s.cluster.Client.Create(ctx, namespace); err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("make namespace %s: %w", name, err)
		}
	}
	if err := s.purge(ctx); err != nil {
		return nil, fmt.Errorf("delete what an earlier run left: %w", err)
	}
	nodes, err := nodesAsTheyAre(ctx, s.cluster.Client)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if err := declareRestarts(ctx, s.cluster.Client, n.Name); err != nil {
			return nil, fmt.Errorf("prepare node %s: %w", n.Name, err)
		}
	}
	return nodes, nil
}

// purge deletes what a run left that was cut off, whatever its controllers still wanted to do about it.
func (s *show) purge(ctx context.Context) error {
	inNamespace, free := client.InNamespace(faultsNamespace), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
	batches, pools := &v1alpha1.BatchSandboxList{}, &v1alpha1.PoolList{}
	if err := errors.Join(s.cluster.Client.List(ctx, batches, inNamespace), s.cluster.Client.List(ctx, pools, inNamespace)); err != nil {
		return err
	}
	var left []client.Object
	for i := range batches.Items {
		left = append(left, &batches.Items[i])
	}
	for i := range pools.Items {
		left = append(left, &pools.Items[i])
	}
	for _, obj := range left {
		if err := s.cluster.Client.Patch(ctx, obj, free); client.IgnoreNotFound(err) != nil {
			return err
		}
		if err := s.cluster.Client.Delete(ctx, obj); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	if err := s.cluster.Client.DeleteAllOf(ctx, &corev1.Pod{}, inNamespace, client.GracePeriodSeconds(0)); err != nil {
		return err
	}
	return s.until(ctx, warmLimit, "the pods of an earlier run are gone", func() (bool, string) {
		pods := &corev1.PodList{}
		err := s.cluster.Client.List(ctx, pods, inNamespace)
		return err == nil && len(pods.Items) == 0, fmt.Sprintf("%d are left (%v)", len(pods.Items), err)
	})
}

// perform records what happens from the start of the controllers until all is at rest again.
func (s *show) perform(ctx context.Context, nodes []*corev1.Node) (v verdict, err error) {
	file, err := os.Create(filepath.Join(s.dir, historyFile))
	if err != nil {
		return v, err
	}
	packed, err := gzip.NewWriterLevel(file, gzip.BestSpeed)
	if err != nil {
		return v, errors.Join(err, file.Close())
	}
	out := bufio.NewWriterSize(packed, 1<<20)
	defer func() { err = errors.Join(err, out.Flush(), packed.Close(), file.Close()) }()
	if s.recorder, err = auditor.Record(ctx, s.cluster.Client, clock.RealClock{}, out); err != nil {
		return v, err
	}
	s.executors = executors.Start(ctx, executors.Options{
		Kubeconfig: s.cluster.Kubeconfig, Namespace: faultsNamespace, Client: s.cluster.Client, Seed: s.options.Seed,
	})
	begin := time.Now()
	playErr := s.play(ctx, nodes)
	marks, marksErr := s.executors.Stop()
	history, historyErr := s.recorder.Stop()
	if err := errors.Join(playErr, marksErr, historyErr); err != nil {
		return v, err
	}
	_, losses := s.election.state()
	v = verdict{Seconds: time.Since(begin).Seconds(), Faults: s.faults(), Hands: s.hands.all(), history: history, marks: marks, end: time.Now()}
	if v.cutOff = len(s.caught) > 0; v.cutOff {
		v.take(s.caught)
	} else {
		v.judge()
	}
	v.Seed, v.LeaderLosses = s.options.Seed, losses
	return v, nil
}

// faults are all that were injected, by kind.
func (s *show) faults() map[string]int64 {
	all := map[string]int64{}
	for kind, n := range s.proxy.Counts() {
		all[string(kind)] = n
	}
	for kind, n := range s.executors.Counts() {
		all[string(kind)] = n
	}
	return all
}

// play runs the controllers, first in peace until the pools are warm, then with everything broken, then in peace again until
// nothing changes any more.
func (s *show) play(ctx context.Context, nodes []*corev1.Node) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.proxy, err = s.startProxy(ctx)
	if err != nil {
		return err
	}
	defer s.proxy.Close()
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	for _, name := range replicaNames {
		r, err := newReplica(ctx, name, s.proxy.Kubeconfig(name), s.options, s.dir)
		if err != nil {
			return err
		}
		s.replicas = append(s.replicas, r)
		background.Go(func() { r.run(ctx) })
	}
	s.election = &election{client: s.cluster.Client}
	background.Go(func() { s.election.follow(ctx) })
	if err := s.warm(ctx); err != nil {
		return err
	}
	if err := s.breakAll(ctx, nodes); err != nil || len(s.caught) > 0 {
		return err
	}
	return s.rest(ctx)
}

func (s *show) startProxy(ctx context.Context) (*proxy.Proxy, error) {
	config, err := cluster.Config(s.cluster.Kubeconfig)
	if err != nil {
		return nil, err
	}
	return proxy.Start(ctx, proxy.Options{Config: config, Controllers: replicaNames, Dir: s.dir, Seed: s.options.Seed,
		Slow: proxy.Range{Min: 20 * time.Millisecond, Max: time.Second}})
}

// random is a source of chance for one purpose.
func (s *show) random(purpose uint64) *rand.Rand {
	return rand.New(rand.NewPCG(s.options.Seed, purpose))
}

// warm makes the pools and waits until they have pods.
func (s *show) warm(ctx context.Context) error {
	random := s.random(1)
	for _, name := range append([]string{lastPool}, poolNames...) {
		capacity := v1alpha1.CapacitySpec{BufferMin: 2, BufferMax: 4, PoolMax: 5}
		if name != lastPool {
			capacity = bounds(random)
		}
		pool := poolOf(name, capacity)
		err := s.until(ctx, warmLimit, "pool "+name+" is made", func() (bool, string) { // one of an earlier run may have to go first
			err := s.cluster.Client.Create(ctx, pool.DeepCopy())
			return err == nil, fmt.Sprint(err)
		})
		if err != nil {
			return err
		}
	}
	return s.until(ctx, warmLimit, "the pools are warm", func() (bool, string) {
		for _, name := range poolNames {
			pool := &v1alpha1.Pool{}
			err := s.cluster.Client.Get(ctx, client.ObjectKey{Namespace: faultsNamespace, Name: name}, pool)
			if err != nil || pool.Status.Available < pool.Spec.CapacitySpec.BufferMin {
				return false, fmt.Sprintf("%s has %d available", name, pool.Status.Available)
			}
		}
		return true, ""
	})
}

// breakAll runs the load and breaks everything, for as long as the options ask.
func (s *show) breakAll(ctx context.Context, nodes []*corev1.Node) error {
	if err := s.proxy.SetRates(faultRates()); err != nil {
		return err
	}
	s.executors.SetRates(executorRates())
	l := &load{client: s.cluster.Client, random: s.random(2), rate: s.options.Rate, alive: map[string]*customer{}}
	batches, err := l.watch(ctx, s.cluster.Kubeconfig)
	if err != nil {
		return err
	}
	k := &killer{random: s.random(3), replicas: s.replicas, election: s.election, delivery: l.lastDelivery, done: s.hands, only: s.options.Strike}
	h := &hand{client: s.cluster.Client, random: s.random(4), executors: s.executors, done: s.hands, nodes: nodes}
	broken, cancel := context.WithTimeout(ctx, s.options.For)
	defer cancel()
	var all sync.WaitGroup
	var handErr, watchErr error
	all.Go(func() { watchErr = batches.Start(broken) })
	all.Go(func() { l.run(broken) })
	all.Go(func() { k.run(broken) })
	all.Go(func() { handErr = h.run(broken) })
	looked := time.Now()
	err = s.until(ctx, s.options.For+time.Minute, "the time is over", func() (bool, string) {
		if s.options.UntilFound && time.Since(looked) >= lookMeanwhile {
			s.caught = s.foundBy(time.Now())
			looked = time.Now()
		}
		_, losses := s.election.state()
		return broken.Err() != nil || len(s.caught) > 0, fmt.Sprintf("leaders lost %d", losses)
	})
	cancel()
	all.Wait()
	s.executors.Calm()
	return errors.Join(err, handErr, watchErr, s.proxy.SetRates(proxy.Rates{}), l.thin(ctx), h.farewell(ctx))
}

// rest waits until the world is at rest and nothing is wrong with it, or should not be any more.
func (s *show) rest(ctx context.Context) error {
	begin := time.Now()
	var looked time.Time
	err := s.until(ctx, restLimit+time.Minute, "the world is at rest", func() (bool, string) {
		since := time.Since(s.recorder.LastChange())
		switch {
		case time.Since(begin) > restLimit:
			return true, ""
		case since < quiet || time.Since(looked) < lookAgain:
			return false, fmt.Sprintf("the last change was %s ago", since.Round(time.Millisecond))
		}
		looked = time.Now()
		return !s.isUnsettled(looked), "something is wrong with it"
	})
	if err != nil {
		return err
	}
	tell("at rest after %s; watching that for %s", time.Since(begin).Round(time.Second), settle)
	wait(ctx, settle)
	return ctx.Err()
}

// isUnsettled says whether something is leaked or stuck now that may yet be repaired. What else is wrong stays so.
func (s *show) isUnsettled(now time.Time) bool {
	found := auditor.Audit(s.recorder.SoFar(), s.executors.Marks(), auditor.Settings{End: now, Settle: time.Second})
	return slices.ContainsFunc(found, func(f auditor.Finding) bool { return f.Kind == auditor.Leaked || f.Kind == auditor.Stuck })
}

// foundBy is what the auditor finds while things are still broken: what no later change can mend.
func (s *show) foundBy(now time.Time) []auditor.Finding {
	end := now.Add(-inStep)
	history := slices.DeleteFunc(s.recorder.SoFar(), func(c auditor.Change) bool { return c.Time.After(end) })
	marks := slices.DeleteFunc(s.executors.Marks(), func(m auditor.Mark) bool { return m.Begin.After(end) })
	return auditor.Audit(history, marks, settingsCutOff(end))
}

// until looks again and again until something is true, and shows how far it is.
func (s *show) until(ctx context.Context, timeout time.Duration, what string, reached func() (done bool, progress string)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	told := time.Now()
	for {
		done, progress := reached()
		if done {
			return nil
		}
		if err := s.healthy(); err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		if time.Since(told) >= 15*time.Second {
			told = time.Now()
			tell("waiting until %s: %s", what, progress)
		}
		if wait(ctx, lookPause); ctx.Err() != nil {
			return fmt.Errorf("wait until %s: %w (%s)", what, ctx.Err(), progress)
		}
	}
}

// healthy is an error if something of the run itself has failed.
func (s *show) healthy() error {
	for _, r := range s.replicas {
		if err := r.check(); err != nil {
			return err
		}
	}
	if s.recorder == nil {
		return nil // nothing is recorded yet
	}
	select {
	case <-s.recorder.Failed():
		_, err := s.recorder.Stop()
		return fmt.Errorf("record what happens: %w", err)
	default:
		return nil
	}
}

// tell shows progress.
func tell(format string, args ...any) { fmt.Fprintf(os.Stderr, "faults: "+format+"\n", args...) }
