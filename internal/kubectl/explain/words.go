// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"opensandbox.io/controller/internal/kubectl/cluster"
)

// maxNamed is how many names a sentence lists before it only counts.
const maxNamed = 5

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if strings.HasSuffix(noun, "ch") || strings.HasSuffix(noun, "x") {
		return fmt.Sprintf("%d %ses", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// list joins names: "a, b and 3 more".
func list(names []string) string {
	if len(names) <= maxNamed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), len(names)-maxNamed)
}

func is(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// ago is how long ago something was: "for 3m12s" without the word.
func ago(now, then time.Time) string { return duration.HumanDuration(max(0, now.Sub(then))) }

func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// tidy makes one line of a message of foreign origin, without a full stop at its end.
func tidy(message string) string {
	return strings.TrimRight(strings.Join(strings.Fields(message), " "), ". ")
}

// kubectl is a command in the namespace of the object asked about.
func (f *Facts) kubectl(args ...string) string {
	return "kubectl -n " + f.Namespace + " " + strings.Join(args, " ")
}

func condition(conditions []metav1.Condition, kind string) metav1.Condition {
	for _, c := range conditions {
		if c.Type == kind {
			return c
		}
	}
	return metav1.Condition{Type: kind}
}

// from tells where a condition stands.
func from(kind string, c metav1.Condition) string {
	return fmt.Sprintf("condition %s=%s of the %s: %s: %s", c.Type, c.Status, kind, c.Reason, tidy(c.Message))
}

// --- events -----------------------------------------------------------------------------------------------

// eventTime is when an event was seen last.
func eventTime(e *corev1.Event) time.Time { return cluster.LastSeen(e).Time }

// lastEvent is the newest event about an object with one of these reasons, nil for none. No reason means any.
func (f *Facts) lastEvent(kind, name string, reasons ...string) *corev1.Event {
	var found *corev1.Event
	for i := range f.Events {
		e := &f.Events[i]
		if e.InvolvedObject.Kind != kind || e.InvolvedObject.Name != name || len(reasons) > 0 && !slices.Contains(reasons, e.Reason) {
			continue
		}
		if found == nil || eventTime(e).After(eventTime(found)) {
			found = e
		}
	}
	return found
}

func fromEvent(e *corev1.Event) string {
	return fmt.Sprintf("event %s of %s %s: %s", e.Reason, strings.ToLower(e.InvolvedObject.Kind), e.InvolvedObject.Name, tidy(e.Message))
}
