// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// tokenOf makes a service account in the test's namespace, and returns a token of it.
func (s *space) tokenOf(account string) string {
	s.t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}
	s.create(sa)
	request := &authenticationv1.TokenRequest{}
	s.must(s.client.SubResource("token").Create(s.ctx, sa, request))
	return request.Status.Token
}

// get returns the status and body that an URL answers with; the certificate is not looked at. A token of "" is none.
func (s *space) get(url, token string) (int, string, error) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, url, nil)
	s.must(err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // it is self-signed
	reply, err := c.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer reply.Body.Close() //nolint:errcheck // only read from
	body, err := io.ReadAll(reply.Body)
	return reply.StatusCode, string(body), err
}

// answers waits until an URL answers with a status, and returns the body.
func (s *space) answers(url, token string, want int) (body string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%s answers with %d", url, want), func() error {
		status, text, err := s.get(url, token)
		if body = text; err != nil {
			return err
		}
		if status != want {
			return fmt.Errorf("status %d: %s", status, text)
		}
		return nil
	})
	return body
}

// The rights of config/rbac are enough for the controller to check who asks, and for a reader to read.
func TestMetricsAreShownToThoseWhoMayReadThemAlone(t *testing.T) {
	s := newSpace(t)
	s.deployRights()
	_, port, err := net.SplitHostPort(freeAddress(t))
	s.must(err)
	c := s.startController(s.kubeconfigOf(systemAccount), "--namespace="+systemNamespace, "--metrics-bind-address=:"+port)
	stranger, reader := s.tokenOf("stranger"), s.tokenOf("reader")
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: s.name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "opensandbox-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.name, Name: "reader"}},
	}
	s.must(s.client.Create(s.ctx, binding))
	t.Cleanup(func() { _ = s.client.Delete(context.WithoutCancel(s.ctx), binding) })

	url := "https://127.0.0.1:" + port + "/metrics"
	s.answers(url, "", http.StatusUnauthorized)
	s.answers(url, "not-a-token", http.StatusUnauthorized)
	s.answers(url, stranger, http.StatusForbidden)
	if body := s.answers(url, reader, http.StatusOK); !strings.Contains(body, "opensandbox_deliveries_total") {
		t.Errorf("the metrics are\n%s", body)
	}
	s.answers(url, stranger, http.StatusForbidden)
	if _, body, _ := s.get("http://127.0.0.1:"+port+"/metrics", reader); strings.Contains(body, "opensandbox_") {
		t.Error("the metrics are shown without TLS")
	}
	if log := c.log.String(); strings.Contains(log, "can't be checked") {
		t.Errorf("the controller may not check who asks:\n%s", tail(log, 20))
	}
}

func TestAStandbyIsReadyToLead(t *testing.T) {
	s := newSpace(t)
	first, second := freeAddress(t), freeAddress(t)
	s.startController("", "--leader-elect", "--health-probe-bind-address="+first)
	leader := s.leader("")
	s.answers("http://"+first+"/readyz", "", http.StatusOK)
	s.startController("", "--leader-elect", "--health-probe-bind-address="+second)
	s.answers("http://"+second+"/readyz", "", http.StatusOK)
	if now := s.leader(""); now != leader {
		t.Errorf("%s leads, want %s as before", now, leader)
	}
}

func TestALeaderThatCanNotHandOutIsNotReady(t *testing.T) {
	s := newSpace(t)
	broken := secretNamed(s.name, v1alpha1.RootSecretName) // and so no root of tokens
	s.must(s.client.Create(s.ctx, broken))
	address := freeAddress(t)
	c := s.startController("", "--health-probe-bind-address="+address)
	eventually(t, "fail to rebuild the ledger", func() error {
		if !strings.Contains(c.log.String(), "rebuild the ledger") {
			return errors.New("the log says nothing of it")
		}
		return nil
	})
	for range 3 {
		s.answers("http://"+address+"/healthz", "", http.StatusOK)
		if status, body, err := s.get("http://"+address+"/readyz", ""); status != http.StatusInternalServerError {
			t.Errorf("readiness %d (%v), want 500: %s", status, err, body)
		}
	}
	s.must(s.client.Delete(s.ctx, broken))
	s.answers("http://"+address+"/readyz", "", http.StatusOK)
}

// The account may do nothing at first, so that no cache can be filled.
func TestAControllerWhoseCachesAreNotFilledIsNotReady(t *testing.T) {
	s := newSpace(t)
	address := freeAddress(t)
	c := s.startController(s.kubeconfigOf("system:serviceaccount:"+s.name+":opensandbox-controller-manager"), "--health-probe-bind-address="+address)
	eventually(t, "fail to list pods", func() error {
		if !strings.Contains(c.log.String(), "pods is forbidden") {
			return errors.New("the log says nothing of it")
		}
		return nil
	})
	s.answers("http://"+address+"/healthz", "", http.StatusOK)
	if status, body, err := s.get("http://"+address+"/readyz", ""); status != http.StatusInternalServerError {
		t.Errorf("readiness %d (%v), want 500: %s", status, err, body)
	}
	for _, obj := range s.namespaced(s.name, s.name, "elsewhere") {
		if kind := obj.GetKind(); (kind == "Role" || kind == "RoleBinding") && obj.GetNamespace() == s.name {
			s.must(s.client.Create(s.ctx, obj))
		}
	}
	s.answers("http://"+address+"/readyz", "", http.StatusOK)
}

// The lease would last for 15 s more: whoever leads before then was let to. Tasks run meanwhile, and their watchers wait for
// minutes.
func TestALeaderThatIsAskedToEndLetsTheNextOneLeadAtOnce(t *testing.T) {
	s := newSpace(t)
	audit := startAudit(t, s)
	s.startExecutors()
	first := s.startController("", "--leader-elect")
	held := s.leader("")
	second := freeAddress(t)
	s.startController("", "--leader-elect", "--health-probe-bind-address="+second)
	s.answers("http://"+second+"/readyz", "", http.StatusOK)
	s.create(taskPool("p", 4))
	s.create(makeTaskBatch("runs", "p", "sleep 1000", 2))
	s.runs("runs", 2)

	begin := time.Now()
	first.signal(syscall.SIGTERM)
	if err := first.ended(); err != nil {
		t.Errorf("the controller ended with %v, want no error", err)
	}
	ended := time.Since(begin)
	lease := &coordinationv1.Lease{}
	s.must(s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: v1alpha1.LeaderElectionID}, lease))
	if *lease.Spec.HolderIdentity == held {
		t.Errorf("%s still has the lease", held)
	}
	s.leader(held)
	if took := time.Since(begin); took > 12*time.Second {
		t.Errorf("another leads after %v, want it before the lease is over", took)
	}
	s.create(makeBatch("after", "p", 2))
	s.delivered("after", 2)
	t.Logf("ended after %v, delivered after %v", ended.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	s.runs("runs", 2)
	if st := s.batch("runs").Status; len(st.TaskTries) > 0 {
		t.Errorf("status %+v, want both tasks to run on", st)
	}
	audit.stop()
}

// ended waits until the process ends by itself, and returns how it did.
func (c *controller) ended() error {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	result := make(chan error, 1)
	go func(cmd *exec.Cmd) { result <- cmd.Wait() }(c.cmd)
	select {
	case err := <-result:
		c.cmd = nil
		return err
	case <-time.After(settleTime):
		return errors.New("it runs on")
	}
}
