// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"syscall"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

var quickElection = []string{
	"--leader-elect", "--leader-elect-lease-duration=3s", "--leader-elect-renew-deadline=2s", "--leader-elect-retry-period=500ms",
}

// leader waits until somebody else than before leads, and returns who.
func (s *space) leader(before string) string {
	s.t.Helper()
	holder := ""
	eventually(s.t, "elect a leader", func() error {
		lease := &coordinationv1.Lease{}
		if err := s.client.Get(s.ctx, client.ObjectKey{Namespace: s.name, Name: v1alpha1.LeaderElectionID}, lease); err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" || *lease.Spec.HolderIdentity == before {
			return fmt.Errorf("the lease is %v's", lease.Spec.HolderIdentity)
		}
		holder = *lease.Spec.HolderIdentity
		return nil
	})
	return holder
}

// A leader that is killed, frozen or asked to end is followed by the other controller, which delivers; a frozen one that
// wakes up gives no pod out that the new one holds.
func TestAnotherControllerTakesOver(t *testing.T) {
	cases := map[string]func(*controller){
		"killed":       func(c *controller) { c.kill() },
		"asked to end": func(c *controller) { c.signal(syscall.SIGTERM) },
		"frozen":       func(c *controller) { c.signal(syscall.SIGSTOP) },
	}
	for name, lose := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t)
			audit := startAudit(t, s)
			first := s.startController("", quickElection...)
			held := s.leader("")
			s.startController("", quickElection...)
			s.create(taskPool("p", 4))
			s.create(makeBatch("before", "p", 1))
			s.delivered("before", 1)
			lose(first)
			s.create(makeBatch("after", "p", 2))
			s.leader(held)
			s.delivered("after", 2)
			s.delivered("before", 1)
			first.signal(syscall.SIGCONT)
			s.create(makeBatch("later", "p", 1))
			s.delivered("later", 1)
			audit.stop()
		})
	}
}
