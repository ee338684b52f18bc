// SPDX-License-Identifier: Apache-2.0

package extend

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/api/v1alpha1"
)

func TestApply(t *testing.T) {
	now := time.Date(2026, 12, 24, 12, 0, 0, 0, time.UTC)
	after := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(d)} }
	for name, tc := range map[string]struct {
		change  change
		present *metav1.Time
		want    *metav1.Time
		err     string
	}{
		"by goes on from the present end":                        {change{by: time.Hour}, after(time.Minute), after(61 * time.Minute), ""},
		"by goes on from now if the end has passed":              {change{by: time.Hour}, after(-time.Minute), after(time.Hour), ""},
		"by is refused where it would make the life shorter":     {change{by: time.Hour}, nil, nil, "has no expireTime"},
		"until is taken as it is":                                {change{until: now.Add(time.Hour)}, after(2 * time.Hour), after(time.Hour), ""},
		"until gives an end to what had none":                    {change{until: now.Add(time.Hour)}, nil, after(time.Hour), ""},
		"until is refused in the past":                           {change{until: now}, after(time.Hour), nil, "has passed"},
		"never takes the end away":                               {change{never: true}, after(time.Hour), nil, ""},
		"never is fine where there is no end in the first place": {change{never: true}, nil, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tc.change.apply(tc.present, now)
			if (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
				t.Fatalf("error %v, want %q", err, tc.err)
			}
			if !got.Equal(tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
	sb := &v1alpha1.BatchSandbox{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1alpha1.BatchSandboxSpec{ExpireTime: after(90 * time.Minute)}}
	if got, want := told(sb, now), "batchsandbox.sandbox.opensandbox.io/web expires at 2026-12-24T13:30:00Z, in 1h30m0s"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}
