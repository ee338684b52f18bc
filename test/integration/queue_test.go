// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// follow calls see with every state of every batch, in the order in which they came to be, until it returns true.
func (s *space) follow(what string, see func(sb *v1alpha1.BatchSandbox) (done bool)) {
	s.t.Helper()
	changes, err := s.client.Watch(s.ctx, &v1alpha1.BatchSandboxList{}, client.InNamespace(s.name))
	s.must(err)
	defer changes.Stop()
	deadline := time.NewTimer(2 * settleTime)
	defer deadline.Stop()
	for {
		select {
		case change := <-changes.ResultChan():
			sb, ok := change.Object.(*v1alpha1.BatchSandbox)
			if ok && change.Type != watch.Deleted && see(sb) {
				return
			}
		case <-deadline.C:
			s.t.Fatalf("%s: it takes too long", what)
		}
	}
}

// held counts the pods that a batch names.
func held(sb *v1alpha1.BatchSandbox) int {
	pods, _, err := annotations(sb)
	if err != nil {
		return 0
	}
	return len(slices.DeleteFunc(pods, func(pod string) bool { return pod == "" }))
}

// place is what a batch tells of its place in the queue, "-" for nothing.
func place(sb *v1alpha1.BatchSandbox) string {
	if sb.Status.Queue == nil {
		return "-"
	}
	return fmt.Sprintf("%d of %d", sb.Status.Queue.Position, sb.Status.Queue.Waiting)
}

// hasPlaces waits until every batch tells this place.
func (s *space) hasPlaces(want map[string]string) {
	s.t.Helper()
	eventually(s.t, "tell the places", func() error {
		var wrong []error
		for name, wanted := range want {
			if got := place(s.batch(name)); got != wanted {
				wrong = append(wrong, fmt.Errorf("%s tells %s, want %s", name, got, wanted))
			}
		}
		return errors.Join(wrong...)
	})
}

func (s *space) delete(name string) {
	s.t.Helper()
	s.must(s.client.Delete(s.ctx, s.batch(name)))
}

// holdsNothing checks that a batch has no pod.
func (s *space) holdsNothing(name, while string) {
	s.t.Helper()
	if n := held(s.batch(name)); n != 0 {
		s.t.Errorf("%s holds %d pods while %s", name, n, while)
	}
}

func TestTwentyBatchesOfThreeAgainstAPoolOfFiveAreServedInOrder(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 0, 1, 0, 5))
	const n = 20
	number := map[string]int{}
	for i := range n {
		name := fmt.Sprintf("b-%02d", i)
		number[name] = i
		s.create(makeBatch(name, "p", 3))
	}
	served := 0
	s.follow("serve all", func(sb *v1alpha1.BatchSandbox) bool {
		i, pods := number[sb.Name], held(sb)
		if pods > 0 && i > served+1 {
			t.Errorf("%s has %d pods, and b-%02d doesn't have all", sb.Name, pods, served)
		}
		if sb.Status.Ready == 3 && sb.DeletionTimestamp == nil && i >= served {
			if i > served {
				t.Errorf("%s was served before b-%02d", sb.Name, served)
			}
			served = i + 1
			s.must(s.client.Delete(s.ctx, sb))
		}
		return served == n || t.Failed()
	})
	eventually(t, "release all", func() error {
		if st := s.pool("p").Status; st.Allocated != 0 || st.Waiting != 0 || st.Total > 5 {
			return fmt.Errorf("pool has %+v", st)
		}
		return nil
	})
}

func TestAGangOfEightAndSinglesMixed(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 0, 2, 0, 10))
	for i := range 10 {
		s.create(makeBatch(fmt.Sprintf("early-%d", i), "p", 1))
	}
	for i := range 10 {
		s.delivered(fmt.Sprintf("early-%d", i), 1)
	}
	gang := makeBatch("gang", "p", 8)
	eight := int32(8)
	gang.Spec.MinAvailable = &eight
	s.create(gang)
	s.hasPlaces(map[string]string{"gang": "1 of 8"})
	for i := range 4 {
		s.create(makeBatch(fmt.Sprintf("late-%d", i), "p", 1))
	}
	s.hasPlaces(map[string]string{"gang": "1 of 12", "late-0": "2 of 12", "late-3": "5 of 12"})
	for i := range 8 {
		s.delete(fmt.Sprintf("early-%d", i))
	}
	s.follow("serve the gang", func(sb *v1alpha1.BatchSandbox) bool {
		n := held(sb)
		if strings.HasPrefix(sb.Name, "late") && n > 0 {
			t.Errorf("%s overtook the gang", sb.Name)
		}
		if sb.Name == "gang" && n != 0 && n != 8 {
			t.Errorf("the gang got %d of 8", n)
		}
		return (sb.Name == "gang" && n == 8) || t.Failed()
	})
	s.delivered("gang", 8)
	for i := range 4 {
		s.holdsNothing(fmt.Sprintf("late-%d", i), "there is no room for it")
	}
	s.delete("early-8")
	s.delivered("late-0", 1)
	s.delete("early-9")
	s.delivered("late-1", 1)
	s.holdsNothing("late-2", "there is no room for it")
	s.delete("gang")
	s.delivered("late-2", 1)
	s.delivered("late-3", 1)
}

// freeAddress is an address of this machine where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nothing was sent
	return l.Addr().String()
}

// reconciles is the number of reconciles so far of both controllers, from the metrics at an address.
func reconciles(t *testing.T, address string) int {
	t.Helper()
	total := 0.0
	eventually(t, "read the metrics", func() error {
		res, err := http.Get("http://" + address + "/metrics") //nolint:noctx // of this machine
		if err != nil {
			return err
		}
		defer res.Body.Close() //nolint:errcheck // only read from
		total = 0
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			if line := lines.Text(); strings.HasPrefix(line, "controller_runtime_reconcile_total{") {
				n, err := strconv.ParseFloat(line[strings.LastIndex(line, " ")+1:], 64)
				if err != nil {
					return err
				}
				total += n
			}
		}
		return nil
	})
	return int(total)
}

// withinASecond checks that something comes true within a second in one of five tries: the machine may be busy.
func withinASecond(t *testing.T, what string, try func(i int) time.Duration) {
	t.Helper()
	var took []time.Duration
	for i := range 5 {
		took = append(took, try(i))
	}
	t.Logf("%s took %v", what, took)
	if least := slices.Min(took); least > time.Second {
		t.Errorf("%s took %v at least, want 1s at most", what, least)
	}
}

func TestABatchThatWaitsTellsItsPlaceWithinASecondAndMakesNoNoiseAtRest(t *testing.T) {
	s := newSpace(t)
	address := freeAddress(t)
	s.startController("", "--metrics-bind-address="+address)
	s.create(makePool("p", 0, 0, 0, 1))
	s.create(makeBatch("holder", "p", 1))
	s.delivered("holder", 1)
	withinASecond(t, "to tell the first place", func(i int) time.Duration {
		start := time.Now()
		s.create(makeBatch(fmt.Sprintf("w-%d", i), "p", 1))
		eventually(t, "tell the place", func() error {
			if got := place(s.batch(fmt.Sprintf("w-%d", i))); got != fmt.Sprintf("%d of %d", i+1, i+1) {
				return fmt.Errorf("w-%d tells %s", i, got)
			}
			return nil
		})
		return time.Since(start)
	})
	withinASecond(t, "to tell the places that a newcomer of a higher priority changes", func(i int) time.Duration {
		start := time.Now()
		first := makeBatch(fmt.Sprintf("first-%d", i), "p", 1)
		priority := int32(10 + i)
		first.Spec.Priority = &priority
		s.create(first)
		n := 6 + i
		s.hasPlaces(map[string]string{first.Name: fmt.Sprintf("1 of %d", n), "w-0": fmt.Sprintf("%d of %d", n-4, n), "w-4": fmt.Sprintf("%d of %d", n, n)})
		return time.Since(start)
	})
	withinASecond(t, "to tell the places that one who leaves changes", func(i int) time.Duration {
		start := time.Now()
		s.delete(fmt.Sprintf("first-%d", i))
		n := 9 - i
		s.hasPlaces(map[string]string{"w-0": fmt.Sprintf("%d of %d", n-4, n), "w-4": fmt.Sprintf("%d of %d", n, n)})
		return time.Since(start)
	})

	before, writes := 0, 0
	eventually(t, "come to rest", func() error {
		was := before
		time.Sleep(7 * time.Second) // longer than the delay of the labels, the last thing that is written
		before, writes = reconciles(t, address), len(s.writes())
		if before != was {
			return fmt.Errorf("%d reconciles more", before-was)
		}
		return nil
	})
	time.Sleep(5 * time.Second)
	if after := reconciles(t, address); after != before || before == 0 {
		t.Errorf("%d reconciles at rest, after %d", after-before, before)
	}
	if after := s.writes(); len(after) != writes {
		t.Errorf("%d writes at rest: %v", len(after)-writes, after[writes:])
	}
	s.delete("holder")
	s.delivered("w-0", 1)
}

func TestAGangAndReplicasThatCanNeverBeMetAreToldAndSetAside(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 0, 1, 0, 3))
	gang := makeBatch("gang", "p", 4)
	four := int32(4)
	gang.Spec.MinAvailable = &four
	s.create(gang)
	if message := s.hasReason("gang", v1alpha1.ConditionAllocated, v1alpha1.ReasonExceedsPoolMax); !strings.Contains(message, "minAvailable asks for 4") {
		t.Errorf("message %q", message)
	}
	s.create(makeBatch("small", "p", 1))
	s.delivered("small", 1) // nobody is ahead of it
	s.create(makeBatch("large", "p", 5))
	if message := s.hasReason("large", v1alpha1.ConditionAllocated, v1alpha1.ReasonExceedsPoolMax); !strings.Contains(message, "5 sandboxes are asked for") {
		t.Errorf("message %q", message)
	}
	eventually(t, "serve what can be served", func() error {
		if n := held(s.batch("large")); n != 2 {
			return fmt.Errorf("large holds %d", n)
		}
		return nil
	})
	s.delete("small")
	eventually(t, "serve all that can be served, and wait for no more", func() error {
		n, st := held(s.batch("large")), s.pool("p").Status
		if n != 3 || st.Waiting != 0 {
			return fmt.Errorf("large holds %d, pool has %+v", n, st)
		}
		return nil
	})
	s.hasPlaces(map[string]string{"gang": "-", "large": "-"})
	s.patch(s.pool("p"), `{"spec":{"capacitySpec":{"poolMax":9}}}`)
	s.delivered("gang", 4)
	s.delivered("large", 5)
}

func TestABatchWhoseAllocationTimedOutLetsTheNextOneThrough(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 0, 1, 0, 2))
	s.create(makeBatch("holder", "p", 1))
	s.delivered("holder", 1)
	gang := makeBatch("gang", "p", 2)
	two, seconds := int32(2), int64(3)
	gang.Spec.MinAvailable, gang.Spec.AllocationTimeoutSeconds = &two, &seconds
	s.create(gang)
	s.create(makeBatch("next", "p", 1))
	s.hasPlaces(map[string]string{"gang": "1 of 3", "next": "2 of 3"})
	s.idle("p", 1)
	s.holdsNothing("next", "the pod is kept for the gang")
	s.hasReason("gang", v1alpha1.ConditionAllocated, v1alpha1.ReasonAllocationTimedOut)
	s.delivered("next", 1)
	s.delete("holder")
	s.create(makeBatch("later", "p", 1))
	s.delivered("later", 1)
	if sb := s.batch("gang"); sb.Status.Phase != v1alpha1.PhaseFailed || place(sb) != "-" {
		t.Errorf("gang: phase %s, place %s", sb.Status.Phase, place(sb))
	}
	s.create(makeBatch("last", "p", 1))
	s.hasPlaces(map[string]string{"last": "1 of 1"})
	s.patch(s.batch("gang"), `{"spec":{"allocationTimeoutSeconds":null}}`)
	s.hasPlaces(map[string]string{"gang": "1 of 3", "last": "2 of 3"}) // its old place
	s.delete("next")
	s.delete("later")
	s.delivered("gang", 2)
	s.holdsNothing("last", "the gang holds both")
}

func TestABatchDeletedWhileItWaitsLeavesTheQueueAtOnce(t *testing.T) {
	s := newSpace(t)
	s.startController("")
	s.create(makePool("p", 0, 0, 0, 1))
	s.create(makeBatch("holder", "p", 1))
	s.delivered("holder", 1)
	s.create(makeBatch("a", "p", 4))
	s.create(makeBatch("b", "p", 1))
	s.hasPlaces(map[string]string{"a": "1 of 2", "b": "2 of 2"}) // of 4, a waits for 1: the rest is set aside
	s.delete("b")
	s.hasPlaces(map[string]string{"a": "1 of 1"})
	s.create(makeBatch("c", "p", 1))
	s.hasPlaces(map[string]string{"a": "1 of 2", "c": "2 of 2"})
	a := s.batch("a")
	s.delete("a")
	s.gone(a)
	s.hasPlaces(map[string]string{"c": "1 of 1"})
	eventually(t, "tell it at the pool", func() error {
		if got := s.pool("p").Status.Waiting; got != 1 {
			return fmt.Errorf("waiting %d, want 1", got)
		}
		return nil
	})
	s.delete("holder")
	s.delivered("c", 1)
}

// Events alone wake a batch that waits: nobody looks at it without one.
func TestABatchThatWaitsIsServedByEvent(t *testing.T) {
	two := int32(2)
	cases := map[string]struct {
		head func(sb *v1alpha1.BatchSandbox) // the batch that waits before the one that is to be served; nil for none
		news func(s *space)
	}{
		"a sandbox is released": {nil, func(s *space) { s.delete("holder") }},
		"poolMax is raised":     {nil, func(s *space) { s.patch(s.pool("p"), `{"spec":{"capacitySpec":{"poolMax":3}}}`) }},
		"the priority is raised above that of a gang that has collected a pod": {
			func(sb *v1alpha1.BatchSandbox) { sb.Spec.Replicas, sb.Spec.MinAvailable = &two, &two },
			func(s *space) { s.patch(s.batch("waits"), `{"spec":{"priority":1}}`) },
		},
		"the priority of a gang that has collected a pod is lowered": {
			func(sb *v1alpha1.BatchSandbox) { sb.Spec.Replicas, sb.Spec.MinAvailable = &two, &two },
			func(s *space) { s.patch(s.batch("head"), `{"spec":{"priority":-1}}`) },
		},
		"a gang that has collected a pod is deleted": {
			func(sb *v1alpha1.BatchSandbox) { sb.Spec.Replicas, sb.Spec.MinAvailable = &two, &two },
			func(s *space) { s.delete("head") },
		},
		"poolMax is lowered below a gang that has collected a pod": {
			func(sb *v1alpha1.BatchSandbox) { sb.Spec.Replicas, sb.Spec.MinAvailable = &two, &two },
			func(s *space) { s.patch(s.pool("p"), `{"spec":{"capacitySpec":{"poolMax":1}}}`); s.delete("holder") },
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			s.startController("")
			most := int32(1)
			if c.head != nil {
				most = 2
			}
			s.create(makePool("p", 0, 1, 0, most))
			s.create(makeBatch("holder", "p", 1))
			s.delivered("holder", 1)
			if c.head != nil {
				head := makeBatch("head", "p", 1)
				c.head(head)
				s.create(head)
				s.idle("p", 1)
			}
			s.create(makeBatch("waits", "p", 1))
			s.hasReason("waits", v1alpha1.ConditionAllocated, v1alpha1.ReasonWaitingForPool)
			s.holdsNothing("waits", "nothing has happened")
			c.news(s)
			s.delivered("waits", 1)
		})
	}
}

// A gang has collected a pod when the controller is killed. After the start nobody takes it who asks before the gang does.
func TestBatchesThatWaitKeepTheirOrderWhenTheControllerIsKilled(t *testing.T) {
	s := newSpace(t)
	c := s.startController("")
	s.create(makePool("p", 0, 1, 0, 2))
	s.create(makeBatch("holder", "p", 1))
	s.delivered("holder", 1)
	gang := makeBatch("gang", "p", 2)
	two := int32(2)
	gang.Spec.MinAvailable, gang.Spec.Priority = &two, &two
	s.create(gang)
	s.idle("p", 1)
	const n = 6
	for i := range n {
		s.create(makeBatch(fmt.Sprintf("single-%d", i), "p", 1))
	}
	s.hasPlaces(map[string]string{"gang": "1 of 8"})
	for i := range 3 {
		c.kill()
		s.must(c.start())
		late := fmt.Sprintf("single-%d", n+i)
		s.create(makeBatch(late, "p", 1)) // when its place is told, the controller is at work
		waiting := 9 + i
		s.hasPlaces(map[string]string{"gang": fmt.Sprintf("1 of %d", waiting), late: fmt.Sprintf("%d of %d", waiting-1, waiting)})
		for single := range n + i + 1 {
			s.holdsNothing(fmt.Sprintf("single-%d", single), "the gang waits")
		}
	}
	s.delete("holder")
	s.delivered("gang", 2)
	s.delete("gang")
	s.delivered("single-0", 1)
	s.delivered("single-1", 1)
	s.holdsNothing("single-2", "there is no room for it")
}
