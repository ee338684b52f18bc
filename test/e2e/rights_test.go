// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const serviceAccounts = "system:serviceaccount:" + systemNamespace + ":"

// rules are what a service account of the controller's namespace may do in a namespace, as lines
// "group/resource[ name]: verbs".
func rules(ctx context.Context, t *testing.T, account, namespace string) []string {
	t.Helper()
	config := rest.CopyConfig(shared.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: serviceAccounts + account, Groups: []string{
		"system:serviceaccounts", "system:serviceaccounts:" + systemNamespace, "system:authenticated",
	}}
	c, err := client.New(config, client.Options{Scheme: shared.client.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
	if err := c.Create(ctx, review); err != nil {
		t.Fatal(err)
	}
	if review.Status.Incomplete {
		t.Fatalf("the answer is incomplete: %s", review.Status.EvaluationError)
	}
	var lines []string
	for _, rule := range review.Status.ResourceRules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				verbs := slices.Sorted(slices.Values(rule.Verbs))
				line := group + "/" + resource
				if len(rule.ResourceNames) > 0 {
					line += " " + strings.Join(rule.ResourceNames, ",")
				}
				lines = append(lines, line+": "+strings.Join(verbs, " "))
			}
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// granted are the controller's rules without those that every service account has.
func granted(t *testing.T, namespace string) []string {
	t.Helper()
	everybodys := rules(t.Context(), t, "somebody-else", namespace)
	return slices.DeleteFunc(rules(t.Context(), t, managerName, namespace), func(rule string) bool {
		return slices.Contains(everybodys, rule)
	})
}

// A line more here is a right more for whoever takes the controller over: it needs a reason.
func TestTheControllersAccountMayDoWhatItDoesAndNothingElse(t *testing.T) {
	t.Parallel()
	everywhere := []string{
		"/namespaces: get",
		"/nodes: get list watch",
		"/pods: create delete get list patch watch",
		"authentication.k8s.io/tokenreviews: create",        // whose token is it that asks for metrics,
		"authorization.k8s.io/subjectaccessreviews: create", // and may that user read them?
		"events.k8s.io/events: create patch",
		"sandbox.opensandbox.io/batchsandboxes/finalizers: update",
		"sandbox.opensandbox.io/batchsandboxes/status: patch",
		"sandbox.opensandbox.io/batchsandboxes: delete get list patch watch",
		"sandbox.opensandbox.io/pools/finalizers: update",
		"sandbox.opensandbox.io/pools/status: patch",
		"sandbox.opensandbox.io/pools: get list patch watch",
	}
	if diff := cmp.Diff(everywhere, granted(t, "default")); diff != "" {
		t.Errorf("rights in any namespace (-want +got):\n%s", diff)
	}
	own := slices.Sorted(slices.Values(append(everywhere,
		"/secrets opensandbox-controller-root: get",
		"/secrets: create", // which can't be limited to a name
		"coordination.k8s.io/leases 2fa1c467.opensandbox.io: get update",
		"coordination.k8s.io/leases: create",
	)))
	if diff := cmp.Diff(own, granted(t, systemNamespace)); diff != "" {
		t.Errorf("rights in the controller's own namespace (-want +got):\n%s", diff)
	}
	for _, question := range []string{
		"get secrets", "get secret/another", "list secrets", "update secret/opensandbox-controller-root",
		"delete secret/opensandbox-controller-root", "create serviceaccounts --subresource=token", "impersonate users", "update nodes",
		"create pods --subresource=exec", "create pods --subresource=attach", "create pods --subresource=portforward",
		"create clusterrolebindings",
	} {
		args := append([]string{"auth", "can-i", "--as=" + serviceAccounts + managerName, "-n", systemNamespace}, strings.Fields(question)...)
		if out, _ := run(t.Context(), args...); strings.TrimSpace(out) != "no" { // it ends with code 1 when the answer is no
			t.Errorf("may the controller's account %s? %q, want \"no\"", question, out)
		}
	}
	if out, err := run(t.Context(), "auth", "can-i", "--as="+serviceAccounts+managerName, "create", "pods"); err != nil || strings.TrimSpace(out) != "yes" {
		t.Errorf("may the controller's account create pods? %q (%v), want \"yes\"", out, err)
	}
}
