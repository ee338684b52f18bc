// SPDX-License-Identifier: Apache-2.0

package history

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"opensandbox.io/controller/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/wrappers"
)

// actions are what may happen next. Those that can't happen now are skipped. An action that is there several times, told
// apart by what follows the name, happens that much more often.
func (w *world) actions() map[string]func(*rapid.T) {
	actions := map[string]func(*rapid.T){}
	for name, a := range map[string]struct {
		weight int
		do     func() bool
	}{
		"events arrive":            {4, w.eventsArrive},
		"all events arrive":        {4, w.allEventsArrive},
		"a watch breaks":           {1, w.watchBreaks},
		"a reconcile runs":         {10, w.reconcileRuns},
		"a reconcile begins":       {4, w.reconcileBegins},
		"a call goes through":      {6, w.callGoesThrough},
		"a late write lands":       {3, w.lateWriteLands},
		"the controller restarts":  {1, w.restarts},
		"time passes":              {3, w.timePasses},
		"a batch is made":          {5, w.batchIsMade},
		"a batch is scaled":        {3, w.batchIsScaled},
		"a batch is deleted":       {3, w.batchIsDeleted},
		"a finalizer is removed":   {1, w.finalizerIsRemoved},
		"a batch is torn away":     {1, w.batchIsTornAway},
		"a pool is resized":        {2, w.poolIsResized},
		"a template is edited":     {1, w.templateIsEdited},
		"a recycle type is edited": {1, w.recycleTypeIsEdited},
		"a pool is deleted":        {1, w.poolIsDeleted},
		"a pool is made":           {1, w.poolIsMade},
		"pods become Ready":        {6, w.podsBecomeReady},
		"a pod becomes NotReady":   {1, w.podBecomesNotReady},
		"a pod fails":              {1, w.podFails},
		"a pod is deleted":         {1, w.podIsDeleted},
		"a pod is to be evicted":   {1, w.podIsToBeEvicted},
		"a deleted pod goes":       {3, w.deletedPodGoes},
		"containers restart":       {3, w.containersRestart},
		"garbage is collected":     {1, w.collectGarbage},
		"a task ends":              {8, w.taskEndsSomehow},
		"what a task left ends":    {3, w.whatATaskLeftEnds},
		"all goes on for a while":  {4, w.allGoesOn},
	} {
		for i := range a.weight {
			actions[name+strings.Repeat(" ", i)] = func(t *rapid.T) {
				w.logf("* %s at %s", name, time.Now().Format("15:04:05.000"))
				if !a.do() {
					t.Skip()
				}
				w.settle()
			}
		}
	}
	return actions
}

func draw[T any](w *world, what string, from ...T) T { return rapid.SampledFrom(from).Draw(w.t, what) }

func (w *world) drawPod(wanted func(pod *corev1.Pod) bool) *corev1.Pod {
	pods := w.pods(wanted)
	if len(pods) == 0 {
		return nil
	}
	return pods[rapid.IntRange(0, len(pods)-1).Draw(w.t, "pod")]
}

func (w *world) drawBatch(wanted func(sb *v1alpha1.BatchSandbox) bool) *v1alpha1.BatchSandbox {
	batches := w.batches(wanted)
	if len(batches) == 0 {
		return nil
	}
	return batches[rapid.IntRange(0, len(batches)-1).Draw(w.t, "batch")]
}

func (w *world) batches(wanted func(sb *v1alpha1.BatchSandbox) bool) []*v1alpha1.BatchSandbox {
	var batches []*v1alpha1.BatchSandbox
	for _, obj := range w.server.list(kindBatch) {
		if sb := obj.(*v1alpha1.BatchSandbox); wanted(sb) {
			batches = append(batches, sb)
		}
	}
	return batches
}

func (w *world) drawPool(wanted func(p *v1alpha1.Pool) bool) *v1alpha1.Pool {
	var pools []*v1alpha1.Pool
	for _, obj := range w.server.list(kindPool) {
		if p := obj.(*v1alpha1.Pool); wanted(p) {
			pools = append(pools, p)
		}
	}
	if len(pools) == 0 {
		return nil
	}
	return pools[rapid.IntRange(0, len(pools)-1).Draw(w.t, "pool")]
}

// --- the controller and its view --------------------------------------------------------------------------

func (w *world) eventsArrive() bool {
	p := w.process
	var possible []int
	for k := range numKinds {
		if p.behind(k) > 0 {
			possible = append(possible, int(k))
		}
	}
	if len(p.cache.unfed) > 0 {
		possible = append(possible, int(numKinds))
	}
	if len(possible) == 0 {
		return false
	}
	k := kind(draw(w, "watch", possible...))
	for range rapid.IntRange(1, 4).Draw(w.t, "events") {
		switch {
		case k == numKinds && len(p.cache.unfed) > 0:
			p.feed()
		case k < numKinds && p.behind(k) > 0:
			p.deliver(k)
		}
	}
	w.settle()
	return true
}

func (w *world) allEventsArrive() bool {
	p := w.process
	some := false
	for k := range numKinds {
		for p.behind(k) > 0 {
			p.deliver(k)
			some = true
		}
	}
	for len(p.cache.unfed) > 0 {
		p.feed()
		some = true
	}
	w.settle()
	return some
}

func (w *world) watchBreaks() bool {
	k := draw(w, "watch", kindPod, kindBatch, kindPool)
	if w.process.behind(k) == 0 {
		return false
	}
	w.process.relist(k)
	return true
}

func (w *world) drawItem() (item, bool) {
	items := w.process.runnable()
	if len(items) == 0 {
		return item{}, false
	}
	return items[rapid.IntRange(0, len(items)-1).Draw(w.t, "item")], true
}

func (w *world) reconcileRuns() bool {
	i, ok := w.drawItem()
	if ok {
		w.run(w.start(i))
	}
	return ok
}

// run lets a task run to its end.
func (w *world) run(t *task) {
	for !t.done.Load() {
		w.let(w.callOf(t), answerDone)
	}
}

func (w *world) callOf(t *task) *call {
	for _, c := range w.gate.calls() {
		if c.task == t {
			return c
		}
	}
	w.fail("%s waits for something that is no call", t)
	return nil
}

func (w *world) reconcileBegins() bool {
	i, ok := w.drawItem()
	if ok {
		w.start(i)
	}
	return ok
}

func (w *world) callGoesThrough() bool {
	calls := w.gate.calls()
	if len(calls) == 0 {
		return false
	}
	c := calls[rapid.IntRange(0, len(calls)-1).Draw(w.t, "call")]
	answers := []answer{answerDone, answerDone, answerLost, answerReplyLost}
	if strings.HasPrefix(c.verb, "patch") {
		answers = append(answers, answerRaced, answerLater, answerSoon)
	}
	w.let(c, draw(w, "answer", answers...))
	return true
}

func (w *world) lateWriteLands() bool {
	if len(w.underway) == 0 {
		return false
	}
	i := rapid.IntRange(0, len(w.underway)-1).Draw(w.t, "call")
	w.lands(i)
	return true
}

func (w *world) lands(i int) {
	c := w.underway[i]
	w.underway = slices.Delete(w.underway, i, i+1)
	_, err := c.do()
	w.logf("  %s lands late: %v", c, err)
}

func (w *world) restarts() bool {
	p := w.process
	stale := rapid.Bool().Draw(w.t, "with stale caches")
	w.kill(func(c *call) bool {
		return strings.HasPrefix(c.verb, "patch") && c.task.author != rebuilder && rapid.Bool().Draw(w.t, "still lands")
	})
	before := &p.cache
	if !stale {
		for k := range numKinds {
			p.relist(k)
		}
	}
	w.startProcess(before)
	return true
}

func (w *world) timePasses() bool {
	w.sleep(draw(w, "for", time.Millisecond, 100*time.Millisecond, 300*time.Millisecond, time.Second, 5*time.Second, 30*time.Second, 2*time.Minute))
	w.settle()
	return true
}

// --- users ------------------------------------------------------------------------------------------------

// foreignFinalizer keeps a batch, and is none of the controllers' business.
const foreignFinalizer = "example.com/keep"

func (w *world) mustCreate(obj objectOf) {
	if _, err := w.server.create(nil, obj); err != nil {
		w.fail("create %s: %v", obj.GetName(), err)
	}
}

func (w *world) batchIsMade() bool {
	var free []string
	for i := range 5 {
		name := fmt.Sprintf("b%d", i)
		if _, taken := w.server.objects[kindBatch][name]; !taken {
			free = append(free, name)
		}
	}
	if len(free) == 0 {
		return false
	}
	replicas := rapid.Int32Range(1, 4).Draw(w.t, "replicas")
	b := wrappers.MakeBatch(namespace, draw(w, "name", free...)).UID("").Pool(draw(w, "pool", "p", "p", "p", "q")).Replicas(replicas)
	if n := draw(w, "priority", 0, 0, 0, 1); n != 0 {
		b.Priority(int32(n))
	}
	if rapid.IntRange(0, 3).Draw(w.t, "gang") == 3 {
		b.MinAvailable(rapid.Int32Range(1, replicas).Draw(w.t, "minAvailable"))
	}
	if rapid.IntRange(0, 7).Draw(w.t, "timeout") == 7 {
		b.AllocationTimeout(10)
	}
	if rapid.IntRange(0, 9).Draw(w.t, "kept") == 9 {
		b.Finalizers(foreignFinalizer)
	}
	if rapid.Bool().Draw(w.t, "tasks") {
		b.Task("true")
		limit := rapid.Int32Range(0, 2).Draw(w.t, "backoffLimit")
		b.TaskSpec(func(s *v1alpha1.TaskSpec) { s.BackoffLimit = &limit })
		if rapid.Bool().Draw(w.t, "releases") {
			b.Releases()
		}
	}
	obj := b.Obj()
	w.logf("  %s %s", obj.Name, asJSON(obj.Spec))
	w.mustCreate(obj)
	return true
}

func (w *world) batchIsScaled() bool {
	sb := w.drawBatch(func(sb *v1alpha1.BatchSandbox) bool { return sb.DeletionTimestamp == nil })
	if sb == nil {
		return false
	}
	n := rapid.Int32Range(0, 4).Draw(w.t, "replicas")
	if n == *sb.Spec.Replicas {
		return false
	}
	w.logf("  %s to %d", sb.Name, n)
	w.server.update(kindBatch, sb.Name, func(obj objectOf) bool {
		obj.(*v1alpha1.BatchSandbox).Spec.Replicas = &n
		return true
	})
	return true
}

func (w *world) mustRemove(k kind, name string) {
	w.logf("  %s %s", k, name)
	if err := w.server.remove(nil, k, name, nil); err != nil {
		w.fail("delete %s %s: %v", k, name, err)
	}
}

func (w *world) batchIsDeleted() bool {
	sb := w.drawBatch(func(sb *v1alpha1.BatchSandbox) bool { return sb.DeletionTimestamp == nil })
	if sb == nil {
		return false
	}
	w.mustRemove(kindBatch, sb.Name)
	return true
}

func (w *world) finalizerIsRemoved() bool {
	sb := w.drawBatch(func(sb *v1alpha1.BatchSandbox) bool { return slices.Contains(sb.Finalizers, foreignFinalizer) })
	if sb == nil {
		return false
	}
	w.removeForeignFinalizer(sb)
	return true
}

func (w *world) removeForeignFinalizer(sb *v1alpha1.BatchSandbox) {
	w.server.update(kindBatch, sb.Name, func(obj objectOf) bool {
		obj.SetFinalizers(slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool { return f == foreignFinalizer }))
		return false
	})
}

// batchIsTornAway takes all finalizers from a batch that is being deleted, as impatient users do. Its pods were not given back.
// Where they have no labels yet nothing durable tells so: that is asked too much.
func (w *world) batchIsTornAway() bool {
	sb := w.drawBatch(func(sb *v1alpha1.BatchSandbox) bool {
		return sb.DeletionTimestamp != nil && sb.Spec.TaskTemplate == nil
	})
	if sb == nil {
		return false
	}
	w.logf("  %s", sb.Name)
	for _, name := range w.audit.named[sb.Name] {
		obj, err := w.server.get(kindPod, name)
		if err == nil && obj.GetLabels()[v1alpha1.BatchNameLabel] == "" {
			delete(w.audit.contaminated, obj.GetUID())
		}
	}
	w.server.update(kindBatch, sb.Name, func(obj objectOf) bool {
		obj.SetFinalizers(nil)
		return false
	})
	return true
}

func (w *world) drawCapacity() v1alpha1.CapacitySpec {
	c := v1alpha1.CapacitySpec{
		BufferMin: rapid.Int32Range(0, 2).Draw(w.t, "bufferMin"),
		PoolMax:   rapid.Int32Range(1, 6).Draw(w.t, "poolMax"),
	}
	c.BufferMax = c.BufferMin + rapid.Int32Range(0, 2).Draw(w.t, "bufferMax above bufferMin")
	c.PoolMin = min(c.PoolMax, rapid.Int32Range(0, 2).Draw(w.t, "poolMin"))
	return c
}

func (w *world) drawRecycling() *v1alpha1.RecycleStrategy {
	return draw(w, "recycling",
		&v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleDelete},
		&v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleNoop},
		&v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleRestart},
		&v1alpha1.RecycleStrategy{Type: v1alpha1.RecycleRestart},
		nil)
}

// template is a pod template of an age.
func template(age int) string {
	return fmt.Sprintf(`{"spec":{"containers":[{"name":"sandbox","image":"i%d"},{"name":"task-executor","image":"e"}]}}`, age)
}

func (w *world) createPool(name string) {
	p := wrappers.MakePool(namespace, name).Template(template(0)).Obj()
	p.UID = ""
	p.Spec.CapacitySpec = w.drawCapacity()
	p.Spec.RecycleStrategy = w.drawRecycling()
	w.logf("  pool %s %+v %+v", name, p.Spec.CapacitySpec, p.Spec.RecycleStrategy)
	w.mustCreate(p)
}

func (w *world) editPool(change func(spec *v1alpha1.PoolSpec)) bool {
	p := w.drawPool(func(*v1alpha1.Pool) bool { return true })
	if p == nil {
		return false
	}
	w.server.update(kindPool, p.Name, func(obj objectOf) bool {
		spec := &obj.(*v1alpha1.Pool).Spec
		change(spec)
		w.logf("  pool %s %+v %+v", p.Name, spec.CapacitySpec, spec.RecycleStrategy)
		return true
	})
	return true
}

func (w *world) poolIsResized() bool {
	return w.editPool(func(spec *v1alpha1.PoolSpec) { spec.CapacitySpec = w.drawCapacity() })
}

func (w *world) templateIsEdited() bool {
	return w.editPool(func(spec *v1alpha1.PoolSpec) {
		spec.Template.Raw = []byte(template(rapid.IntRange(0, 3).Draw(w.t, "template")))
	})
}

func (w *world) recycleTypeIsEdited() bool {
	return w.editPool(func(spec *v1alpha1.PoolSpec) { spec.RecycleStrategy = w.drawRecycling() })
}

func (w *world) poolIsDeleted() bool {
	p := w.drawPool(func(p *v1alpha1.Pool) bool { return p.DeletionTimestamp == nil })
	if p == nil {
		return false
	}
	w.mustRemove(kindPool, p.Name)
	return true
}

func (w *world) poolIsMade() bool {
	for _, name := range []string{"p", "q"} {
		if _, taken := w.server.objects[kindPool][name]; !taken {
			w.createPool(name)
			return true
		}
	}
	return false
}

// --- pods -------------------------------------------------------------------------------------------------

func starts(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && (pod.Status.Phase == corev1.PodPending || pod.Status.Phase == corev1.PodRunning && !isReady(pod))
}

func runs(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning
}

func (w *world) recycles(pod *corev1.Pod) bool {
	at := w.containers[pod.UID]
	return runs(pod) && at != nil && (at.asked != "" || at.halfway && !at.alone)
}

func (w *world) podsBecomeReady() bool {
	pods := w.pods(func(pod *corev1.Pod) bool { return starts(pod) && !w.recycles(pod) })
	if len(pods) == 0 {
		return false
	}
	n := rapid.IntRange(1, len(pods)).Draw(w.t, "pods")
	for _, pod := range pods[:n] {
		w.becomeReady(pod)
	}
	return true
}

func (w *world) podBecomesNotReady() bool {
	pod := w.drawPod(func(pod *corev1.Pod) bool { return runs(pod) && isReady(pod) })
	if pod == nil {
		return false
	}
	w.updatePod(pod, func(pod *corev1.Pod) { setReady(pod, corev1.ConditionFalse) })
	return true
}

func (w *world) podFails() bool {
	pod := w.drawPod(runs)
	if pod == nil {
		return false
	}
	w.logf("  %s", pod.Name)
	w.fails(pod)
	return true
}

func (w *world) podIsDeleted() bool {
	pod := w.drawPod(func(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil })
	if pod == nil {
		return false
	}
	w.mustRemove(kindPod, pod.Name)
	return true
}

func (w *world) podIsToBeEvicted() bool {
	pod := w.drawPod(func(pod *corev1.Pod) bool { return pod.Labels[v1alpha1.EvictLabel] == "" })
	if pod == nil {
		return false
	}
	w.logf("  %s", pod.Name)
	w.updatePod(pod, func(pod *corev1.Pod) { metav1.SetMetaDataLabel(&pod.ObjectMeta, v1alpha1.EvictLabel, "please") })
	return true
}

func (w *world) deletedPodGoes() bool {
	pod := w.drawPod(func(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	if pod == nil {
		return false
	}
	w.server.kill(pod.Name)
	return true
}

func (w *world) containersRestart() bool {
	pod := w.drawPod(w.recycles)
	if pod == nil {
		return false
	}
	w.restart(pod, w.drawRestart())
	return true
}

func (w *world) drawRestart() restart {
	return draw(w, "restart", restartClean, restartClean, restartClean, restartUnclean, restartAlone)
}

func (w *world) taskEndsSomehow() bool {
	pod := w.drawPod(func(pod *corev1.Pod) bool {
		at := w.containers[pod.UID]
		return at != nil && at.up && at.running() != nil
	})
	if pod == nil {
		return false
	}
	w.taskEnds(pod, draw(w, "as", taskexecutor.ReasonNonZeroExit, taskexecutor.ReasonTimedOut, taskexecutor.ReasonExecutorLost,
		taskexecutor.ReasonSandboxLost, taskexecutor.ReasonCompleted, taskexecutor.ReasonStartError))
	return true
}

func (w *world) whatATaskLeftEnds() bool {
	pod := w.drawPod(w.hasLeftovers)
	if pod == nil {
		return false
	}
	w.leftoversEnd(pod)
	return true
}

// allGoesOn lets everything work for a while without faults. Writes that are late land first, as they do at rest: one of a pool's
// status that lands after a later one would stay until the pool changes.
func (w *world) allGoesOn() bool {
	for len(w.underway) > 0 {
		w.lands(0)
	}
	for range rapid.IntRange(1, 20).Draw(w.t, "rounds") {
		if !w.round() {
			w.sleep(200 * time.Millisecond)
			w.settle()
		}
	}
	return true
}
