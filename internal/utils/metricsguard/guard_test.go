// SPDX-License-Identifier: Apache-2.0

package metricsguard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"
)

// server is what the API server says.
type server struct {
	known, allowed      bool
	tokenErr, accessErr error
	asked               []authorizationv1.SubjectAccessReviewSpec
	tokens              []string
}

func (s *server) token(_ context.Context, r *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	s.tokens = append(s.tokens, r.Spec.Token)
	r.Status = authenticationv1.TokenReviewStatus{Authenticated: s.known, User: authenticationv1.UserInfo{
		Username: "me", UID: "1", Groups: []string{"us"}, Extra: map[string]authenticationv1.ExtraValue{"pod": {"p"}},
	}}
	return r, s.tokenErr
}

func (s *server) access(_ context.Context, r *authorizationv1.SubjectAccessReview, _ metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error) {
	s.asked = append(s.asked, r.Spec)
	r.Status.Allowed = s.allowed
	return r, s.accessErr
}

// ask has the guard answer a request, and returns the status.
func ask(ctx context.Context, g *guard, method, path, authorization string) int {
	req := httptest.NewRequestWithContext(ctx, method, path, nil)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	reply := httptest.NewRecorder()
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "metrics") })
	g.before(logr.Discard(), next).ServeHTTP(reply, req)
	if shown := reply.Body.String() == "metrics"; shown != (reply.Code == http.StatusOK) {
		return -reply.Code
	}
	return reply.Code
}

func TestOnlyWhomTheAPIServerKnowsAndAllowsSeesMetrics(t *testing.T) {
	cases := map[string]struct {
		authorization string
		server        server
		want          int
		wantTokens    []string // that were reviewed
	}{
		"no token":                       {"", server{known: true, allowed: true}, 401, nil},
		"a password":                     {"Basic bWU6bWU=", server{known: true, allowed: true}, 401, nil},
		"an empty token":                 {"Bearer ", server{known: true, allowed: true}, 401, nil},
		"the token alone":                {"t", server{known: true, allowed: true}, 401, nil},
		"a token of nobody":              {"Bearer t", server{allowed: true}, 401, []string{"t"}},
		"a token that can't be reviewed": {"Bearer t", server{known: true, allowed: true, tokenErr: errors.New("no")}, 500, []string{"t"}},
		"somebody without the right":     {"Bearer t", server{known: true}, 403, []string{"t"}},
		"a right that can't be reviewed": {"Bearer t", server{known: true, allowed: true, accessErr: errors.New("no")}, 500, []string{"t"}},
		"somebody with the right":        {"Bearer t", server{known: true, allowed: true}, 200, []string{"t"}},
		"the scheme in other letters":    {"bearer t", server{known: true, allowed: true}, 200, []string{"t"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			g := newGuard(c.server.token, c.server.access, clock.RealClock{})
			if got := ask(t.Context(), g, http.MethodGet, "/metrics", c.authorization); got != c.want {
				t.Errorf("status %d, want %d", got, c.want)
			}
			if diff := cmp.Diff(c.wantTokens, c.server.tokens); diff != "" {
				t.Errorf("reviewed tokens (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheRightIsAskedForWithAllThatIsKnownOfTheUser(t *testing.T) {
	s := server{known: true, allowed: true}
	ask(t.Context(), newGuard(s.token, s.access, clock.RealClock{}), http.MethodPost, "/other", "Bearer t")
	want := []authorizationv1.SubjectAccessReviewSpec{{
		User: "me", UID: "1", Groups: []string{"us"}, Extra: map[string]authorizationv1.ExtraValue{"pod": {"p"}},
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/other", Verb: "post"},
	}}
	if diff := cmp.Diff(want, s.asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

// A yes is for one token and one request, and for a minute; a no is for nothing.
func TestAYesIsBelievedForAMinute(t *testing.T) {
	clk := testingclock.NewFakePassiveClock(time.Unix(1_800_000_000, 0))
	s := server{known: true}
	g := newGuard(s.token, s.access, clk)
	step := func(what, path, token string, want, wantReviews int) {
		t.Helper()
		before := len(s.tokens)
		if got := ask(t.Context(), g, http.MethodGet, path, "Bearer "+token); got != want {
			t.Errorf("%s: status %d, want %d", what, got, want)
		}
		if got := len(s.tokens) - before; got != wantReviews {
			t.Errorf("%s: %d reviews, want %d", what, got, wantReviews)
		}
	}
	step("without the right", "/metrics", "a", 403, 1)
	s.allowed = true
	step("with the right, at once", "/metrics", "a", 200, 1)
	s.allowed = false
	step("again", "/metrics", "a", 200, 0)
	step("another token", "/metrics", "b", 403, 1)
	step("another path", "/metrics/more", "a", 403, 1)
	clk.SetTime(clk.Now().Add(believed))
	step("a minute later", "/metrics", "a", 403, 1)

	s.allowed = true
	for i := range 3 * maxBelieved {
		step("many tokens", "/metrics", fmt.Sprint(i), 200, 1)
	}
	if n := len(g.allowed); n > maxBelieved {
		t.Errorf("%d answers are kept, want at most %d", n, maxBelieved)
	}
}

// Requests that wait for an API server that doesn't answer are few, and end.
func TestStrangersDoNotLoadAnAPIServerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server{}
		reviews := make(chan struct{}, 100)
		g := newGuard(func(ctx context.Context, _ *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
			reviews <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}, s.access, clock.RealClock{})
		statuses := make(chan int, 20)
		start := time.Now()
		for range cap(statuses) {
			go func() { statuses <- ask(t.Context(), g, http.MethodGet, "/metrics", "Bearer t") }()
		}
		synctest.Wait()
		if n := len(reviews); n != reviewsAtOnce {
			t.Errorf("%d reviews at once, want %d", n, reviewsAtOnce)
		}
		for range cap(statuses) {
			if got := <-statuses; got != http.StatusInternalServerError {
				t.Errorf("status %d, want 500", got)
			}
		}
		if took := time.Since(start); took != reviewTimeout {
			t.Errorf("it took %v, want %v", took, reviewTimeout)
		}
	})
}
