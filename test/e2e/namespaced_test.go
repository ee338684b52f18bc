// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// namespaced is config/namespaced for these two namespaces, with the controller's image, and the controller in another namespace.
func (s *space) namespaced(image, system, first, second string) string {
	s.t.Helper()
	kustomize, err := exec.CommandContext(s.ctx, "../../hack/tools/tool.sh", "kustomize").Output()
	s.must(err)
	out, err := exec.CommandContext(s.ctx, strings.TrimSpace(string(kustomize)), "build", "../../config/namespaced").Output()
	s.must(err)
	return strings.NewReplacer("opensandbox/controller:dev", image, systemNamespace, system, "team-a", first, "team-b", second).Replace(string(out))
}

// insteadOf runs what is in a manifest in place of the controller of all namespaces, until the test ends.
func (s *space) insteadOf(manager *appsv1.Deployment, manifest, system string) {
	s.t.Helper()
	scale := func(ctx context.Context, replicas int32) error {
		body := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
		if err := s.client.Patch(ctx, manager.DeepCopy(), client.RawPatch("application/merge-patch+json", body)); err != nil {
			return err
		}
		return s.controllers(ctx, systemNamespace, int(replicas))
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*settleTime)
		defer cancel()
		_, err := run(ctx, "-n", system, "delete", "deployment", managerName, "--ignore-not-found", "--timeout=60s")
		if err := errors.Join(err, s.controllers(ctx, system, 0), scale(ctx, *manager.Spec.Replicas)); err != nil {
			s.t.Errorf("bring the controller of all namespaces back: %v", err)
		}
	})
	s.must(scale(s.ctx, 0))
	path := filepath.Join(s.t.TempDir(), "namespaced.yaml")
	s.must(os.WriteFile(path, []byte(manifest), 0o600))
	_, err := run(s.ctx, "apply", "-f", path)
	s.must(err)
	s.must(s.controllers(s.ctx, system, 2))
}

// controllers waits until there are so many controllers in a namespace, all Ready.
func (s *space) controllers(ctx context.Context, namespace string, n int) error {
	return poll(settleTime, func() error {
		var pods corev1.PodList
		if err := s.client.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{"control-plane": "controller-manager"}); err != nil {
			return err
		}
		if len(pods.Items) != n || slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return !isReady(&p) }) {
			return fmt.Errorf("%d pods, want %d that are Ready", len(pods.Items), n)
		}
		return nil
	})
}

// Not parallel: it takes the place of the controller of all namespaces. What its account may not do is tested where that is quick.
func TestAControllerWithRolesAloneServesItsNamespacesAndNoOther(t *testing.T) {
	s, second, other := newSpace(t), newSpace(t), newSpace(t)
	system := newSpace(t).name
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}}
	s.must(s.client.Patch(s.ctx, namespace, client.RawPatch("application/merge-patch+json",
		[]byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`))))
	manager := &appsv1.Deployment{}
	s.must(s.client.Get(s.ctx, client.ObjectKey{Namespace: systemNamespace, Name: managerName}, manager))
	image := manager.Spec.Template.Spec.Containers[0].Image
	s.insteadOf(manager, s.namespaced(image, system, s.name, second.name), system)

	other.create(other.taskBatch("untouched", "one", "true"))
	other.createYAML(other.onePod("one"))
	for _, s := range []*space{s, second} {
		s.createYAML(s.restarted("one"))
		s.poolIs("one", "is warm", func(p v1alpha1.PoolStatus) bool { return p.Available == 1 })
		pod := ""
		for round := range 2 { // the second gets the pod of the first
			batch := fmt.Sprintf("user-%d", round)
			s.create(s.taskBatch(batch, "one", "sh", "-c", "test ! -e /left && touch /left"))
			if sb := s.ended(batch, 1); sb.Status.TaskSucceed != 1 {
				t.Errorf("%s: its task failed: %+v", batch, sb.Status.FailedTasks)
			}
			held := s.holders(batch)[0]
			if pod != "" && held != pod {
				t.Errorf("%s holds %s, want %s again", batch, held, pod)
			}
			pod = held
			s.must(s.client.Delete(s.ctx, s.batch(batch)))
			s.again(batch, pod)
		}
		s.poolIs("one", "has counted them", func(p v1alpha1.PoolStatus) bool { return p.Recycled == 2 && p.Replaced == 0 })
		s.must(s.client.Delete(s.ctx, s.pool("one")))
		s.gone("one", &v1alpha1.Pool{})
		s.podGone(pod)
	}
	if sb := other.batch("untouched"); len(sb.Finalizers) > 0 || len(sb.Annotations) > 0 || sb.Status.ObservedGeneration != 0 {
		t.Errorf("a batch of another namespace was touched: %+v", sb)
	}
	if pool := other.pool("one"); len(pool.Finalizers) > 0 || pool.Status.ObservedGeneration != 0 {
		t.Errorf("a pool of another namespace was touched: %+v", pool)
	}

	var pods corev1.PodList
	s.must(s.client.List(s.ctx, &pods, client.InNamespace(system)))
	for _, pod := range pods.Items {
		log, err := run(s.ctx, "-n", system, "logs", pod.Name)
		if n := strings.Count(log, "may not watch nodes"); n != 1 || strings.Contains(log, "forbidden") {
			t.Errorf("%s says %d times that it may not watch nodes, want once and nothing else that is forbidden (%v):\n%s", pod.Name, n, err, log)
		}
		for _, port := range []string{"8080", "8443"} { // of metrics
			conn, err := net.DialTimeout("tcp", net.JoinHostPort(pod.Status.PodIP, port), time.Second)
			if err == nil {
				_ = conn.Close()
				t.Errorf("%s serves port %s of its pod's address", pod.Name, port)
			}
		}
	}
}
