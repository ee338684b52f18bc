// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/leading"
	"opensandbox.io/controller/internal/utils/podtemplate"
	"opensandbox.io/controller/internal/utils/recycling"
	"opensandbox.io/controller/internal/utils/slowstart"
)

// work is what one reconcile has to do.
type work struct {
	template *corev1.PodTemplateSpec // nil only where the plan creates nothing
	revision string
	unusable []scheduler.Pod // retired, to be deleted
	plan     scheduler.CapacityPlan
}

// applied is what came of it.
type applied struct {
	created  int      // pods that exist now
	names    []string // their names
	doubtful int      // pods that may exist and count as if they did
	deleted  int      // pods deleted because the plan says so, without the unusable ones

	// refused is the API server's answer to a create that it will repeat; nil if there was none.
	refused *problem

	// createFailed and deleteFailed say that something went wrong that may go by itself; err has what, without
	// conflicts.
	createFailed, deleteFailed bool
	err                        error
}

// apply deletes and creates pods, tells of it in events, and returns what came of it.
func (r *Reconciler) apply(ctx context.Context, pool *v1alpha1.Pool, mem *memory, w work) applied {
	key := client.ObjectKeyFromObject(pool)
	var done applied
	unusable, unusableErr := r.deletePods(ctx, key, w.unusable)
	surplus := append(r.ledger.RetireStranded(key, w.plan.DeleteStranded), r.ledger.Retire(key, w.plan.Delete)...)
	deleted, shrinkErr := r.deletePods(ctx, key, surplus)
	done.deleted, done.err = deleted, errors.Join(unusableErr, shrinkErr)
	done.deleteFailed = done.err != nil
	if w.plan.Create > 0 {
		r.createPods(ctx, pool, mem, w, &done)
	}

	log := logf.FromContext(ctx)
	if done.created > 0 {
		log.Info("created pods", "pool", klog.KObj(pool), "count", done.created, "reason", w.plan.Reason)
		r.send(pool, scaledUp(done.created, w.plan.Reason))
	}
	if done.deleted > 0 {
		log.Info("deleted pods", "pool", klog.KObj(pool), "count", done.deleted, "reason", w.plan.Reason)
		r.send(pool, scaledDown(done.deleted, w.plan.Reason))
	}
	if unusable > 0 {
		log.Info("deleted unusable pods", "pool", klog.KObj(pool), "count", unusable)
	}
	return done
}

// failed notes a create whose failure may go by itself. A conflict (of quotas) is nothing to tell of.
func (a *applied) failed(err error) {
	a.createFailed = true
	if !apierrors.IsConflict(err) {
		a.err = errors.Join(a.err, err)
	}
}

// --- deletes ----------------------------------------------------------------------------------------------

// deletePods deletes retired pods; each is tried, so that one that can't be deleted doesn't keep the others.
func (r *Reconciler) deletePods(ctx context.Context, pool client.ObjectKey, pods []scheduler.Pod) (deleted int, err error) {
	var known []scheduler.Pod
	for _, p := range pods {
		if p.UID != "" {
			known = append(known, p)
		}
		// A pod without a UID was sent to the API server, and no watch has shown it yet. It stays retired until
		// its news arrives, which makes it an ordinary pod again.
	}
	errs := make([]error, len(known))
	_, _ = slowstart.Do(ctx, len(known), func(ctx context.Context, i int) error { // errs has the errors
		errs[i] = r.deletePod(ctx, pool, known[i])
		return nil
	})
	for _, e := range errs {
		if e == nil {
			deleted++
		}
	}
	return deleted, errors.Join(errs...)
}

// deletePod deletes one retired pod, and takes it back if that fails.
func (r *Reconciler) deletePod(ctx context.Context, pool client.ObjectKey, p scheduler.Pod) error {
	err := r.deleteUID(ctx, pool, p)
	if err != nil {
		r.ledger.Unretire(pool, p.Name)
	}
	return err
}

// deleteUID deletes the pod of this UID. One that is gone already is as good, and the ledger forgets it.
func (r *Reconciler) deleteUID(ctx context.Context, pool client.ObjectKey, p scheduler.Pod) error {
	if !r.leads() {
		return leading.ErrLost
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pool.Namespace, Name: p.Name}}
	err := r.client.Delete(ctx, pod, client.Preconditions{UID: &p.UID})
	switch {
	case err == nil:
		r.metrics.count(operationDelete, resultDone)
		return nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		// The pod of this UID is gone; a conflict says that another one has its name.
		r.ledger.RemovePod(pool, p.Name, p.UID)
		return nil
	default:
		r.metrics.count(operationDelete, resultFailed)
		return fmt.Errorf("delete pod %s/%s: %w", pool.Namespace, p.Name, err)
	}
}

func (r *Reconciler) unretire(pool client.ObjectKey, pods []scheduler.Pod) {
	for _, p := range pods {
		r.ledger.Unretire(pool, p.Name)
	}
}

// --- creates ----------------------------------------------------------------------------------------------

// outcome is what a create came to.
type outcome int

const (
	// outcomeUnsent: there was no create, and an error says why unless one before it failed.
	outcomeUnsent outcome = iota

	// outcomeCreated: the pod exists.
	outcomeCreated

	// outcomeTaken: a pod of somebody else has the name.
	outcomeTaken

	// outcomeRefused: the API server says no, and will say so again.
	outcomeRefused

	// outcomeLost: the pod doesn't exist and won't, for a reason that may go by itself.
	outcomeLost

	// outcomeDoubtful: nobody knows, for the create may still land.
	outcomeDoubtful
)

// createPods creates the pods of the plan with slow start, each expected by the ledger before it is sent.
func (r *Reconciler) createPods(ctx context.Context, pool *v1alpha1.Pool, mem *memory, w work, done *applied) {
	names, err := r.newNames(ctx, pool, mem, w.plan.Create)
	if err != nil {
		done.failed(err)
		return
	}
	if len(names) == 0 {
		return // the next reconcile takes other names
	}
	owners := r.secondOwner(ctx, pool, mem)
	outcomes := make([]outcome, len(names))
	errs := make([]error, len(names))
	pods := r.desiredPods(pool, mem, w, names)
	wantRules := recycling.HasRestartRules(&pods[0].Spec)
	var first time.Duration
	begin := r.clock.Now()
	_, _ = slowstart.Do(ctx, len(names), func(ctx context.Context, i int) error { // errs has the errors
		pods[i].OwnerReferences = append(pods[i].OwnerReferences, owners...)
		r.starts.send(client.ObjectKeyFromObject(pods[i]))
		outcomes[i], errs[i] = r.createPod(ctx, pool, pods[i])
		if outcomes[i] != outcomeCreated {
			r.starts.Forget(client.ObjectKeyFromObject(pods[i]))
		}
		if i == 0 { // which slow start sends alone
			first = r.clock.Since(begin)
		}
		return errs[i]
	})
	now := r.clock.Now()
	mem.refill.made(first, now)
	if at := slices.Index(outcomes, outcomeCreated); at >= 0 && wantRules {
		mem.rules.made(recycling.HasRestartRules(&pods[at].Spec), now)
	}
	for i, name := range names {
		switch outcomes[i] {
		case outcomeUnsent: // slow start stopped before, or another controller may lead
			done.err = errors.Join(done.err, errs[i])
		case outcomeCreated:
			done.created++
			done.names = append(done.names, name)
			mem.expected[name] = expectation{askAt: now.Add(seenWithin)}
		case outcomeTaken: // the next reconcile takes another name
		case outcomeRefused:
			mem.namespaceGoes = mem.namespaceGoes || apierrors.HasStatusCause(errs[i], corev1.NamespaceTerminatingCause)
			if done.refused == nil {
				done.refused = refusalOf(errs[i])
			}
		case outcomeLost:
			done.failed(errs[i])
		case outcomeDoubtful:
			done.doubtful++
			done.failed(errs[i])
			mem.expected[name] = expectation{askAt: now.Add(landsWithin), landedBy: now.Add(landsWithin)}
		}
	}
}

// desiredPods are the pods of these names, without restart rules where the API server did not take them just now.
func (r *Reconciler) desiredPods(pool *v1alpha1.Pool, mem *memory, w work, names []string) []*corev1.Pod {
	rules := mem.rules.try(r.clock.Now())
	pods := make([]*corev1.Pod, len(names))
	for i, name := range names {
		pods[i] = desiredPod(pool, w.template, w.revision, name)
		podtemplate.AddRoot(&pods[i].Spec, r.root())
		if !rules {
			recycling.RemoveRestartRules(&pods[i].Spec)
		}
	}
	return pods
}

// createPod creates one pod and finds out what came of it. The error is nil if the pod exists or its name is
// taken.
func (r *Reconciler) createPod(ctx context.Context, pool *v1alpha1.Pool, pod *corev1.Pod) (outcome, error) {
	if !r.leads() {
		return outcomeUnsent, leading.ErrLost
	}
	key, name, revision := client.ObjectKeyFromObject(pool), pod.Name, pod.Labels[v1alpha1.PoolRevisionLabel]
	r.ledger.ExpectPod(key, name, revision)
	err := r.client.Create(ctx, pod)
	if err == nil {
		r.metrics.count(operationCreate, resultDone)
		return outcomeCreated, nil
	}
	err = fmt.Errorf("create pod %s/%s: %w", key.Namespace, name, err)
	if refusesRestartRules(err) && recycling.RemoveRestartRules(&pod.Spec) {
		pod.ResourceVersion = ""
		return r.createPod(ctx, pool, pod) // it is recycled by deletion
	}
	if isRefusal(err) {
		r.metrics.count(operationCreate, resultRefused)
		r.ledger.RemovePod(key, name, "")
		return outcomeRefused, err
	}

	// The reply was lost, or it is about an earlier try that the client library repeated: the truth is read.
	result, readErr := r.readCreated(ctx, pool, name)
	switch {
	case readErr != nil:
		r.metrics.count(operationCreate, resultFailed)
		return outcomeDoubtful, errors.Join(err, readErr)
	case result == outcomeCreated:
		r.metrics.count(operationCreate, resultDone)
		return outcomeCreated, nil
	case result == outcomeTaken:
		r.ledger.RemovePod(key, name, "")
		return outcomeTaken, nil
	case !neverLands(err):
		r.metrics.count(operationCreate, resultFailed)
		return outcomeDoubtful, err
	default:
		r.metrics.count(operationCreate, resultFailed)
		r.ledger.RemovePod(key, name, "")
		return outcomeLost, err
	}
}

// neverLands says whether an error tells that the API server has dropped the create, and not only lost the reply: it could
// not be reached, it had too much to do, its quota or a webhook stood in the way.
func neverLands(err error) bool {
	return errors.Is(err, leading.ErrLost) || utilnet.IsConnectionRefused(err) || apierrors.IsTooManyRequests(err) || apierrors.IsConflict(err) ||
		(apierrors.IsInternalError(err) && strings.Contains(err.Error(), "failed calling webhook"))
}

// readCreated asks the API server whether a pod exists and is this pool's.
func (r *Reconciler) readCreated(ctx context.Context, pool *v1alpha1.Pool, name string) (outcome, error) {
	pod := &corev1.Pod{}
	err := r.reader.Get(ctx, client.ObjectKey{Namespace: pool.Namespace, Name: name}, pod)
	switch {
	case apierrors.IsNotFound(err):
		return outcomeLost, nil
	case err != nil:
		return outcomeDoubtful, fmt.Errorf("read pod %s/%s: %w", pool.Namespace, name, err)
	case metav1.IsControlledBy(pod, pool):
		return outcomeCreated, nil
	default:
		return outcomeTaken, nil
	}
}

// settle finds out about expected pods that the cache doesn't show in time. The error is nil if all answered.
func (r *Reconciler) settle(ctx context.Context, pool *v1alpha1.Pool, mem *memory) error {
	now := r.clock.Now()
	for name := range mem.expected {
		pod, err := r.cachedPod(ctx, pool.Namespace, name)
		if err != nil {
			return err
		}
		if pod != nil {
			delete(mem.expected, name)
		}
	}
	asked := 0
	for _, name := range mem.due(now) {
		if asked++; asked > maxAsks {
			return nil
		}
		result, err := r.readCreated(ctx, pool, name)
		if err != nil {
			mem.expected[name] = expectation{askAt: now.Add(firstWait), landedBy: mem.expected[name].landedBy}
			return err
		}
		if result == outcomeCreated {
			mem.expected[name] = expectation{askAt: now.Add(seenWithin)}
			continue
		}
		if by := mem.expected[name].landedBy; result == outcomeLost && now.Before(by) {
			mem.expected[name] = expectation{askAt: by, landedBy: by}
			continue
		}
		delete(mem.expected, name)
		r.starts.Forget(client.ObjectKey{Namespace: pool.Namespace, Name: name})
		r.ledger.RemovePod(client.ObjectKeyFromObject(pool), name, "")
	}
	return nil
}

// maxAsks bounds the reads of one settle; the next reconcile goes on.
const maxAsks = 16

// newNames returns n names that no pod has as far as is known, and that differ.
func (r *Reconciler) newNames(ctx context.Context, pool *v1alpha1.Pool, mem *memory, n int) ([]string, error) {
	const tries = 20
	names := make([]string, 0, n)
	chosen := make(map[string]struct{}, n)
	for tried := 0; len(names) < n && tried < n*tries; tried++ {
		name := podName(pool.Name, r.suffix())
		_, twice := chosen[name]
		if _, expected := mem.expected[name]; twice || expected {
			continue
		}
		pod, err := r.cachedPod(ctx, pool.Namespace, name)
		if err != nil {
			return nil, err
		}
		if pod == nil {
			chosen[name] = struct{}{}
			names = append(names, name)
		}
	}
	return names, nil
}

// isRefusal says whether the API server gave an answer about the pod itself: sent again, it would be the same.
func isRefusal(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	switch code := int(status.Status().Code); code {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return false
	default:
		return code >= http.StatusBadRequest && code < http.StatusInternalServerError
	}
}

// refusalOf tells the user what to change, in the API server's words.
func refusalOf(err error) *problem {
	var status apierrors.APIStatus
	message := err.Error()
	if errors.As(err, &status) && status.Status().Message != "" {
		message = status.Status().Message
	}
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) {
		return &problem{v1alpha1.ReasonPodsForbidden, message}
	}
	return &problem{v1alpha1.ReasonInvalidTemplate, message}
}
