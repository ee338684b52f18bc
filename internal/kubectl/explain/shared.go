// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

const (
	// leaseGrace is how long after its end a lease counts as taken by nobody: a standby needs a moment, and this machine's clock
	// may differ from the controller's.
	leaseGrace = 30 * time.Second

	// answerTime is how long after an object was made the controller may take to write its first status.
	answerTime = 10 * time.Second

	// manager selects the controller's pods.
	manager = "kubectl -n opensandbox-system get pods -l control-plane=controller-manager"
)

// object is what batches and pools have in common.
func (f *Facts) object() (meta *metav1.ObjectMeta, observedGeneration int64, conditions []metav1.Condition) {
	if f.Kind == KindPool {
		return &f.Pool.ObjectMeta, f.Pool.Status.ObservedGeneration, f.Pool.Status.Conditions
	}
	return &f.Batch.ObjectMeta, f.Batch.Status.ObservedGeneration, f.Batch.Status.Conditions
}

// controllerCauses says whether somebody works on the object.
//
//	| lease is renewed | status answers the spec, or is not due | Ready | cause                      |
//	| no               | yes                                    | yes   | none, but it is noted      |
//	| no               | -                                      | -     | ControllerNotRunning       |
//	| yes, or unknown  | no                                     | -     | ControllerBehind           |
//	| yes, or unknown  | yes                                    | -     | none                       |
func controllerCauses(f *Facts) ([]Cause, bool) {
	meta, observed, conditions := f.object()
	answered := observed >= meta.Generation
	if c, stale := f.leaseCause(); stale {
		if answered && condition(conditions, v1alpha1.ConditionReady).Status == metav1.ConditionTrue {
			return nil, false
		}
		return one(c), false
	}
	if answered || f.Now.Sub(changedAt(meta)) < answerTime {
		return nil, false
	}
	return one(Cause{
		Reason:   ReasonControllerBehind,
		Sentence: fmt.Sprintf("the controller has not looked at the present spec of %s for %s: what its status tells may be out of date", f.Name, ago(f.Now, changedAt(meta))),
		Remedy:   "look whether the controller runs, whether it is in charge of this namespace (--watch-namespaces), and what its log says",
		Commands: []string{manager, "kubectl -n opensandbox-system logs -l control-plane=controller-manager --tail=50"},
		Evidence: []string{fmt.Sprintf("status.observedGeneration is %d, metadata.generation is %d", observed, meta.Generation)},
	}), false
}

// changedAt is when the spec was last changed, as far as the object tells.
func changedAt(meta *metav1.ObjectMeta) time.Time {
	last := meta.CreationTimestamp.Time
	for i := range meta.ManagedFields {
		if m := &meta.ManagedFields[i]; m.Subresource == "" && m.Time != nil && m.Time.After(last) {
			last = m.Time.Time
		}
	}
	return last
}

// leaseCause says whether nobody leads.
func (f *Facts) leaseCause() (Cause, bool) {
	if f.Lease == nil {
		return Cause{}, false
	}
	spec := f.Lease.Spec
	c := Cause{
		Reason: ReasonControllerNotRunning,
		Remedy: "start the controller, or find out from its pods and their log why it doesn't lead",
		Commands: []string{
			fmt.Sprintf("kubectl -n %s get deployment,pods -l control-plane=controller-manager", f.Lease.Namespace),
			fmt.Sprintf("kubectl -n %s logs -l control-plane=controller-manager --tail=50", f.Lease.Namespace),
		},
		Evidence: []string{fmt.Sprintf("field renewTime of lease %s/%s", f.Lease.Namespace, f.Lease.Name)},
	}
	if spec.RenewTime == nil || spec.LeaseDurationSeconds == nil {
		return Cause{}, false
	}
	late := f.Now.Sub(spec.RenewTime.Time) - time.Duration(*spec.LeaseDurationSeconds)*time.Second
	if late <= leaseGrace {
		return Cause{}, false
	}
	c.Sentence = fmt.Sprintf("no controller is at work: nobody renewed the lease by which one leads for %s, so that nothing is handed out, started or cleaned up",
		ago(f.Now, spec.RenewTime.Time))
	return c, true
}

// quotaCause turns a refusal of the API server that names a quota into its own cause.
func (f *Facts) quotaCause(c metav1.Condition, kind string) (Cause, bool) {
	if c.Reason != v1alpha1.ReasonPodsForbidden || !strings.Contains(c.Message, "exceeded quota") {
		return Cause{}, false
	}
	_, words, _ := strings.Cut(c.Message, "exceeded quota: ")
	name, numbers, _ := strings.Cut(words, ", ")
	evidence := []string{from(kind, c)}
	if full := f.fullQuotas(); len(full) > 0 {
		evidence = append(evidence, full...)
	}
	return Cause{
		Reason:   ReasonQuotaExceeded,
		Sentence: fmt.Sprintf("ResourceQuota %s of namespace %s leaves no room for another pod (%s)", name, f.Namespace, tidy(numbers)),
		Remedy:   "raise the quota, delete what uses it, or lower what the template requests",
		Commands: []string{f.kubectl("describe", "resourcequota", name)},
		Evidence: evidence,
	}, true
}

// fullQuotas are the quotas of the namespace of which something is used up.
func (f *Facts) fullQuotas() []string {
	var full []string
	for i := range f.Quotas {
		q := &f.Quotas[i]
		for name, hard := range q.Status.Hard {
			if used := q.Status.Used[name]; used.Cmp(hard) >= 0 {
				full = append(full, fmt.Sprintf("status of resourcequota %s: %s %s of %s is used", q.Name, name, used.String(), hard.String()))
			}
		}
	}
	slices.Sort(full)
	return full
}

// goneCauses tells what events are left of an object that is not there.
func goneCauses(f *Facts) ([]Cause, bool) {
	if f.Kind == KindPool && f.Pool != nil || f.Kind == KindBatch && f.Batch != nil {
		return nil, false
	}
	if e := f.lastEvent(f.Kind, f.Name, "Expired"); e != nil {
		return one(expired(f, fmt.Sprintf("it was deleted at %s (%s ago)", at(eventTime(e)), ago(f.Now, eventTime(e))), fromEvent(e))), true
	}
	c := Cause{
		Reason:   ReasonNotFound,
		Sentence: fmt.Sprintf("there is no %s %s in namespace %s", f.Kind, f.Name, f.Namespace),
		Remedy:   "look at what there is, and in which namespace",
		Commands: []string{"kubectl sandbox get -A"},
	}
	if f.Pool != nil {
		c.Sentence += ", but a Pool of that name"
		c.Commands = []string{"kubectl sandbox -n " + f.Namespace + " explain pool/" + f.Name}
	}
	if e := f.lastEvent(f.Kind, f.Name); e != nil {
		c.Sentence += fmt.Sprintf(" any more: the last that was heard of it, %s ago, is %q", ago(f.Now, eventTime(e)), tidy(e.Message))
		c.Evidence = []string{fromEvent(e)}
	}
	return one(c), true
}

func expired(f *Facts, when, evidence string) Cause {
	return Cause{
		Reason:   ReasonExpired,
		Sentence: fmt.Sprintf("the time of %s is over, by its expireTime or ttlSecondsAfterFinished: %s", f.Name, when),
		Remedy: "make it anew with a later expireTime; of one that is still there the time can be put off before it is over " +
			"(a later ttlSecondsAfterFinished keeps results for longer)",
		Commands: []string{"kubectl sandbox -n " + f.Namespace + " extend NAME --by 1h"},
		Evidence: []string{evidence},
	}
}
