// SPDX-License-Identifier: Apache-2.0

package uninstall

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func these(names ...string) objects {
	var o objects
	for _, name := range names {
		o = append(o, metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}})
	}
	return o
}

func TestObjectsAreNamedUpToFive(t *testing.T) {
	for want, o := range map[string]objects{
		"":                             nil,
		"ns/a":                         these("a"),
		"ns/a, ns/b":                   these("a", "b"),
		"ns/a, ns/b, ns/c, ns/d, ns/e": these("a", "b", "c", "d", "e"),
		"ns/a, ns/b, ns/c, ns/d, ns/e and 2 more": these("a", "b", "c", "d", "e", "f", "g"),
	} {
		if got := o.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestUntilNone(t *testing.T) {
	type look struct {
		found objects
		err   error
	}
	unavailable := errors.New("unavailable")
	cases := map[string]struct {
		looks []look // the last one is repeated
		want  string // of the error; "" for none
		took  time.Duration
	}{
		"there is nothing: no wait":           {[]look{{}}, "", 0},
		"what goes is waited for":             {[]look{{these("a"), nil}, {these("a"), nil}, {}}, "", time.Second},
		"a look that fails is tried again":    {[]look{{nil, unavailable}, {}}, "", 500 * time.Millisecond},
		"what stays is named":                 {[]look{{these("a", "b"), nil}}, "pods are not gone in time: ns/a, ns/b", time.Minute},
		"a look that always fails is told of": {[]look{{nil, unavailable}}, "wait until there are no pods: unavailable", time.Minute},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				n, start := 0, time.Now()
				err := untilNone(ctx, "pods", func(context.Context) (objects, error) {
					l := c.looks[min(n, len(c.looks)-1)]
					n++
					return l.found, l.err
				})
				if got := message(err); got != c.want {
					t.Errorf("%q, want %q", got, c.want)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
			})
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return strings.TrimSpace(err.Error())
}
