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
	"opensandbox.io/controller/internal/utils/recycling"
)

const (
	// rulesAgain is how long pods are made without restart rules after the API server did not take them, so that a default
	// that it doesn't know doesn't cost a refused create for each pod.
	rulesAgain = time.Hour

	// rulesUnknown is the obstacle that an API server is which doesn't take the rules.
	rulesUnknown = "the API server doesn't take the rule to restart all containers: it needs Kubernetes 1.36"
)

// ruleMemory is what is known of whether the API server takes restart rules. It may be lost: the next pod made tells.
type ruleMemory struct {
	taken   bool      // the last pod made with rules has them
	lacking time.Time // when rules were last not taken; zero for never, or taken since
}

// made notes whether a pod that was to have rules has them.
func (m *ruleMemory) made(has bool, now time.Time) {
	m.taken, m.lacking = has, time.Time{}
	if !has {
		m.lacking = now
	}
}

// try says whether a pod made now should have rules.
func (m *ruleMemory) try(now time.Time) bool {
	return m.lacking.IsZero() || now.Sub(m.lacking) >= rulesAgain
}

// recycleObstacle says why pods of the template are deleted when they are released and not restarted in place:
//
//	| recycle type   | the template permits it | the API server takes the rules | obstacle              |
//	| Delete, Noop   | -                       | -                              | none: nobody wants it |
//	| Restart, unset | no                      | -                              | what is in its way    |
//	| Restart, unset | yes                     | no                             | the API server        |
//	| Restart, unset | yes                     | not known                      | the API server, if the status says so already |
//	| Restart, unset | yes                     | yes                            | none                  |
func recycleObstacle(pool *v1alpha1.Pool, template *corev1.PodTemplateSpec, rules ruleMemory) string {
	if !recycling.Restarts(recycling.TypeOf(pool)) {
		return ""
	}
	if obstacle := recycling.SpecObstacle(&desiredPod(pool, template, "", "").Spec); obstacle != "" {
		return obstacle
	}
	if !rules.lacking.IsZero() || (!rules.taken && pool.Status.RecycleObstacle == rulesUnknown) {
		return rulesUnknown
	}
	return ""
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
