// SPDX-License-Identifier: Apache-2.0

package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"opensandbox.io/controller/internal/kubectl/cluster"
)

// result is what a command line printed, and its exit code.
type result struct {
	out, errOut string
	code        int
}

func runLine(t *testing.T, args ...string) result {
	t.Helper()
	streams, _, out, errOut := genericiooptions.NewTestIOStreams()
	code := Run(t.Context(), "v1.2.3", args, streams)
	return result{out.String(), errOut.String(), code}
}

func TestMistakesEndWithOneAndAHint(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"unknown command":             {[]string{"nonsense"}, "error: unknown command \"nonsense\" for \"kubectl sandbox\"\nSee 'kubectl sandbox --help' for usage.\n"},
		"a command that is near":      {[]string{"resutls"}, "error: unknown command \"resutls\" for \"kubectl sandbox\"\n\nDid you mean this?\n\tresults\n\nSee 'kubectl sandbox --help' for usage.\n"},
		"unknown flag":                {[]string{"run", "--bar"}, "error: unknown flag: --bar\nSee 'kubectl sandbox run --help' for usage.\n"},
		"a missing argument":          {[]string{"results"}, "error: accepts 1 arg(s), received 0\nSee 'kubectl sandbox results --help' for usage.\n"},
		"a missing flag":              {[]string{"scale", "web"}, "error: required flag(s) \"replicas\" not set\nSee 'kubectl sandbox scale --help' for usage.\n"},
		"a missing choice":            {[]string{"extend", "web"}, "error: at least one of the flags in the group [by until never] is required\nSee 'kubectl sandbox extend --help' for usage.\n"},
		"two choices":                 {[]string{"extend", "web", "--never", "--by=1h"}, "error: if any flags in the group [by until never] are set none of the others can be; [by never] were all set\nSee 'kubectl sandbox extend --help' for usage.\n"},
		"less than nothing more":      {[]string{"extend", "web", "--by=-1h"}, "error: --by=-1h0m0s: must be above 0; an earlier end is set with --until\nSee 'kubectl sandbox extend --help' for usage.\n"},
		"no time":                     {[]string{"extend", "web", "--until=noon"}, "error: --until=noon: must be a time as 2026-12-24T18:00:00Z or 2026-12-24T18:00:00+01:00 (RFC 3339)\nSee 'kubectl sandbox extend --help' for usage.\n"},
		"a negative number":           {[]string{"scale", "web", "--replicas=-1"}, "error: --replicas=-1: must be at least 0\nSee 'kubectl sandbox scale --help' for usage.\n"},
		"a command without its --":    {[]string{"run", "mine", "echo"}, "error: the command goes after --, as in: -- echo\nSee 'kubectl sandbox run --help' for usage.\n"},
		"two names":                   {[]string{"run", "mine", "yours", "--", "echo"}, "error: there is one NAME before --, not 2\nSee 'kubectl sandbox run --help' for usage.\n"},
		"nowhere to run":              {[]string{"run", "--", "echo"}, "error: say where the sandboxes come from: --pool=NAME for a pool, or --image=IMAGE for pods of their own\nSee 'kubectl sandbox run --help' for usage.\n"},
		"an output that there is not": {[]string{"results", "web", "-o", "xml"}, "error: unable to match a printer suitable for the output format \"xml\", allowed formats are: wide,json,yaml\nSee 'kubectl sandbox results --help' for usage.\n"},
		"nobody to enter":             {[]string{"exec", "--", "ls"}, "error: NAME is missing: name the batch\nSee 'kubectl sandbox exec --help' for usage.\n"},
		"nothing to execute":          {[]string{"exec", "web", "--"}, "error: COMMAND is missing: give it after --\nSee 'kubectl sandbox exec --help' for usage.\n"},
		"a follower of failures":      {[]string{"logs", "web", "-f", "--failed"}, "error: --follow goes with neither --failed nor --tail\nSee 'kubectl sandbox logs --help' for usage.\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
			got := runLine(t, append([]string{"kubectl-sandbox"}, tc.args...)...)
			if diff := cmp.Diff(result{errOut: tc.want, code: 1}, got, cmp.AllowUnexported(result{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMessage(t *testing.T) {
	batches := schema.GroupResource{Group: "sandbox.opensandbox.io", Resource: "batchsandboxes"}
	missing := apierrors.NewGenericServerResponse(http.StatusNotFound, "get", batches, "web", "404 page not found", 0, true)
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"an object that is not there": {apierrors.NewNotFound(batches, "web"), `Error from server (NotFound): batchsandboxes.sandbox.opensandbox.io "web" not found`},
		"with what was being done": {
			fmt.Errorf("watch web: %w", apierrors.NewUnauthorized("no")), "Error from server (Unauthorized): watch web: no",
		},
		"no definitions": {missing, "error: the server doesn't have the kinds BatchSandbox and Pool"},
		"nobody listens": {
			&url.Error{Op: "Get", URL: "https://10.0.0.1:6443/api", Err: refused(t)},
			"The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?",
		},
		"told as it is": {cluster.Plain("command terminated with exit code 3"), "command terminated with exit code 3"},
		"any other":     {errors.New("oops"), "error: oops"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := message(tc.err); !strings.HasPrefix(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// refused is the error of a port that nobody listens at.
func refused(t *testing.T) error {
	t.Helper()
	server := httptest.NewServer(nil)
	server.Close()
	_, err := http.Get(server.URL) //nolint:bodyclose,noctx // there is none
	var at *url.Error
	if !errors.As(err, &at) {
		t.Fatal(err)
	}
	return at.Err
}

// TestEveryCommandHasItsHelp as kubectl's have: what it does, examples that name it, and the line of usage.
func TestEveryCommandHasItsHelp(t *testing.T) {
	root := New("v1.2.3", genericiooptions.NewTestIOStreamsDiscard())
	for _, cmd := range root.Commands() {
		if cmd.GroupID == "" {
			continue // cobra's, and the list of options
		}
		t.Run(cmd.Name(), func(t *testing.T) {
			switch {
			case cmd.Short == "" || strings.HasSuffix(cmd.Short, "."):
				t.Errorf("its line in the list is %q", cmd.Short)
			case cmd.Long == "" || !strings.Contains(cmd.Example, "  # ") || !strings.Contains(cmd.Example, "  kubectl sandbox "+cmd.Name()):
				t.Errorf("its help lacks words or examples: %q, %q", cmd.Long, cmd.Example)
			case cmd.ValidArgsFunction == nil:
				t.Error("its arguments are not completed")
			}
			got := runLine(t, "kubectl-sandbox", cmd.Name(), "--help")
			want := "Usage:\n  kubectl sandbox " + cmd.Use + " [options]\n"
			if !strings.Contains(got.out, want) || got.code != 0 || got.errOut != "" {
				t.Errorf("no %q in %s (%d, %s)", want, got.out, got.code, got.errOut)
			}
		})
	}
	if got := runLine(t, "kubectl-sandbox", "options"); !strings.Contains(got.out, "--kubeconfig string") || !strings.Contains(got.out, "--as string") || !strings.Contains(got.out, "-v, --v") {
		t.Errorf("options: %s", got.out)
	}
	if got := runLine(t, "kubectl-sandbox", "--version"); got.out != "kubectl sandbox v1.2.3\n" {
		t.Errorf("version: %q", got.out)
	}
}

// fakeCluster is an API server with two batches and two pools, and the kubeconfig for it.
func fakeCluster(t *testing.T) {
	t.Helper()
	lists := map[string][]string{"batchsandboxes": {"web", "build"}, "pools": {"small", "large"}, "namespaces": {"default", "team-a"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		if kind != "namespaces" && !strings.Contains(r.URL.Path, "/namespaces/team-a/") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		var items []map[string]any
		for _, name := range lists[kind] {
			items = append(items, map[string]any{"metadata": map[string]any{"name": name}})
		}
		w.Header().Set("Content-Type", "application/json")
		body := map[string]any{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": map[string]any{}, "items": items}
		if err := json.NewEncoder(w).Encode(body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	path := filepath.Join(t.TempDir(), "config")
	config := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"here",
		"clusters":[{"name":"c","cluster":{"server":%q}}],"users":[{"name":"u"}],
		"contexts":[{"name":"here","context":{"cluster":"c","user":"u","namespace":"team-a"}}]}`, server.URL)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", path)
}

func TestCompletion(t *testing.T) {
	fakeCluster(t)
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"a batch":                     {[]string{"logs", ""}, []string{"build", "web"}},
		"a batch by its first letter": {[]string{"results", "w"}, []string{"web"}},
		"no second batch, but a flag that is needed": {[]string{"extend", "web", ""}, []string{"--by", "--never", "--until"}},
		"a second batch that is not yet":             {[]string{"scale", "web", "--replicas=1", ""}, []string{"build"}},
		"a pool":                                     {[]string{"run", "--pool", ""}, []string{"large", "small"}},
		"a format":                                   {[]string{"results", "web", "-o", ""}, []string{"wide", "json", "yaml"}},
		"a namespace":                                {[]string{"logs", "-n", "team"}, []string{"team-a"}},
		"a context":                                  {[]string{"logs", "--context", ""}, []string{"here"}},
		"nothing where nothing is allowed":           {[]string{"logs", "-n", "default", ""}, nil},
		"a command":                                  {[]string{"sca"}, []string{"scale"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, program := range [][]string{{"kubectl-sandbox", cobra.ShellCompRequestCmd}, {"/usr/bin/" + completer}} {
				got := runLine(t, append(slices.Clone(program), tc.args...)...)
				var names []string
				for line := range strings.Lines(got.out) {
					if !strings.HasPrefix(line, ":") {
						name, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
						names = append(names, name)
					}
				}
				if diff := cmp.Diff(tc.want, names); diff != "" {
					t.Errorf("%v: %s", program, diff)
				}
			}
		})
	}
}
