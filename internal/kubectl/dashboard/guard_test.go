// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestGuard(t *testing.T) {
	const token = "the-token"
	for name, c := range map[string]struct {
		method, path, host string
		header             map[string]string
		want               int
	}{
		"the printed address is let through":               {path: "/the-token/", want: 200},
		"a page below it is let through":                   {path: "/the-token/pools/a/b", want: 200},
		"localhost is this machine too":                    {path: "/the-token/", host: "localhost:1", want: 200},
		"another port is a tunnel":                         {path: "/the-token/", host: "127.0.0.1:9", want: 200},
		"no port is a tunnel from port 80":                 {path: "/the-token/", host: "127.0.0.1", want: 200},
		"HEAD changes nothing":                             {method: "HEAD", path: "/the-token/", want: 200},
		"without the token there is nothing":               {path: "/", want: 403},
		"the token without a slash is one":                 {path: "/the-token", want: 200},
		"another token is none":                            {path: "/the-tokem/", want: 403},
		"the beginning of the token is none":               {path: "/the-/", want: 403},
		"more than the token is none":                      {path: "/the-token1/", want: 403},
		"the token in a query is none":                     {path: "/?token=the-token", want: 403},
		"a name that was made to lead here is told so":     {path: "/the-token/", host: "evil.example:1", want: 421},
		"a name that begins with the address isn't it":     {path: "/the-token/", host: "127.0.0.1.evil.example:1", want: 421},
		"no host is no loopback":                           {path: "/the-token/", host: " ", want: 421},
		"another address of loopback isn't served":         {path: "/the-token/", host: "127.0.0.2:1", want: 421},
		"POST would change things":                         {method: "POST", path: "/the-token/", want: 405},
		"DELETE would change things":                       {method: "DELETE", path: "/the-token/", want: 405},
		"OPTIONS asks what other pages may do":             {method: "OPTIONS", path: "/the-token/", want: 405},
		"an own script has this origin":                    {path: "/the-token/", header: map[string]string{"Origin": "http://127.0.0.1:1"}, want: 200},
		"another page's script has another origin":         {path: "/the-token/", header: map[string]string{"Origin": "http://evil.example"}, want: 403},
		"a page of another port is another page":           {path: "/the-token/", header: map[string]string{"Origin": "http://127.0.0.1:2"}, want: 403},
		"a page without an origin is another page":         {path: "/the-token/", header: map[string]string{"Origin": "null"}, want: 403},
		"TLS is no origin of ours":                         {path: "/the-token/", header: map[string]string{"Origin": "https://127.0.0.1:1"}, want: 403},
		"a picture in another page is refused":             {path: "/the-token/", header: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, want: 403},
		"a frame in a page of another port is refused":     {path: "/the-token/", header: map[string]string{"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, want: 403},
		"a link in another page leads here":                {path: "/the-token/", header: map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, want: 200},
		"what is typed into the address bar has no origin": {path: "/the-token/", header: map[string]string{"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, want: 200},
	} {
		t.Run(name, func(t *testing.T) {
			method, host := c.method, c.host
			if method == "" {
				method = "GET"
			}
			if host == "" {
				host = "127.0.0.1:1"
			}
			r := httptest.NewRequest(method, "http://127.0.0.1:1"+c.path, nil)
			r.Host = strings.TrimSpace(host)
			for k, v := range c.header {
				r.Header.Set(k, v)
			}
			reached := false
			w := httptest.NewRecorder()
			guard(token, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				reached = true
				if strings.Contains(r.URL.Path, token) {
					t.Errorf("the path behind the guard is %q", r.URL.Path)
				}
			})).ServeHTTP(w, r)
			if w.Code != c.want || reached != (c.want == 200) {
				t.Errorf("got %d, reached %v, want %d", w.Code, reached, c.want)
			}
			for header, want := range map[string]string{
				"Content-Security-Policy": "default-src 'none'", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
				"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
			} {
				if got := w.Header().Get(header); !strings.HasPrefix(got, want) {
					t.Errorf("%s is %q, want %q", header, got, want)
				}
			}
			if strings.Contains(w.Body.String(), token) {
				t.Error("the answer tells the token")
			}
		})
	}
}

func TestContentPolicyAllowsNothingInlineAndNothingOfOthers(t *testing.T) {
	for _, word := range []string{"unsafe", "http:", "https:", "data:", "*", "nonce"} {
		if strings.Contains(contentPolicy, word) {
			t.Errorf("the policy has %q: %s", word, contentPolicy)
		}
	}
	for _, word := range []string{"frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
		if !strings.Contains(contentPolicy, word) {
			t.Errorf("the policy lacks %q", word)
		}
	}
}

func TestTokensAreLongAndNeverTheSame(t *testing.T) {
	a, b := newToken(), newToken()
	if a == b || len(a) != 43 || strings.ContainsAny(a, "/+=%?#") {
		t.Errorf("two tokens are %q and %q", a, b)
	}
}
