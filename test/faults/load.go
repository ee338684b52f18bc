// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/faults/internal/auditor"
	"opensandbox.io/controller/test/internal/cluster"
)

const (
	// mostAlive is how many batches of one pool there are at once, at most: while nobody leads, nobody serves them.
	mostAlive = 30
	// leftAlive is how many of them are there at the end, at most.
	leftAlive = 20
	// meanLife is how long a batch lives on average after it was delivered and its tasks have ended.
	meanLife = 300 * time.Millisecond
	// longestWait is how long a batch is left alone that isn't delivered, and longestRun one whose tasks don't end. The one is
	// long enough for the auditor to see that it was overtaken.
	longestWait = time.Minute
	longestRun  = 20 * time.Second
	// loadTick is the time between two looks at what is due, and loadWorkers how many requests are under way at once.
	loadTick    = 20 * time.Millisecond
	loadWorkers = 8
	// burstChance is that of a burst at each tick, burstSize what it asks for.
	burstChance = 0.001
	burstSize   = 30
)

// load asks for batches, and deletes them some time after they were delivered.
type load struct {
	client client.Client
	random *rand.Rand
	rate   float64
	due    float64 // batches, the last of them in part
	asked  int

	mu        sync.Mutex
	alive     map[string]*customer
	delivered time.Time // when a batch last was
}

// customer is one batch.
type customer struct {
	pool      string        // "" for pods of its own
	life      time.Duration // after it was served
	end       time.Time     // when it is deleted
	delivered bool
	served    bool // delivered, and its tasks ended
	leaving   bool
}

// watch follows the batches until ctx is done.
func (l *load) watch(ctx context.Context, kubeconfig string) (cache.Cache, error) {
	config, err := cluster.Config(kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := cache.New(config, cache.Options{Scheme: l.client.Scheme(), DefaultNamespaces: map[string]cache.Config{faultsNamespace: {}}})
	if err != nil {
		return nil, fmt.Errorf("watch batches: %w", err)
	}
	informer, err := c.GetInformer(ctx, &v1alpha1.BatchSandbox{}, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("watch batches: %w", err)
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { l.see(obj) },
		UpdateFunc: func(_, obj any) { l.see(obj) },
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if sb, ok := obj.(*v1alpha1.BatchSandbox); ok {
				l.forget(sb.Name)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch batches: %w", err)
	}
	return c, nil
}

// see notes how far a batch has come.
func (l *load) see(obj any) {
	sb, ok := obj.(*v1alpha1.BatchSandbox)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.alive[sb.Name]
	if c == nil {
		return
	}
	now := time.Now()
	if !c.delivered && auditor.IsDelivered(sb) {
		c.delivered, l.delivered = true, now
		c.end = now.Add(longestRun)
	}
	ended := sb.Spec.TaskTemplate == nil || meta.IsStatusConditionTrue(sb.Status.Conditions, v1alpha1.ConditionTasksCompleted)
	if c.delivered && ended && !c.served {
		c.served = true
		c.end = now.Add(c.life)
	}
}

// lastDelivery is when a batch was last delivered.
func (l *load) lastDelivery() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.delivered
}

func (l *load) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.alive, name)
}

// run asks and deletes until ctx is done.
func (l *load) run(ctx context.Context) {
	requests := make(chan request, 4*mostAlive)
	var workers sync.WaitGroup
	for range loadWorkers {
		workers.Go(func() {
			for send := range requests {
				send(ctx)
			}
		})
	}
	defer workers.Wait()
	defer close(requests)
	ticker := time.NewTicker(loadTick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			l.ask(requests)
			for _, name := range l.leaving() {
				requests <- func(ctx context.Context) { l.remove(ctx, name) }
			}
		case <-ctx.Done():
			return
		}
	}
}

// request is one to the API server.
type request func(context.Context)

// ask draws what is asked for at one tick.
func (l *load) ask(requests chan<- request) {
	l.due = min(l.due+l.rate*loadTick.Seconds(), 5)
	wanted := int(l.due)
	l.due -= float64(wanted)
	if l.random.Float64() < burstChance {
		wanted += burstSize
	}
	for range min(wanted, cap(requests)-len(requests)) {
		l.asked++
		sb := batchOf(l.random, fmt.Sprintf("b-%05d", l.asked))
		if l.admit(sb, exponential(l.random, meanLife)) {
			requests <- func(ctx context.Context) { l.create(ctx, sb) }
		}
	}
}

// admit notes a batch that is about to be asked for, if there is room for it.
func (l *load) admit(sb *v1alpha1.BatchSandbox, life time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	alike := 0
	for _, c := range l.alive {
		if c.pool == sb.Spec.PoolRef {
			alike++
		}
	}
	if alike >= mostAlive {
		return false
	}
	l.alive[sb.Name] = &customer{pool: sb.Spec.PoolRef, life: life, end: time.Now().Add(longestWait)}
	return true
}

// thin deletes most of the batches that there are, so that the labels of those that stay come soon.
func (l *load) thin(ctx context.Context) error {
	batches := &v1alpha1.BatchSandboxList{}
	if err := l.client.List(ctx, batches, client.InNamespace(faultsNamespace)); err != nil {
		return fmt.Errorf("list batches: %w", err)
	}
	for i := range batches.Items[min(leftAlive, len(batches.Items)):] {
		if err := client.IgnoreNotFound(l.client.Delete(ctx, &batches.Items[leftAlive+i])); err != nil {
			return fmt.Errorf("delete a batch: %w", err)
		}
	}
	return nil
}

// leaving are the batches whose time has come, each once.
func (l *load) leaving() (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for name, c := range l.alive {
		if !c.leaving && now.After(c.end) {
			c.leaving = true
			names = append(names, name)
		}
	}
	return names
}

func (l *load) create(ctx context.Context, sb *v1alpha1.BatchSandbox) {
	if l.client.Create(ctx, sb) != nil { // it may have landed: then it lives on, and the auditor judges that too
		l.forget(sb.Name)
	}
}

func (l *load) remove(ctx context.Context, name string) {
	sb := &v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Namespace: faultsNamespace, Name: name}}
	if client.IgnoreNotFound(l.client.Delete(ctx, sb)) != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if c := l.alive[name]; c != nil {
			c.leaving = false // again at the next tick
		}
	}
}
