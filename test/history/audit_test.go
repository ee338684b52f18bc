// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

type objectOf = client.Object

// holder is an index of a batch that names a pod.
type holder struct {
	batch string
	uid   types.UID
	index int
}

// audit follows what lands in the API server, and nothing else, and fails the history where a promise is broken.
type audit struct {
	w *world

	// named are the pods of each live batch, by index.
	named map[string][]string
	// holders are the live batches that name a pod.
	holders map[string]holder

	// contaminated says whose traces are in a pod that is not fit for anybody else.
	contaminated map[types.UID]types.UID

	// tries are the pods in which a try of a task was started, and ends how those ended that did, by name.
	tries map[string]types.UID
	ends  map[string]string

	// queued is the resourceVersion since which a batch's status says that it waits in the queue, by UID.
	queued map[types.UID]int64
}

func newAudit(w *world) audit {
	return audit{
		w: w, named: map[string][]string{}, holders: map[string]holder{}, contaminated: map[types.UID]types.UID{},
		queued: map[types.UID]int64{}, tries: map[string]types.UID{}, ends: map[string]string{},
	}
}

func (a *audit) written(by *call, k kind, c change) {
	switch k {
	case kindPod:
		a.podWritten(by, c)
	case kindBatch:
		a.batchWritten(by, c)
	}
}

func (c *call) by(who author) bool { return c != nil && c.task.author == who }

func asPod(obj client.Object) *corev1.Pod {
	pod, _ := obj.(*corev1.Pod)
	return pod
}

func (a *audit) podWritten(by *call, c change) {
	before, after := asPod(c.before), asPod(c.after)
	if by == nil {
		return
	}
	if before == nil {
		a.podCreated(by, after)
		return
	}
	h, held := a.holders[before.Name]
	deleted := after == nil || (after.DeletionTimestamp != nil && before.DeletionTimestamp == nil)
	switch {
	case held && deleted && by.by(poolController):
		a.w.fail("the pool controller deletes pod %s, which batch %s holds", before.Name, h.batch)
	case held && deleted && h.batch != by.task.name:
		a.w.fail("%s deletes pod %s, which batch %s holds", by, before.Name, h.batch)
	case held && after != nil && after.Annotations[v1alpha1.RecyclingAnnotation] != before.Annotations[v1alpha1.RecyclingAnnotation] && h.batch != by.task.name:
		a.w.fail("%s marks or unmarks pod %s, which batch %s holds", by, before.Name, h.batch)
	case after != nil && after.Labels[v1alpha1.BatchNameLabel] != "" && before.Labels[v1alpha1.BatchNameLabel] == "" && a.isSomebodyElses(by, before.Name):
		a.w.fail("%s labels pod %s, which batch %q holds", by, before.Name, h.batch)
	case !held && after != nil && by.by(batchController) && before.Labels[v1alpha1.BatchNameLabel] == by.task.name && after.Labels[v1alpha1.BatchNameLabel] == "":
		// The batch was torn away while the controller released its sandboxes.
		a.maybeFit(by, before.Labels[v1alpha1.PoolNameLabel], before.UID)
	}
}

// isSomebodyElses says that a pod is not that of the batch which is reconciled. A batch that was torn away has them all.
func (a *audit) isSomebodyElses(by *call, pod string) bool {
	if h, held := a.holders[pod]; held {
		return h.batch != by.task.name
	}
	_, err := a.w.server.get(kindBatch, by.task.name)
	return err == nil && a.named[by.task.name] != nil
}

// podCreated checks the bound: the greatest poolMax that the controller could have known of when it decided.
func (a *audit) podCreated(by *call, pod *corev1.Pod) {
	name := pod.Labels[v1alpha1.PoolNameLabel]
	if name == "" {
		return
	}
	n := len(a.w.pods(func(p *corev1.Pod) bool { return p.Labels[v1alpha1.PoolNameLabel] == name }))
	most := int32(0)
	for _, p := range a.poolsSince(name, by.task.poolCursor) {
		most = max(most, p.Spec.CapacitySpec.PoolMax)
	}
	if n > int(most) {
		a.w.fail("%s makes pod %d of pool %s, which may have %d", by, n, name, most)
	}
}

// poolsSince are the states of a pool from the one that a cache at this place showed.
func (a *audit) poolsSince(name string, cursor int) []*v1alpha1.Pool {
	var pools []*v1alpha1.Pool
	log := a.w.server.log[kindPool]
	for i := len(log) - 1; i >= 0; i-- {
		if log[i].name() != name {
			continue
		}
		if p, ok := log[i].after.(*v1alpha1.Pool); ok {
			pools = append(pools, p)
		}
		if i < cursor {
			break
		}
	}
	return pools
}

func allocated(sb *v1alpha1.BatchSandbox) []string {
	value, ok := sb.Annotations[v1alpha1.AllocStatusAnnotation]
	if !ok {
		return nil
	}
	var status struct {
		Pods []string `json:"pods"`
	}
	mustDecode([]byte(value), &status)
	return status.Pods
}

// live says that what a batch's alloc-status names is the batch's: it is not when the controller has let go.
func live(sb *v1alpha1.BatchSandbox) bool {
	return sb != nil && (sb.DeletionTimestamp == nil || slices.Contains(sb.Finalizers, v1alpha1.PoolAllocationFinalizer))
}

func (a *audit) batchWritten(by *call, c change) {
	before, _ := c.before.(*v1alpha1.BatchSandbox)
	after, _ := c.after.(*v1alpha1.BatchSandbox)
	a.noteQueue(before, after)
	a.checkTries(before, after)
	name := c.name()
	var is []string
	if live(after) {
		is = allocated(after)
	}
	was := a.named[name]
	if slices.Equal(was, is) {
		return
	}
	a.named[name] = is
	for index, pod := range was {
		if h := a.holders[pod]; pod != "" && h.batch == name && !slices.Contains(is, pod) {
			delete(a.holders, pod)
			a.released(by, before, pod)
		}
		_ = index
	}
	var got []string
	for index, pod := range is {
		if pod == "" {
			continue
		}
		if h, held := a.holders[pod]; held && (h.batch != name || h.uid != after.UID) {
			a.w.fail("pod %s is given to index %d of batch %s while batch %s holds it", pod, index, name, h.batch)
		} else if held && h.index != index && h.index < len(is) && is[h.index] == pod {
			a.w.fail("pod %s is given to two indexes of batch %s", pod, name)
		} else if !held {
			got = append(got, pod)
			a.handedOut(by, after, pod)
		}
		a.holders[pod] = holder{batch: name, uid: after.UID, index: index}
	}
	if len(got) > 0 && by != nil {
		a.checkGang(after, is)
		a.checkOrder(by, after)
	}
}

// checkGang fails if a batch is given fewer pods than it wants together.
func (a *audit) checkGang(sb *v1alpha1.BatchSandbox, pods []string) {
	held := len(pods)
	for _, pod := range pods {
		if pod == "" {
			held--
		}
	}
	if gang := (demand{batch: sb}).gang() - len(givenBack(sb)); held < gang {
		a.w.fail("batch %s is given %d pods, and wants %d together", sb.Name, held, gang)
	}
}

// handedOut checks that a pod is fit for a batch, and notes that it is used from now on.
func (a *audit) handedOut(by *call, sb *v1alpha1.BatchSandbox, name string) {
	obj, err := a.w.server.get(kindPod, name)
	if err != nil {
		return // it went meanwhile; nobody gets to see it
	}
	pod := asPod(obj)
	if since, unfit := a.w.process.cache.unfit[pod.UID]; unfit && by != nil && by.task.process == a.w.process && since < by.task.id {
		a.w.fail("pod %s is given to batch %s, though its watch told that it is not fit", name, sb.Name)
	}
	if user, dirty := a.contaminated[pod.UID]; dirty && user != sb.UID {
		a.w.fail("pod %s is given to batch %s with the traces of batch %s in it", name, sb.Name, user)
	}
	if at := a.w.containers[pod.UID]; at != nil && at.running() != nil {
		a.w.fail("pod %s is given to batch %s while task %s runs in it", name, sb.Name, at.running().Name)
	}
	if label := pod.Labels[v1alpha1.BatchNameLabel]; label != "" && label != sb.Name {
		a.w.fail("pod %s is given to batch %s with the labels of batch %s on it", name, sb.Name, label)
	}
	a.contaminated[pod.UID] = sb.UID
}

// released notes that a batch has let a pod go.
func (a *audit) released(by *call, sb *v1alpha1.BatchSandbox, name string) {
	obj, err := a.w.server.get(kindPod, name)
	if err != nil || by == nil {
		return
	}
	a.maybeFit(by, sb.Spec.PoolRef, obj.GetUID())
}

// maybeFit notes that a released pod may be handed on as it is, if that is what its pool says.
func (a *audit) maybeFit(by *call, pool string, pod types.UID) {
	for _, p := range a.poolsSince(pool, by.task.poolCursor) {
		if p.Spec.RecycleStrategy != nil && p.Spec.RecycleStrategy.Type == v1alpha1.RecycleNoop {
			delete(a.contaminated, pod)
		}
	}
}

func (a *audit) noteQueue(before, after *v1alpha1.BatchSandbox) {
	switch {
	case after == nil:
		delete(a.queued, before.UID)
	case after.Status.Queue == nil, after.DeletionTimestamp != nil:
		delete(a.queued, after.UID)
	case before == nil || before.Status.Queue == nil:
		a.queued[after.UID] = a.w.server.version
	}
}

// precedes says that a batch is to be served before another one of its pool.
func precedes(a, b *v1alpha1.BatchSandbox) bool {
	return cmp.Or(
		cmp.Compare(priority(b), priority(a)),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Name, b.Name),
	) < 0
}

func priority(sb *v1alpha1.BatchSandbox) int32 {
	if sb.Spec.Priority == nil {
		return 0
	}
	return *sb.Spec.Priority
}

// checkOrder fails if a batch that was told its place in the queue, before the served one was looked at, is overtaken.
func (a *audit) checkOrder(by *call, served *v1alpha1.BatchSandbox) {
	for _, obj := range a.w.server.list(kindBatch) {
		sb := obj.(*v1alpha1.BatchSandbox)
		since, queued := a.queued[sb.UID]
		busy := slices.ContainsFunc(by.task.process.tasks, func(t *task) bool { return t.author == batchController && t.name == sb.Name })
		if !queued || since >= by.task.began || busy || sb.Spec.PoolRef != served.Spec.PoolRef || !precedes(sb, served) ||
			sb.Generation != sb.Status.ObservedGeneration || sb.UID == served.UID {
			continue
		}
		a.w.fail("batch %s is served before batch %s, which waits and comes first", served.Name, sb.Name)
	}
}

func asJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(data)
}
