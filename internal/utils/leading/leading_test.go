// SPDX-License-Identifier: Apache-2.0

package leading_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/utils/leading"
)

func TestWhoLeadsNoMoreWritesNothingThatALeaderWrites(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x"}}
	for name, tc := range map[string]struct {
		call    func(context.Context, kubernetes.Interface) error
		refused bool
	}{
		"create a pod": {func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().Pods("ns").Create(ctx, pod, metav1.CreateOptions{})
			return err
		}, true},
		"delete a pod": {func(ctx context.Context, c kubernetes.Interface) error {
			return c.CoreV1().Pods("ns").Delete(ctx, "x", metav1.DeleteOptions{})
		}, true},
		"patch a pod's status": {func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().Pods("ns").Patch(ctx, "x", types.MergePatchType, []byte("{}"), metav1.PatchOptions{}, "status")
			return err
		}, true},
		"patch a batch": {func(ctx context.Context, c kubernetes.Interface) error {
			return c.CoreV1().RESTClient().Patch(types.MergePatchType).
				AbsPath("/apis/" + v1alpha1.GroupVersion.String() + "/namespaces/ns/batchsandboxes/b").Body([]byte("{}")).Do(ctx).Error()
		}, true},
		"read a pod": {func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().Pods("ns").Get(ctx, "x", metav1.GetOptions{})
			return err
		}, false},
		"tell of an event": {func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.EventsV1().Events("ns").Patch(ctx, "e", types.MergePatchType, []byte("{}"), metav1.PatchOptions{})
			return err
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				calls++
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte("{}"))
			}))
			defer server.Close()
			leads := false
			config := &rest.Config{Host: server.URL}
			config.Wrap(leading.Guard(func() bool { return leads }))
			c, err := kubernetes.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			want := 1
			if tc.refused {
				want = 0
			}
			if err := tc.call(t.Context(), c); errors.Is(err, leading.ErrLost) != tc.refused || calls != want {
				t.Errorf("while it doesn't lead: %v after %d calls; refused: %t", err, calls, tc.refused)
			}
			leads, calls = true, 0
			if err := tc.call(t.Context(), c); err != nil || calls != 1 {
				t.Errorf("while it leads: %v after %d calls", err, calls)
			}
		})
	}
}
