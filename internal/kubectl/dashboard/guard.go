// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"crypto/subtle"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// contentPolicy lets the pages have scripts, styles and data of this server alone, and nobody frame them.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// guard lets requests of the user's own browser through to next, without the token in their path. The token is in the path and not
// in a cookie: a cookie of 127.0.0.1 would go to every other port of this machine, too.
//
//	| request                                              | answer                 |
//	| another method than GET and HEAD                     | 405                    |
//	| Host is no name of this machine's loopback           | 421: DNS rebinding     |
//	| Origin is another page's                             | 403                    |
//	| a part of another page (Sec-Fetch-Site), no tab      | 403                    |
//	| without the token, or with another one               | 403                    |
//	| else                                                 | what next answers      |
func guard(token string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		path, code, message := admit(token, r)
		if code != http.StatusOK {
			if code == http.StatusMethodNotAllowed {
				h.Set("Allow", "GET, HEAD")
			}
			http.Error(w, message, code)
			return
		}
		inner := r.Clone(r.Context())
		inner.URL.Path, inner.URL.RawPath = path, ""
		next.ServeHTTP(w, inner)
	})
}

// admit returns the path behind the token, or why not.
func admit(token string, r *http.Request) (path string, code int, message string) {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return "", http.StatusMethodNotAllowed, "The dashboard only shows: use kubectl sandbox to change things."
	case !isLoopbackHost(r.Host):
		return "", http.StatusMisdirectedRequest, "The dashboard is served for 127.0.0.1 and localhost alone."
	case !isOwnOrigin(r):
		return "", http.StatusForbidden, "Another page asked for this."
	}
	given, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if subtle.ConstantTimeCompare([]byte(given), []byte(token)) != 1 {
		return "", http.StatusForbidden, "Open the address that kubectl sandbox dashboard printed: it is another one each time."
	}
	return "/" + path, http.StatusOK, ""
}

// isLoopbackHost says whether a Host header names loopback. The port may be another one, as in a tunnel.
func isLoopbackHost(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	return name == "127.0.0.1" || strings.EqualFold(name, "localhost")
}

// isOwnOrigin says whether a request is from a page of this server, or from no page at all: from the address bar, a bookmark, a
// terminal. A link in another page may lead here, for whoever has it has the token.
func isOwnOrigin(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" || u.Host != r.Host {
			return false
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return true
	}
	return r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}
