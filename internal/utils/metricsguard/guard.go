// SPDX-License-Identifier: Apache-2.0

// Package metricsguard shows the metrics to those whom the API server knows, and allows to read them.
package metricsguard

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const (
	// reviewTimeout bounds the questions of one request, with the wait for their turn.
	reviewTimeout = 10 * time.Second

	// reviewsAtOnce bounds the requests that the API server is asked about at a time: strangers must not load it through us.
	reviewsAtOnce = 4

	// believed is how long a yes is, so that a scraper costs the API server two calls a minute. A no is asked for again.
	believed = time.Minute

	// maxBelieved bounds the answers that are kept; losing them costs calls.
	maxBelieved = 64
)

// tokenReview and accessReview ask the API server, as its clients do.
type (
	tokenReview  func(context.Context, *authenticationv1.TokenReview, metav1.CreateOptions) (*authenticationv1.TokenReview, error)
	accessReview func(context.Context, *authorizationv1.SubjectAccessReview, metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error)
)

// guard answers requests. It is safe for concurrent use.
type guard struct {
	token  tokenReview
	access accessReview
	clock  clock.PassiveClock
	turns  chan struct{}

	mu      sync.Mutex
	allowed map[answer]time.Time // since when
}

// answer is the hash of a token with what it was good for.
type answer [sha256.Size]byte

// Provider returns what guards a metrics server of controller-runtime. The controller's account must have the right to create
// tokenreviews and subjectaccessreviews.
func Provider(clk clock.PassiveClock) func(*rest.Config, *http.Client) (metricsserver.Filter, error) {
	return func(config *rest.Config, client *http.Client) (metricsserver.Filter, error) {
		authentication, err := authenticationclient.NewForConfigAndClient(config, client)
		if err != nil {
			return nil, fmt.Errorf("make the client of token reviews: %w", err)
		}
		authorization, err := authorizationclient.NewForConfigAndClient(config, client)
		if err != nil {
			return nil, fmt.Errorf("make the client of access reviews: %w", err)
		}
		g := newGuard(authentication.TokenReviews().Create, authorization.SubjectAccessReviews().Create, clk)
		return func(log logr.Logger, next http.Handler) (http.Handler, error) { return g.before(log, next), nil }, nil
	}
}

func newGuard(token tokenReview, access accessReview, clk clock.PassiveClock) *guard {
	return &guard{token: token, access: access, clock: clk, turns: make(chan struct{}, reviewsAtOnce), allowed: map[answer]time.Time{}}
}

// before returns a handler that asks before next is asked.
//
//	| bearer token | is known   | may do this | status      |
//	|--------------|------------|-------------|-------------|
//	| none         |            |             | 401         |
//	| yes          | can't tell |             | 500         |
//	| yes          | no         |             | 401         |
//	| yes          | yes        | can't tell  | 500         |
//	| yes          | yes        | no          | 403         |
//	| yes          | yes        | yes         | that of next |
func (g *guard) before(log logr.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		status, err := g.judge(req)
		switch {
		case err != nil:
			log.Error(err, "who asks for metrics can't be checked")
			http.Error(w, http.StatusText(status), status)
		case status != http.StatusOK:
			http.Error(w, http.StatusText(status), status)
		default:
			next.ServeHTTP(w, req)
		}
	})
}

// judge returns 200 for a request that may pass, else what to answer. An error comes with 500.
func (g *guard) judge(req *http.Request) (int, error) {
	scheme, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return http.StatusUnauthorized, nil
	}
	attributes := &authorizationv1.NonResourceAttributes{Path: req.URL.Path, Verb: strings.ToLower(req.Method)}
	key := answer(sha256.Sum256([]byte(attributes.Verb + " " + attributes.Path + " " + token)))
	if g.believes(key) {
		return http.StatusOK, nil
	}
	ctx, cancel := context.WithTimeout(req.Context(), reviewTimeout)
	defer cancel()
	select {
	case g.turns <- struct{}{}:
		defer func() { <-g.turns }()
	case <-ctx.Done():
		return http.StatusInternalServerError, errors.New("too many ask at once")
	}
	status, err := g.review(ctx, token, attributes)
	if status == http.StatusOK {
		g.believe(key)
	}
	return status, err
}

// review asks the API server whose token it is, and whether that user may do this.
func (g *guard) review(ctx context.Context, token string, attributes *authorizationv1.NonResourceAttributes) (int, error) {
	known, err := g.token(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return http.StatusInternalServerError, fmt.Errorf("review the token: %w", err)
	case !known.Status.Authenticated:
		return http.StatusUnauthorized, nil
	}
	user := known.Status.User
	spec := authorizationv1.SubjectAccessReviewSpec{User: user.Username, UID: user.UID, Groups: user.Groups, NonResourceAttributes: attributes}
	for name, values := range user.Extra {
		if spec.Extra == nil {
			spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		spec.Extra[name] = authorizationv1.ExtraValue(values)
	}
	may, err := g.access(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return http.StatusInternalServerError, fmt.Errorf("review the access of %s: %w", user.Username, err)
	case !may.Status.Allowed:
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}

func (g *guard) believes(key answer) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	since, known := g.allowed[key]
	return known && g.clock.Since(since) < believed
}

func (g *guard) believe(key answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.allowed) >= maxBelieved {
		clear(g.allowed)
	}
	g.allowed[key] = g.clock.Now()
}
