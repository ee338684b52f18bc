// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// With the definitions for API servers before 1.25, which have no validation rules, the controller finds the same mistakes
// by itself. No other test runs beside this one: the definitions are everybody's.
func TestWithoutValidationRulesTheControllerChecksTheSame(t *testing.T) {
	s := newSpace(t)
	s.must(s.install(s.ctx, "../../config/crd-no-cel/bases"))
	t.Cleanup(func() { s.restoreRules() })
	long := strings.Repeat("x", v1alpha1.MaxNameLength+1)
	eventually(t, "take the definitions without rules", func() error {
		probe := makePool("probe", 3, 1, 0, 1) // a rule would refuse it
		probe.Namespace = s.name
		return s.client.Create(s.ctx, probe)
	})
	s.startController("")
	s.create(makePool("good", 1, 1, 0, 3))
	s.create(makePool("reversed-pool", 0, 1, 5, 1))
	s.create(makePool(long, 0, 1, 0, 1))
	for name, reason := range map[string]string{
		"probe": v1alpha1.ReasonInvalidSpec, "reversed-pool": v1alpha1.ReasonInvalidSpec, long: v1alpha1.ReasonNameTooLong,
	} {
		eventually(t, "tell it on pool "+name, func() error {
			for _, c := range s.pool(name).Status.Conditions {
				if c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionFalse && c.Reason == reason {
					return nil
				}
			}
			return fmt.Errorf("conditions %v, want Ready=False/%s", s.pool(name).Status.Conditions, reason)
		})
	}
	s.create(makeBatch(long, "good", 1))
	s.hasReason(long, v1alpha1.ConditionAllocated, v1alpha1.ReasonNameTooLong)
	s.create(makeBatch("beside", "good", 1))
	s.delivered("beside", 1)
	for _, pod := range s.pods() {
		if !strings.HasPrefix(pod.Name, "good-") {
			t.Errorf("pod %s was made for an object that is refused", pod.Name)
		}
	}
}

// restoreRules puts the definitions with rules back, and waits until the rules are in force.
func (s *space) restoreRules() {
	ctx := context.Background()
	if err := s.install(ctx, definitions); err != nil {
		s.t.Error(err)
	}
	err := poll(settleTime, func() error {
		probe := makePool("rules", 3, 1, 0, 1)
		probe.Namespace = s.name
		if err := s.client.Create(ctx, probe, client.DryRunAll); !apierrors.IsInvalid(err) {
			return fmt.Errorf("a pool against the rules gets %w", err)
		}
		return nil
	})
	if err != nil {
		s.t.Error(err)
	}
}
