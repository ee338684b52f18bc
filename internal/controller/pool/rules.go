// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"errors"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/scheduler"
	"opensandbox.io/controller/internal/utils/recycling"
)

const (
	// rulesAgain is how long pods are made without restart rules after the cluster did not take them, so that a default that it
	// doesn't know doesn't cost two creates for each pod.
	rulesAgain = time.Hour

	// notTaken and notPlaced are the obstacles that a cluster is which doesn't take the rules.
	notTaken  = "the API server doesn't take the rule to restart all containers: it needs Kubernetes 1.36"
	notPlaced = "no node takes a pod with the rule to restart all containers: the kubelets need Kubernetes 1.36"
)

// ruleMemory is what is known of whether the cluster takes restart rules. It is kept in the status as the obstacle; a new
// process learns it from there.
type ruleMemory struct {
	learnt bool
	why    string    // why rules were not taken; "" if they were, as far as is known
	since  time.Time // when that was seen last, or learnt
}

// learn takes over what the status says, once.
func (m *ruleMemory) learn(status *v1alpha1.PoolStatus, now time.Time) {
	if told := status.RecycleObstacle; !m.learnt && (told == notTaken || told == notPlaced) {
		m.lack(told, now)
	}
	m.learnt = true
}

func (m *ruleMemory) lack(why string, now time.Time) { m.why, m.since = why, now }

// made notes whether a pod that was to have rules has them.
func (m *ruleMemory) made(has bool, now time.Time) {
	m.why = ""
	if !has {
		m.lack(notTaken, now)
	}
}

// try says whether a pod made now should have rules.
func (m *ruleMemory) try(now time.Time) bool { return m.why == "" || now.Sub(m.since) >= rulesAgain }

// recycleObstacle says why pods of the template are deleted when they are released and not restarted in place:
//
//	| recycle type   | the template permits it | the cluster takes the rules | obstacle              |
//	| Delete, Noop   | -                       | -                           | none: nobody wants it |
//	| Restart, unset | no                      | -                           | what is in its way    |
//	| Restart, unset | yes                     | no                          | the cluster           |
//	| Restart, unset | yes                     | yes, as far as is known     | none                  |
func recycleObstacle(pool *v1alpha1.Pool, template *corev1.PodTemplateSpec, rules ruleMemory) string {
	if !recycling.Restarts(recycling.TypeOf(pool)) {
		return ""
	}
	if obstacle := recycling.SpecObstacle(&desiredPod(pool, template, "", "").Spec); obstacle != "" {
		return obstacle
	}
	return rules.why
}

// unplaced says whether one of the pods found no node because of its rules.
func unplaced(pods []scheduler.Pod) bool {
	return slices.ContainsFunc(pods, func(p scheduler.Pod) bool { return p.NoNodeForRules })
}

// refusesRestartRules says whether the API server knows restart rules but not the one to restart all containers, or not
// beside what the template has.
func refusesRestartRules(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(status.Status().Details.Causes, func(c metav1.StatusCause) bool {
		return strings.Contains(c.Field, "restartPolicy")
	})
}
