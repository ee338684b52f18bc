// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
)

const (
	// firstWait and longestWait bound the exponential back-off after failures.
	firstWait   = time.Second
	longestWait = 5 * time.Minute

	// provenAfter is how long a pod must stay Ready before its template counts as working again.
	provenAfter = time.Minute

	// quietAfter is how long after the last wait for pods that ended the whole thing is forgotten, if no pod was
	// needed since.
	quietAfter = 2 * longestWait

	// seenWithin is how long the news of a created pod may take before the API server is asked about it.
	seenWithin = 30 * time.Second

	// landsWithin is how long a create may still land after its reply was lost: the API server ends a request after a minute.
	landsWithin = time.Minute
)

// backoff counts failures in a row and says when to try again.
type backoff struct {
	failures int
	until    time.Time
}

// fail notes a failure. Those that come in while the wait is on belong to the same try.
func (b *backoff) fail(now time.Time) {
	if now.Before(b.until) {
		return
	}
	wait := longestWait
	if b.failures < 16 { // 1 s doubled 16 times is far beyond the longest wait
		wait = min(longestWait, firstWait<<b.failures)
	}
	b.failures++
	b.until = now.Add(wait)
}

func (b *backoff) failing() bool { return b.failures > 0 }

func (b *backoff) at(now time.Time) hold {
	return hold{failing: b.failing(), wait: max(0, b.until.Sub(now))}
}

// expectation is a pod whose create was sent and that the cache doesn't show yet.
type expectation struct {
	askAt    time.Time // when to ask the API server about it
	landedBy time.Time // until when the create may still land, though the API server doesn't know the pod; zero if it has landed
}

// memory is what is remembered of one pool from one reconcile to the next. All of it may be lost: a new process
// starts without and learns it again. Reconciles of one pool don't overlap, so it needs no lock.
type memory struct {
	uid        types.UID
	generation int64

	// written is the pool as the last write returned it, or as it was read after the election, until the cache shows it or something
	// newer.
	written *v1alpha1.Pool

	// statusAt is when the status was last written.
	statusAt time.Time

	// scaleReason is the last decision that did something, until it stands in the status.
	scaleReason string

	// creates waits after the API server refused pods; refused is why.
	creates backoff
	refused *problem

	// endings waits after pods ended soon after their start; ended is how. probe is the name of the first pod made
	// since: when it has stayed Ready, the endings are over.
	endings backoff
	ended   *problem
	probe   string

	// provenAt is when the probe will have stayed Ready for long enough; zero while it isn't Ready.
	provenAt time.Time

	// deletes waits after pods could not be deleted.
	deletes backoff

	// failing is what keeps starting pods from becoming Ready; repairs are the pods that were replaced for it.
	failing *problem
	repairs repairs

	// claims is how fast batches take pods.
	claims scheduler.ClaimRate

	// refill tells whether making pods takes something from deliveries.
	refill refill

	// owed is the number of pods that were deleted to be replaced and that are not made again yet, and owedFor says which.
	// Lost with the process, it leaves the buffer that much smaller within its band.
	owed    int
	owedFor string

	// crashing says whether pods of the current revision crash again and again; crashedAt is when one was last seen to.
	crashing  bool
	crashedAt time.Time

	// adopted is the hash of the template that the revision adoptedAs stands for, which differs where an older controller
	// wrote it; both are "" for none.
	adopted, adoptedAs string

	expected map[string]expectation

	// namespaceGoes: the pool's namespace is being deleted, and nothing new can be made in it.
	namespaceGoes bool

	// namespace is the second owner of the pool's pods; nil before it was read.
	namespace *metav1.OwnerReference

	// recycling has the marked pods that nobody holds.
	recycling map[types.UID]*recycleMemory

	// unmarked are the pods recycled since they were last added to released, which is what the status tells of released pods.
	unmarked int64
	released scheduler.Released

	// rules is what is known of restart rules.
	rules ruleMemory
}

// newest returns the pool from the cache, or what the last write returned while the cache is behind.
func (m *memory) newest(pool *v1alpha1.Pool) *v1alpha1.Pool {
	if m.isAhead(pool) {
		pool = m.written.DeepCopy()
	} else {
		m.written = nil
	}
	if pool.Generation != m.generation {
		m.edited(pool.Generation)
	}
	return pool
}

// isAhead says whether the cache, from which pool is, is behind what was written.
func (m *memory) isAhead(pool *v1alpha1.Pool) bool {
	return m.written != nil && scheduler.OlderVersion(pool.ResourceVersion, m.written.ResourceVersion)
}

// edited forgets the failures of an older spec: the next try may be at once.
func (m *memory) edited(generation int64) {
	m.generation = generation
	m.creates, m.refused = backoff{}, nil
	m.forgetEndings()
	m.deletes = backoff{}
	m.repairs = repairs{}
	m.crashing, m.crashedAt = false, time.Time{}
}

// owe notes pods that were deleted to be replaced.
func (m *memory) owe(n int, what string, obs *observed) {
	m.owed, m.owedFor = m.owed+n, what
	obs.owed, obs.owedFor, obs.replaced = m.owed, m.owedFor, true
}

// noteCrashes takes over how many pods of the current revision crash again and again just now.
func (m *memory) noteCrashes(n int, now time.Time) {
	if n > 0 || m.crashing {
		m.crashedAt = now
	}
	m.crashing = n > 0
}

// crashes is how long an update waits for pods that crashed: between two crashes they may be Ready for a while.
func (m *memory) crashes(now time.Time) time.Duration {
	if m.crashedAt.IsZero() {
		return 0
	}
	return max(0, m.crashedAt.Add(provenAfter).Sub(now))
}

func (m *memory) podEnded(pod *corev1.Pod, now time.Time) {
	m.endings.fail(now)
	ended := endingOf(pod)
	m.ended = &ended
	if m.probe == pod.Name {
		m.probe, m.provenAt = "", time.Time{}
	}
}

// forgetEndings says that the template counts as working.
func (m *memory) forgetEndings() {
	m.endings, m.ended, m.probe, m.provenAt = backoff{}, nil, "", time.Time{}
}

// observeProbe ends the wait for a working template when the probe has stayed Ready. A probe that is gone is
// replaced by the next pod made.
func (m *memory) observeProbe(probe *corev1.Pod, now time.Time) {
	m.provenAt = time.Time{}
	if probe == nil {
		if _, onItsWay := m.expected[m.probe]; !onItsWay {
			m.probe = ""
		}
		return
	}
	for i := range probe.Status.Conditions {
		c := &probe.Status.Conditions[i]
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			m.provenAt = c.LastTransitionTime.Add(provenAfter)
		}
	}
	if !m.provenAt.IsZero() && !now.Before(m.provenAt) {
		m.forgetEndings()
	}
}

// remember takes over what an apply did.
func (m *memory) remember(pool *v1alpha1.Pool, obs observed, plan scheduler.CapacityPlan, done applied) {
	if reason := scaleReasonOf(pool, obs, plan, done); reason != "" && (done.created+done.deleted > 0 || !obs.replaced) {
		m.scaleReason = reason
	}
	switch {
	case done.deleteFailed:
		m.deletes.fail(obs.now)
	case obs.deletes.wait == 0:
		m.deletes = backoff{}
	}
	m.rememberCreates(obs, plan, done)
}

// scaleReasonOf is the decision in words. One that came to nothing reads like the wait that follows it, so that it doesn't
// alternate between the two.
func scaleReasonOf(pool *v1alpha1.Pool, obs observed, plan scheduler.CapacityPlan, done applied) string {
	switch {
	case plan.Create > 0 && done.created+done.doubtful == 0:
		obs.creates.wait = firstWait
	case plan.Delete > 0 && done.deleted == 0 && done.deleteFailed:
		obs.deletes.wait = firstWait
	default:
		return plan.Reason
	}
	return planPool(pool, obs).Reason
}

func (m *memory) rememberCreates(obs observed, plan scheduler.CapacityPlan, done applied) {
	wanted := plan.Create > 0 || (plan.Partial && plan.Delete+plan.DeleteStranded == 0)
	m.owed = max(0, m.owed-done.created-done.doubtful)
	m.repairs.made(done.names)
	if done.created > 0 || !wanted {
		m.creates, m.refused = backoff{}, nil
	}
	if done.createFailed || done.refused != nil {
		m.creates.fail(obs.now)
	}
	if done.refused != nil {
		m.refused = done.refused
	}
	if m.endings.failing() && m.probe == "" && len(done.names) > 0 {
		m.probe = done.names[0]
	}
}

// view is the part of the memory that the status tells of.
func (m *memory) view() view {
	v := view{refused: m.refused, trouble: m.refused, scaleReason: m.scaleReason}
	if v.trouble == nil {
		v.trouble = m.ended
	}
	if v.trouble == nil {
		v.trouble = m.failing
	}
	return v
}

// view is the part of the memory that the status tells.
type view struct {
	refused     *problem // the API server refuses the pods
	trouble     *problem // what keeps pods from becoming ready, refused included
	scaleReason string
}

// wait is when something is due that no event will tell of; 0 for never.
func (m *memory) wait(obs observed, plan scheduler.CapacityPlan) time.Duration {
	waits := []time.Duration{m.deletes.at(obs.now).wait, obs.overdueWait, obs.repairWait}
	if plan.Create > 0 || plan.Partial {
		waits = append(waits, m.creates.at(obs.now).wait, m.endings.at(obs.now).wait)
	}
	if plan.Partial && obs.yield.on && (plan.Create > 0 || obs.yield.wait > 0) { // otherwise something else holds the creates up
		waits = append(waits, max(time.Millisecond, m.refill.restUntil(obs.yield.rest).Sub(obs.now)))
	}
	if plan.Partial && plan.Delete+plan.DeleteStranded > 0 {
		waits = append(waits, statusPace)
	}
	if m.endings.failing() {
		waits = append(waits, m.provenAt.Sub(obs.now), m.endings.until.Add(quietAfter).Sub(obs.now))
	}
	if obs.counts.StaleIdle+obs.counts.StaleStarting > 0 {
		waits = append(waits, m.crashes(obs.now))
	}
	for _, e := range m.expected {
		waits = append(waits, max(firstWait, e.askAt.Sub(obs.now)))
	}
	return soonest(waits...)
}

// soonest is the smallest of the waits that are not 0; 0 if all are.
func soonest(waits ...time.Duration) time.Duration {
	first := time.Duration(0)
	for _, w := range waits {
		if w > 0 && (first == 0 || w < first) {
			first = w
		}
	}
	return first
}

// due are the expected pods the API server must be asked about, by name.
func (m *memory) due(now time.Time) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m.expected)) {
		if !now.Before(m.expected[name].askAt) {
			names = append(names, name)
		}
	}
	return names
}

// memories has the memory of every pool. It is safe for concurrent use.
type memories struct {
	mu     sync.Mutex
	byPool map[types.NamespacedName]*memory
}

func newMemories() *memories { return &memories{byPool: map[types.NamespacedName]*memory{}} }

// of returns the memory of a pool; a pool made anew under an old name has a new one.
func (m *memories) of(pool *v1alpha1.Pool) *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := client.ObjectKeyFromObject(pool)
	mem, ok := m.byPool[key]
	if !ok || mem.uid != pool.UID && !mem.isAhead(pool) {
		mem = &memory{uid: pool.UID, generation: pool.Generation, expected: map[string]expectation{}}
		m.byPool[key] = mem
	}
	return mem
}

// pools are those that have a memory: all that this process looks after.
func (m *memories) pools() []types.NamespacedName {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.byPool))
}

func (m *memories) forget(pool types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byPool, pool)
}
