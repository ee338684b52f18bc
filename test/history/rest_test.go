// SPDX-License-Identifier: Apache-2.0

package history

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/indexset"
)

// mostRounds is how many rounds a world may need to come to rest, and mostAtOnce how many of them in no time.
const (
	mostRounds = 1500
	mostAtOnce = 150
)

// rest ends all faults: every event arrives, kubelets do their work, and time passes, until nothing more is written. Only
// what the real wiring would wake is reconciled.
func (w *world) rest() {
	w.logf("* everything comes to rest at %s", time.Now().Format("15:04:05.000"))
	for len(w.underway) > 0 {
		w.lands(0)
	}
	idle := map[item]int{} // how often each was reconciled for time alone since the last write
	atOnce, written := 0, time.Now()
	for range mostRounds {
		before := w.server.version
		busy := w.round()
		if atOnce++; atOnce > mostAtOnce {
			w.fail("the world spins: there is always something to do at once")
		}
		if w.server.version != before {
			clear(idle)
			written = time.Now()
		}
		if busy {
			continue
		}
		at, ok := w.process.queue.next()
		switch {
		case ok && w.settled(idle, time.Since(written)), !ok && time.Since(written) > 2*time.Second:
			return
		case !ok:
			at = time.Now().Add(time.Second) // what runs beside the reconciles may have news
		}
		atOnce = 0
		w.sleep(time.Until(at))
		w.settle()
		for _, i := range w.process.queue.due() {
			idle[i]++
		}
	}
	w.fail("the world doesn't come to rest")
}

// quietFor is how long nothing must have been written: longer than the controllers wait before they ask about a pod that no
// watch shows, or give up one that doesn't come back from a recycling.
const quietFor = 100 * time.Second

// settled says that nothing was written for a while, and that everything that time wakes was looked at twice since.
func (w *world) settled(idle map[item]int, quiet time.Duration) bool {
	if quiet < quietFor {
		return false
	}
	for i := range w.process.queue.later {
		if idle[i] < 2 {
			return false
		}
	}
	return true
}

// round does all that can be done now, and says whether there was anything.
func (w *world) round() bool {
	busy := false
	for calls := w.gate.calls(); len(calls) > 0; calls = w.gate.calls() {
		w.let(calls[0], answerDone)
		busy = true
	}
	busy = w.kubelets() || busy
	w.settle()
	busy = w.collectGarbage() || busy
	busy = w.allEventsArrive() || busy
	for _, i := range w.process.runnable() {
		w.run(w.start(i))
		busy = true
	}
	return busy
}

func (w *world) kubelets() bool {
	busy := false
	for _, pod := range w.pods(func(*corev1.Pod) bool { return true }) {
		switch {
		case pod.DeletionTimestamp != nil:
			w.server.kill(pod.Name)
		case w.hasLeftovers(pod):
			w.leftoversEnd(pod)
		case w.recycles(pod):
			w.restart(pod, w.drawRestart())
		case starts(pod):
			w.becomeReady(pod)
		default:
			continue
		}
		busy = true
	}
	return busy
}

// checkRest checks a world at rest.
func (w *world) checkRest() {
	for k := range numKinds {
		for _, obj := range w.server.list(k) {
			if obj.GetDeletionTimestamp() != nil && !w.mayStay(obj) {
				w.fail("%s %s is deleted and doesn't go", k, obj.GetName())
			}
		}
	}
	for _, obj := range w.server.list(kindPool) {
		w.checkPool(obj.(*v1alpha1.Pool))
	}
	for _, sb := range w.batches(func(sb *v1alpha1.BatchSandbox) bool { return sb.DeletionTimestamp == nil }) {
		w.checkBatch(sb)
	}
	w.checkQuiet()
}

// mayStay says what keeps an object that is being deleted.
func (w *world) mayStay(obj objectOf) bool {
	switch o := obj.(type) {
	case *v1alpha1.BatchSandbox:
		return slices.Equal(o.Finalizers, []string{foreignFinalizer})
	case *v1alpha1.Pool:
		return slices.ContainsFunc(w.podsOf(o), w.held)
	default:
		return false
	}
}

func (w *world) podsOf(pool *v1alpha1.Pool) []*corev1.Pod {
	return w.pods(func(pod *corev1.Pod) bool { return pod.Labels[v1alpha1.PoolNameLabel] == pool.Name })
}

func (w *world) held(pod *corev1.Pod) bool {
	_, held := w.audit.holders[pod.Name]
	return held
}

// demand is what a batch waits for at rest.
type demand struct {
	batch   *v1alpha1.BatchSandbox
	usable  int
	missing int
}

// gang is how many sandboxes have to come together.
func (d demand) gang() int {
	if d.batch.Spec.MinAvailable == nil {
		return 0
	}
	return min(int(*d.batch.Spec.MinAvailable), int(*d.batch.Spec.Replicas))
}

func (w *world) demandOf(sb *v1alpha1.BatchSandbox) demand {
	d := demand{batch: sb}
	for i, name := range w.audit.named[sb.Name] {
		obj, err := w.server.get(kindPod, name)
		if err == nil && i < int(*sb.Spec.Replicas) && runs(asPod(obj)) {
			d.usable++
		}
	}
	d.missing = int(*sb.Spec.Replicas) - len(givenBack(sb)) - d.usable
	return d
}

// givenBack are the indexes that were released since their tasks ended.
func givenBack(sb *v1alpha1.BatchSandbox) []int {
	if p := sb.Spec.TaskResourcePolicyWhenCompleted; p == nil || *p != v1alpha1.TaskResourcePolicyRelease {
		return nil
	}
	return slices.DeleteFunc(ended(sb), func(index int) bool { return index >= int(*sb.Spec.Replicas) })
}

// ended are the indexes whose task has ended.
func ended(sb *v1alpha1.BatchSandbox) []int {
	var all []int
	for _, list := range []string{sb.Status.CompletedIndexes, sb.Status.FailedIndexes} {
		indexes, err := indexset.Parse(list)
		if err != nil {
			panic(err)
		}
		all = append(all, indexes...)
	}
	return all
}

// checkTasks checks that every task of a batch runs or has ended, and that the batch tells so.
func (w *world) checkTasks(sb *v1alpha1.BatchSandbox) {
	running := 0
	for i, name := range w.audit.named[sb.Name] {
		obj, err := w.server.get(kindPod, name)
		if err != nil || i >= int(*sb.Spec.Replicas) || slices.Contains(ended(sb), i) {
			continue
		}
		if at := w.containers[obj.GetUID()]; at == nil || !at.up || at.running() == nil {
			w.fail("index %d of batch %s has no task in pod %s", i, sb.Name, name)
		}
		running++
	}
	s := sb.Status
	over := len(slices.DeleteFunc(ended(sb), func(index int) bool { return index >= int(*sb.Spec.Replicas) }))
	if int(s.TaskRunning) != running || int(s.TaskSucceed+s.TaskFailed) != over || int(s.TaskRunning+s.TaskSucceed+s.TaskFailed+s.TaskPending+s.TaskUnknown) != int(*sb.Spec.Replicas) {
		w.fail("%d tasks of batch %s run and %d have ended, its status tells something else", running, sb.Name, over)
	}
}

// reasonOf is why a batch doesn't get what it misses; WaitingForPool if it will.
func (w *world) reasonOf(d demand) string {
	obj, err := w.server.get(kindPool, d.batch.Spec.PoolRef)
	pool, _ := obj.(*v1alpha1.Pool)
	allocated := meta.FindStatusCondition(d.batch.Status.Conditions, v1alpha1.ConditionAllocated)
	switch {
	case d.missing == 0:
		return v1alpha1.ReasonAllocated
	case err != nil:
		return v1alpha1.ReasonPoolNotFound
	case pool.DeletionTimestamp != nil:
		return v1alpha1.ReasonPoolTerminating
	case d.gang() > int(pool.Spec.CapacitySpec.PoolMax):
		return v1alpha1.ReasonExceedsPoolMax
	case d.batch.Spec.AllocationTimeoutSeconds != nil && allocated != nil && allocated.Reason == v1alpha1.ReasonAllocationTimedOut:
		return v1alpha1.ReasonAllocationTimedOut
	case d.usable >= int(pool.Spec.CapacitySpec.PoolMax):
		return v1alpha1.ReasonExceedsPoolMax
	default:
		return v1alpha1.ReasonWaitingForPool
	}
}

// queueOf are the batches that wait for a pool, in the order in which they are to be served.
func (w *world) queueOf(pool *v1alpha1.Pool) []demand {
	var queue []demand
	for _, sb := range w.batches(func(sb *v1alpha1.BatchSandbox) bool {
		return sb.DeletionTimestamp == nil && sb.Spec.PoolRef == pool.Name
	}) {
		d := w.demandOf(sb)
		if w.reasonOf(d) == v1alpha1.ReasonWaitingForPool {
			d.missing = min(d.missing, int(pool.Spec.CapacitySpec.PoolMax)-d.usable)
			queue = append(queue, d)
		}
	}
	slices.SortFunc(queue, func(a, b demand) int {
		if precedes(a.batch, b.batch) {
			return -1
		}
		return 1
	})
	return queue
}

func (w *world) checkPool(pool *v1alpha1.Pool) {
	spec := pool.Spec.CapacitySpec
	idle, held := 0, 0
	for _, pod := range w.podsOf(pool) {
		if w.held(pod) {
			held++
			continue
		}
		_, evict := pod.Labels[v1alpha1.EvictLabel]
		if !runs(pod) || !isReady(pod) || evict || pod.Annotations[v1alpha1.RecyclingAnnotation] != "" || pod.Labels[v1alpha1.BatchNameLabel] != "" {
			w.fail("pod %s is neither held nor idle", pod.Name)
		}
		if pod.DeletionTimestamp == nil && w.audit.contaminated[pod.UID] != "" {
			w.fail("pod %s is idle with the traces of batch %s in it", pod.Name, w.audit.contaminated[pod.UID])
		}
		idle++
	}
	queue := w.queueOf(pool)
	waiting := 0
	for i, d := range queue {
		waiting += d.missing
		if q := d.batch.Status.Queue; q == nil || int(q.Position) != i+1 {
			w.fail("batch %s is told place %+v of the queue, it has place %d", d.batch.Name, q, i+1)
		}
	}
	want := scheduler.Counts{Idle: idle, Held: held, Waiting: waiting}
	got := w.process.ledger.Counts(types.NamespacedName{Namespace: namespace, Name: pool.Name})
	got.Updated, got.StaleIdle, got.StaleStarting = 0, 0, 0
	if got != want {
		w.fail("the ledger counts %+v of pool %s, there are %+v", got, pool.Name, want)
	}
	if pool.DeletionTimestamp != nil {
		if idle > 0 {
			w.fail("pool %s is being deleted and has %d idle pods", pool.Name, idle)
		}
		return
	}
	if s := pool.Status; int(s.Total) != idle+held || int(s.Allocated) != held || int(s.Available) != idle || int(s.Waiting) != waiting || s.ObservedGeneration != pool.Generation {
		w.fail("the status of pool %s is wrong", pool.Name)
	}
	switch total := idle + held; {
	case len(queue) > 0 && queue[0].usable+min(idle, queue[0].missing) >= min(queue[0].gang(), queue[0].usable+queue[0].missing) && idle > 0:
		w.fail("batch %s waits at the head of the queue, and %d pods of pool %s are idle", queue[0].batch.Name, idle, pool.Name)
	case len(queue) > 0 && total < int(spec.PoolMax):
		w.fail("batch %s waits, and pool %s could grow", queue[0].batch.Name, pool.Name)
	case len(queue) > 0 && !meta.IsStatusConditionTrue(pool.Status.Conditions, v1alpha1.ConditionScalingLimited):
		w.fail("pool %s doesn't tell why batch %s waits", pool.Name, queue[0].batch.Name)
	case len(queue) > 0:
	case total > max(int(spec.PoolMax), held):
		w.fail("pool %s has %d pods, more than poolMax", pool.Name, total)
	case idle > max(int(spec.BufferMax), int(spec.PoolMin)-held, 0):
		w.fail("pool %s has %d idle pods, more than bufferMax", pool.Name, idle)
	case idle < min(int(spec.BufferMin), int(spec.PoolMax)-held), total < int(spec.PoolMin):
		w.fail("pool %s has %d idle pods of %d, too few", pool.Name, idle, total)
	}
}

// checkBatch checks that a batch has all it asks for, or tells why not.
func (w *world) checkBatch(sb *v1alpha1.BatchSandbox) {
	d := w.demandOf(sb)
	c := meta.FindStatusCondition(sb.Status.Conditions, v1alpha1.ConditionAllocated)
	want := w.reasonOf(d)
	tells := want
	if obj, err := w.server.get(kindPool, sb.Spec.PoolRef); err == nil && want == v1alpha1.ReasonWaitingForPool &&
		d.usable+d.missing > int(obj.(*v1alpha1.Pool).Spec.CapacitySpec.PoolMax) {
		tells = v1alpha1.ReasonExceedsPoolMax // a part of it waits
	}
	switch {
	case c == nil || c.Reason != tells || (c.Status == metav1.ConditionTrue) != (want == v1alpha1.ReasonAllocated):
		w.fail("batch %s tells %+v, it should tell %s", sb.Name, c, tells)
	case sb.Status.ObservedGeneration != sb.Generation:
		w.fail("batch %s has an old status", sb.Name)
	case int(sb.Status.Replicas) != d.usable || int(sb.Status.Ready) != d.usable:
		w.fail("batch %s has %d sandboxes, and its status says %d, %d of them Ready", sb.Name, d.usable, sb.Status.Replicas, sb.Status.Ready)
	case (sb.Status.Queue != nil) != (want == v1alpha1.ReasonWaitingForPool):
		w.fail("batch %s tells place %+v of the queue and %s", sb.Name, sb.Status.Queue, want)
	}
	if sb.Spec.TaskTemplate != nil {
		w.checkTasks(sb)
	}
	var ips []string
	if value := sb.Annotations[v1alpha1.EndpointsAnnotation]; value != "" {
		mustDecode([]byte(value), &ips)
	}
	for i, name := range w.audit.named[sb.Name] {
		ip := ""
		if obj, err := w.server.get(kindPod, name); err == nil && runs(asPod(obj)) {
			ip = asPod(obj).Status.PodIP
		}
		if slices.Contains(givenBack(sb), i) && name != "" {
			w.fail("batch %s holds index %d, which it is to give back", sb.Name, i)
		}
		if i >= int(*sb.Spec.Replicas) && name != "" {
			w.fail("batch %s holds index %d, beyond its replicas", sb.Name, i)
		}
		if i >= len(ips) || ips[i] != ip {
			w.fail("batch %s tells endpoints %v, index %d is at %q", sb.Name, ips, i, ip)
		}
	}
}

// checkQuiet reconciles everything once more, which must not write anything, nor ask for more.
func (w *world) checkQuiet() {
	for i := range w.process.queue.later {
		if i.author == poolController && w.hasEndings(i.name) {
			continue
		}
		w.fail("%s asks to be looked at again and again", i)
	}
	before := w.server.version
	for _, k := range []kind{kindBatch, kindPool} {
		for _, name := range slices.Sorted(maps.Keys(w.server.objects[k])) {
			who := batchController
			if k == kindPool {
				who = poolController
			}
			w.run(w.start(item{who, name}))
			if w.server.version != before {
				w.fail("a reconcile of %s %s at rest writes", k, name)
			}
		}
	}
}

// hasEndings says whether a pool waits to see whether its pods last.
func (w *world) hasEndings(pool string) bool {
	obj, err := w.server.get(kindPool, pool)
	return err == nil && meta.IsStatusConditionTrue(obj.(*v1alpha1.Pool).Status.Conditions, v1alpha1.ConditionPodsFailing)
}

// checkRestart starts the controller again, which must not change who has what.
func (w *world) checkRestart() {
	w.logf("* the controller starts again")
	before := maps.Clone(w.audit.named)
	pods := len(w.server.log[kindPod])
	w.kill(func(*call) bool { return false })
	w.startProcess(&w.process.cache)
	w.rest()
	w.checkRest()
	if !maps.EqualFunc(before, w.audit.named, slices.Equal) {
		w.fail("a restart at rest changes what batches hold from %v to %v", before, w.audit.named)
	}
	for _, c := range w.server.log[kindPod][pods:] {
		if c.before == nil || c.after == nil || c.after.GetDeletionTimestamp() != nil {
			w.fail("a restart at rest makes or deletes pod %s", c.name())
		}
	}
}

// checkEnd deletes everything, after which nothing may be left, nor known.
func (w *world) checkEnd() {
	w.logf("* everything is deleted")
	for _, k := range []kind{kindPool, kindBatch} {
		for _, obj := range w.server.list(k) {
			w.mustRemove(k, obj.GetName())
		}
	}
	for _, sb := range w.batches(func(*v1alpha1.BatchSandbox) bool { return true }) {
		w.removeForeignFinalizer(sb)
	}
	w.rest()
	for _, k := range []kind{kindPod, kindBatch, kindPool} {
		for _, obj := range w.server.list(k) {
			w.fail("%s %s is left in the end", k, obj.GetName())
		}
	}
	for _, name := range []string{"p", "q"} {
		if n := w.process.ledger.Counts(types.NamespacedName{Namespace: namespace, Name: name}); n != (scheduler.Counts{}) {
			w.fail("the ledger counts %+v of pool %s in the end", n, name)
		}
	}
}
