// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/leading"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/internal/utils/podutil"
	"opensandbox.io/controller/internal/utils/slowstart"
)

// pace is the least time between two partial deliveries of a batch; the first and the last go at once.
const pace = 250 * time.Millisecond

// outcome is what came of a plan, beside the effects.
type outcome struct {
	// problem is a mistake that only the API server could find; nil if there is none.
	problem *problem

	// queue is the place in the pool's queue; nil if the batch doesn't wait.
	queue *v1alpha1.QueueStatus

	// released are the indexes whose sandboxes are fit for the next user, and not written as given back yet.
	released []int

	// retryAfter is when to go on with what was put off; 0 for nothing put off.
	retryAfter time.Duration
}

func (o *outcome) retryIn(d time.Duration) {
	if o.retryAfter == 0 || d < o.retryAfter {
		o.retryAfter = d
	}
}

// apply carries out a plan. obs follows what it does, so that the status tells of it.
func (r *Reconciler) apply(ctx context.Context, obs *observed, p plan, m *memory) (outcome, error) {
	var out outcome
	if err := r.recordInherited(ctx, obs, m); err != nil {
		return out, err
	}
	if recorded, err := r.recordTries(ctx, obs, p.unserved, m); err != nil {
		return out, err
	} else if recorded {
		out.retryIn(time.Millisecond) // ends that are recorded may release sandboxes or start the time to live
	}
	var err, releaseErr error
	out.released, releaseErr = r.release(ctx, obs, p.release)
	if len(out.released) > 0 {
		m.losses.released(obs, out.released)
		for _, index := range out.released {
			delete(m.made, obs.sandboxes[index].podUID)
		}
		r.events.released(obs.sb, len(out.released))
	}
	if obs.pooled() {
		err = r.allocate(ctx, obs, p, m, &out)
	} else {
		err = r.makePods(ctx, obs, p, m, &out)
	}
	return out, errors.Join(releaseErr, err)
}

// key tells two pods of one index apart: by their names, which a pool never gives twice, and by the UID of those that
// the batch made itself. It is the same while the pod ends and when it is gone, and "" where there is none.
func (s sandbox) key() string {
	if s.pod == nil {
		return s.podName
	}
	return s.podName + "/" + string(s.podUID)
}

// allocate asks the ledger for what is missing and writes all that changed in one patch.
func (r *Reconciler) allocate(ctx context.Context, obs *observed, p plan, m *memory, out *outcome) error {
	name := client.ObjectKeyFromObject(obs.sb)
	if r.putOff(obs, p, m, out) {
		return nil
	}
	var grants []scheduler.Grant
	if len(p.missing) == 0 {
		r.ledger.LeaveQueue(name)
	} else {
		res := r.ledger.Assume(demandOf(obs, p.missing))
		grants, out.queue = res.Grants, queueStatus(res.Place)
	}
	served := len(grants) == len(p.missing) && p.problem == nil && p.setAside == nil
	r.noteChoice(obs, m, len(grants), served)
	if err := r.giveUpStranded(ctx, obs, m, grants); err != nil {
		return err
	}
	had := slices.Clone(obs.sandboxes)
	for _, g := range grants {
		obs.sandboxes[g.Index] = sandboxOf(scheduler.Holding{PodName: g.Pod.Name, Pod: &g.Pod}, obs.sb.Name)
	}
	drop := slices.Concat(out.released, gone(obs))
	for _, index := range drop {
		obs.sandboxes[index] = sandbox{}
	}
	wanted := allocationOf(obs.sandboxes, obs.replicas())
	if out.problem = tooLarge(obs, wanted); out.problem != nil && len(grants) > 0 {
		obs.sandboxes = had
		r.giveUp(ctx, obs.sb)
		return nil
	}
	if err := r.writeAllocation(ctx, obs, m, wanted); err != nil {
		obs.sandboxes = had // the status must not tell of what was not written
		return err
	}
	if served {
		r.metrics.delivered(&m.delivery, r.clock.Now())
	}
	r.ledger.Release(name, drop)
	if len(grants) > 0 {
		r.metrics.allocated.Add(float64(len(grants)))
		logf.FromContext(ctx).Info("allocated pods", "pods", len(grants), "missing", len(p.missing)-len(grants))
		if !m.delivery.isWarm() {
			r.events.allocated(obs.sb, len(grants))
		}
	}
	return r.deleteEnded(ctx, obs)
}

// deleteEnded deletes the pods of sandboxes that ended and have no replacement yet: in a pool that is full there would never
// be one. The index is empty once the pod is gone.
func (r *Reconciler) deleteEnded(ctx context.Context, obs *observed) error {
	var ended []sandbox
	for i, s := range obs.sandboxes {
		if s.ended && obs.wanted(i) {
			ended = append(ended, s)
		}
	}
	_, err := slowstart.Do(ctx, len(ended), func(ctx context.Context, i int) error {
		s := ended[i]
		if err := r.deletePod(ctx, obs.sb.Namespace, s.podName, s.podUID); err != nil {
			return err
		}
		r.ledger.Discard(poolKey(obs.sb), s.podName)
		return nil
	})
	return err
}

// giveUp gives back what was assumed for a batch, and takes it out of the queue.
func (r *Reconciler) giveUp(ctx context.Context, sb *v1alpha1.BatchSandbox) {
	if pods, err := parseAllocStatus(sb); err == nil { // it was read before anything was assumed
		r.settle(ctx, sb, pods)
	}
	r.ledger.LeaveQueue(client.ObjectKeyFromObject(sb))
}

// putOff says whether a partial delivery comes too soon after the last one.
func (r *Reconciler) putOff(obs *observed, p plan, m *memory, out *outcome) bool {
	wait := pace - obs.now.Sub(m.lastDelivery)
	if wait <= 0 || obs.counts.Idle == 0 || len(p.missing) <= obs.counts.Idle {
		return false
	}
	out.retryIn(wait)
	out.queue = obs.sb.Status.Queue
	return true
}

func demandOf(obs *observed, missing []int) scheduler.Demand {
	d := scheduler.Demand{
		Batch: client.ObjectKeyFromObject(obs.sb), UID: obs.sb.UID, Pool: obs.sb.Spec.PoolRef,
		Missing: missing, Held: obs.usable(), MinAvailable: obs.gang(), Created: obs.sb.CreationTimestamp.Time,
		Told: placeTold(&obs.sb.Status),
	}
	if obs.sb.Spec.Priority != nil {
		d.Priority = *obs.sb.Spec.Priority
	}
	return d
}

// gone are the indexes whose pod is no object any more, or is marked as released: its pool recycles it.
func gone(obs *observed) []int {
	var indexes []int
	for i, s := range obs.sandboxes {
		if s.gone || s.recycling {
			indexes = append(indexes, i)
		}
	}
	return indexes
}

// allocation is what the two annotations say.
type allocation struct {
	pods, ips []string
}

// allocationOf lists the pods and addresses of the sandboxes by index, one entry per replica and more while higher ones
// are held. A lost sandbox keeps its pod until the pod is gone, but has no address any more.
func allocationOf(sandboxes []sandbox, replicas int) allocation {
	for len(sandboxes) > replicas && sandboxes[len(sandboxes)-1].podName == "" {
		sandboxes = sandboxes[:len(sandboxes)-1]
	}
	a := allocation{pods: make([]string, len(sandboxes)), ips: make([]string, len(sandboxes))}
	for i, s := range sandboxes {
		a.pods[i] = s.podName
		if !s.lost {
			a.ips[i] = s.ip
		}
	}
	return a
}

// changedAnnotations are the annotations that differ from an allocation. ok is false where nothing may be written: there is
// nothing to say yet, or somebody's edit must be repaired first.
func changedAnnotations(obs *observed, a allocation) (changed map[string]any, ok bool) {
	sb := obs.sb
	changed = map[string]any{}
	if obs.pooled() {
		written, has := sb.Annotations[v1alpha1.AllocStatusAnnotation]
		if !has && len(trim(a.pods)) == 0 {
			return nil, false
		}
		value := formatAllocStatus(a.pods)
		same := value == written // the usual case, which needs no reading
		if !same {
			current, err := parseAllocStatus(sb)
			if err != nil {
				return nil, false
			}
			same = equalPods(current, a.pods)
		}
		if !same {
			changed[v1alpha1.AllocStatusAnnotation] = value
			for _, key := range leftoverAnnotations(obs) {
				changed[key] = nil
			}
		}
	}
	if value := formatEndpoints(a.ips); sb.Annotations[v1alpha1.EndpointsAnnotation] != value {
		changed[v1alpha1.EndpointsAnnotation] = value
	}
	return changed, true
}

// writeAllocation writes the finalizers and both annotations in one patch, if any of them changes. When the answer is in
// doubt, the truth is read and the ledger follows it.
func (r *Reconciler) writeAllocation(ctx context.Context, obs *observed, m *memory, a allocation) error {
	sb := obs.sb
	annotations, ok := changedAnnotations(obs, a)
	if !ok {
		return nil
	}
	finalizers := wantedFinalizers(obs)
	if len(annotations) == 0 && len(withFinalizers(sb.Finalizers, finalizers)) == len(sb.Finalizers) {
		return nil
	}
	if obs.pooled() && !r.leads() {
		m.inDoubt = true // what was assumed is given up once the truth is read
		return leading.ErrLost
	}
	patched := sb.DeepCopy()
	m.delivery.writes++
	r.echoes.expect(client.ObjectKeyFromObject(sb), echoOf(sb, annotations, finalizers))
	err := r.client.Patch(ctx, patched, client.RawPatch(types.MergePatchType, allocationPatch(sb, annotations, finalizers)))
	if err != nil {
		r.echoes.take(client.ObjectKeyFromObject(sb))
		err = fmt.Errorf("patch allocation: %w", err)
		if obs.pooled() {
			m.inDoubt, m.conflicted = true, apierrors.IsConflict(err)
			if !isAnswer(err) {
				m.underway = sb.ResourceVersion
			}
			err = errors.Join(err, r.settleDoubt(ctx, sb, m))
		}
		return err
	}
	if obs.pooled() {
		r.ledger.Confirm(client.ObjectKeyFromObject(sb))
	}
	m.wrote(patched)
	m.lastDelivery = obs.now
	r.labels.deliver(obs.now)
	obs.sb = patched
	return nil
}

func equalPods(a, b []string) bool { return formatAllocStatus(a) == formatAllocStatus(b) }

func wantedFinalizers(obs *observed) []string {
	var finalizers []string
	if obs.pooled() {
		finalizers = append(finalizers, v1alpha1.PoolAllocationFinalizer)
	}
	if obs.hasTasks() {
		finalizers = append(finalizers, v1alpha1.TaskCleanupFinalizer)
	}
	return finalizers
}

// isAnswer says whether an error is the API server's answer to a write, which then can't land any more: a conflict says that
// the resourceVersion of its precondition is past. A write that was not even sent is as good.
func isAnswer(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) ||
		isTooLarge(err) || errors.Is(err, leading.ErrLost)
}

// isTooLarge says that the API server, or its storage, refuses an object for its size.
func isTooLarge(err error) bool {
	return apierrors.IsRequestEntityTooLargeError(err) || strings.Contains(err.Error(), "request is too large")
}

// settleDoubt finds out what the API server itself has of the batch after an allocation that may have landed all the same,
// and settles the ledger with it. Until that is done the ledger keeps what was assumed, and the batch is not looked at; after
// it, no cache that is older than the truth is believed.
func (r *Reconciler) settleDoubt(ctx context.Context, sb *v1alpha1.BatchSandbox, m *memory) error {
	name := client.ObjectKeyFromObject(sb)
	truth, err := r.readTruth(ctx, sb, m)
	switch {
	case apierrors.IsNotFound(err), err == nil && truth.UID != sb.UID:
		r.ledger.BatchGone(name)
		return errGone
	case err != nil:
		return fmt.Errorf("read the batch again: %w", err)
	}
	conflicted := m.conflicted
	m.inDoubt, m.conflicted, m.underway = false, false, ""
	m.wrote(truth)
	if pods, err := parseAllocStatus(truth); err == nil { // a malformed annotation is told when the batch is reconciled
		s := settlementOf(truth, pods)
		s.Conflicted = conflicted && truth.DeletionTimestamp == nil
		r.settleAs(ctx, truth, s)
	}
	return nil
}

// readTruth reads the batch from the API server. Where a write may still be under way it patches the batch instead, which
// returns the truth too and makes that write conflict: a read alone would leave its pods to the next batch, and then it
// could land.
func (r *Reconciler) readTruth(ctx context.Context, sb *v1alpha1.BatchSandbox, m *memory) (*v1alpha1.BatchSandbox, error) {
	truth := &v1alpha1.BatchSandbox{}
	if m.underway == "" {
		return truth, r.apiReader.Get(ctx, client.ObjectKeyFromObject(sb), truth)
	}
	if !r.leads() {
		return nil, leading.ErrLost
	}
	truth.Namespace, truth.Name = sb.Namespace, sb.Name
	body := mustJSON(map[string]any{"metadata": map[string]any{
		"uid": sb.UID, "annotations": map[string]string{v1alpha1.LeaderEpochAnnotation: "after-" + m.underway},
	}})
	err := r.client.Patch(ctx, truth, client.RawPatch(types.MergePatchType, []byte(body)))
	if apierrors.IsConflict(err) { // another batch has the name
		return truth, r.apiReader.Get(ctx, client.ObjectKeyFromObject(sb), truth)
	}
	return truth, err
}

func settlementOf(sb *v1alpha1.BatchSandbox, pods []string) scheduler.Settlement {
	return scheduler.Settlement{Batch: client.ObjectKeyFromObject(sb), UID: sb.UID, Pool: sb.Spec.PoolRef, Pods: pods}
}

// settle tells the ledger the truth about a batch, and the world if it names a pod that another batch holds.
func (r *Reconciler) settle(ctx context.Context, sb *v1alpha1.BatchSandbox, pods []string) {
	r.settleAs(ctx, sb, settlementOf(sb, pods))
}

func (r *Reconciler) settleAs(ctx context.Context, sb *v1alpha1.BatchSandbox, s scheduler.Settlement) {
	doubled := r.ledger.Settle(s)
	for _, pod := range doubled {
		r.metrics.doubleAllocations.Inc()
		logf.FromContext(ctx).Info("pod is named by two batches and stays with the first", "pod", pod)
		r.events.doubleAllocation(sb, pod)
	}
}

// makePods creates what is missing of a batch without pool, deletes what is of no use, and tells the addresses. A pod on a
// lost node is deleted before it is replaced, so that it never stands for its index again; the delete lands when its node
// is back or gone, and until then both may run.
func (r *Reconciler) makePods(ctx context.Context, obs *observed, p plan, m *memory, out *outcome) error {
	alive, discardErr := r.discard(ctx, obs, p.discard, m)
	if err := r.writeEndpoints(ctx, obs, m, out); err != nil {
		return errors.Join(discardErr, err)
	}
	if len(p.missing) == 0 || alive { // one on a lost node would stand for its index again when the node is back
		return discardErr
	}
	if wait := m.waitForBackoff(obs.now, obs.sb.Generation); wait > 0 {
		out.retryIn(wait)
		out.problem = m.refusal
		return discardErr
	}
	err := r.createPods(ctx, obs, p.missing, m, out)
	return errors.Join(discardErr, err)
}

// discard deletes pods that are of no use. It says whether one of them is left that may be alive.
func (r *Reconciler) discard(ctx context.Context, obs *observed, pods []*corev1.Pod, m *memory) (alive bool, err error) {
	pods = slices.DeleteFunc(slices.Clone(pods), func(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	done := make([]bool, len(pods))
	_, err = slowstart.Do(ctx, len(pods), func(ctx context.Context, i int) error {
		err := r.deletePod(ctx, pods[i].Namespace, pods[i].Name, pods[i].UID)
		done[i] = err == nil
		return err
	})
	failed := false
	for i, pod := range pods {
		failed = failed || isLost(pod)
		alive = alive || (!done[i] && !isLost(pod))
		if done[i] {
			delete(m.made, pod.UID)
		}
	}
	if failed {
		m.backoff.failed(obs.now) // once, however many
	}
	return alive, err
}

// writeEndpoints tells the addresses, at once when all are known and at most every 250 ms before.
func (r *Reconciler) writeEndpoints(ctx context.Context, obs *observed, m *memory, out *outcome) error {
	a := allocationOf(obs.sandboxes, obs.replicas())
	complete := true
	for i, ip := range a.ips {
		complete = complete && (ip != "" || !obs.wanted(i))
	}
	known := len(trim(a.ips)) > 0 || obs.sb.Annotations[v1alpha1.EndpointsAnnotation] != ""
	if !known && !obs.hasTasks() {
		return nil
	}
	if wait := pace - obs.now.Sub(m.lastDelivery); wait > 0 && !complete {
		out.retryIn(wait)
		return nil
	}
	if out.problem = tooLarge(obs, a); out.problem != nil {
		return nil
	}
	before := obs.sb
	if err := r.writeAllocation(ctx, obs, m, a); err != nil {
		return err
	}
	if complete {
		r.deliveredCold(obs, m, before)
	}
	return nil
}

// Pods that a look at a batch without pool makes at most: maxCreates, or as many as have templates of maxCreateBytes together, but
// minCreates in any case. They are in memory until the cache shows them.
const (
	minCreates     = 16
	maxCreates     = 256
	maxCreateBytes = 32 << 20
)

func createsPerTurn(sb *v1alpha1.BatchSandbox) int {
	return min(max(minCreates, maxCreateBytes/max(1, len(sb.Spec.Template.Raw))), maxCreates)
}

// createPods makes the pods of these indexes in parallel, as many as a turn has, and the rest in the next turns. A pod whose template
// or patch can't be used becomes a problem, and the others go on; one that the API server refuses stops the rest, and is tried again
// later and later.
func (r *Reconciler) createPods(ctx context.Context, obs *observed, indexes []int, m *memory, out *outcome) error {
	turn := createsPerTurn(obs.sb)
	var wanted []*corev1.Pod
	var places []int // the index of each
	for _, index := range indexes {
		if len(wanted) == turn {
			out.retryIn(time.Millisecond)
			break
		}
		pod, problem := desiredPod(obs.sb, index, podName(obs.sb, index, obs.sandboxes[index]))
		if problem != nil {
			if out.problem == nil {
				out.problem = problem
			}
			continue
		}
		if obs.hasTasks() || podutil.Container(&pod.Spec, v1alpha1.TaskExecutorContainer) != nil {
			podtemplate.AddRoot(&pod.Spec, r.root())
		}
		wanted, places = append(wanted, pod), append(places, index)
	}
	pods := make([]*corev1.Pod, len(wanted))
	created, err := slowstart.Do(ctx, len(wanted), func(ctx context.Context, i int) (err error) {
		pods[i], err = r.createPod(ctx, obs.sb, wanted[i])
		return err
	})
	r.noteMade(obs, m, places, pods)
	if created > 0 {
		logf.FromContext(ctx).Info("created pods", "pods", created)
		r.events.podsCreated(obs.sb, created)
	}
	if err == nil {
		m.refusal = nil
		return nil
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		m.namespaceGoes = true
		return errGone
	}
	refused := refusalOf(err)
	if refused == nil {
		return err
	}
	m.backoff.failed(obs.now)
	m.refusal, m.refusedGeneration = refused, obs.sb.Generation
	out.problem = refused
	out.retryIn(m.waitForBackoff(obs.now, obs.sb.Generation))
	return nil
}

// noteMade has the pods that were made stand for these indexes from now on, whether the cache shows them or not; nil is one that
// was not made.
func (r *Reconciler) noteMade(obs *observed, m *memory, indexes []int, pods []*corev1.Pod) {
	now := r.clock.Now() // making them may have taken a while
	for i, pod := range pods {
		if pod == nil {
			continue
		}
		if m.made == nil {
			m.made = madePods{}
		}
		m.made[pod.UID] = madePod{pod: pod, at: now}
		obs.sandboxes[indexes[i]] = sandboxOfPod(pod)
	}
}

// createPod makes one pod, and returns it. A pod of that name that the batch made before, in a call whose answer was lost or that
// the cache doesn't show yet, is as good; what became of it since is for the cache to tell.
func (r *Reconciler) createPod(ctx context.Context, sb *v1alpha1.BatchSandbox, pod *corev1.Pod) (*corev1.Pod, error) {
	err := r.client.Create(ctx, pod)
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			return nil, fmt.Errorf("create pod %s: %w", pod.Name, err)
		}
		return pod, nil
	}
	existing := &corev1.Pod{}
	if getErr := r.apiReader.Get(ctx, client.ObjectKeyFromObject(pod), existing); getErr != nil {
		return nil, fmt.Errorf("get pod %s: %w", pod.Name, getErr)
	}
	switch {
	case !metav1.IsControlledBy(existing, sb):
		return nil, &nameTakenError{pod: pod.Name}
	case existing.DeletionTimestamp != nil:
		return nil, fmt.Errorf("create pod %s: the last pod of that name is still going", pod.Name)
	}
	existing.Status = corev1.PodStatus{}
	return existing, nil
}

// nameTakenError says that a pod of somebody else has the name that a pod of the batch would have.
type nameTakenError struct{ pod string }

func (e *nameTakenError) Error() string {
	return fmt.Sprintf("pod %s exists and belongs to somebody else: delete it, or make a batch of another name", e.pod)
}

// refusalOf turns an answer that only the user can do something about into a problem.
func refusalOf(err error) *problem {
	var taken *nameTakenError
	switch {
	case errors.As(err, &taken):
		return &problem{v1alpha1.ConditionReady, v1alpha1.ReasonPodNameTaken, taken.Error()}
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return &problem{v1alpha1.ConditionReady, v1alpha1.ReasonInvalidTemplate, "the API server refuses the pod: " + statusMessage(err)}
	case apierrors.IsForbidden(err):
		return &problem{v1alpha1.ConditionReady, v1alpha1.ReasonPodsForbidden, "the API server forbids the pod: " + statusMessage(err)}
	default:
		return nil
	}
}

// maxMessage bounds a text of foreign origin in a condition, and the note of an event, in bytes: the API server refuses longer
// notes.
const maxMessage = 1024

func statusMessage(err error) string {
	message := err.Error()
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		message = status.Status().Message
	}
	return cut(message)
}

// cut shortens a text to maxMessage, and keeps it valid UTF-8, so that it reads back from the API server as it was
// written.
func cut(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxMessage)], "")
}

// deletePod deletes a pod by name and UID. One that is gone already is as good.
func (r *Reconciler) deletePod(ctx context.Context, namespace, name string, uid types.UID) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	err := r.client.Delete(ctx, pod, client.Preconditions{UID: &uid})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // a conflict: another pod has that name now
	}
	return fmt.Errorf("delete pod %s: %w", name, err)
}
