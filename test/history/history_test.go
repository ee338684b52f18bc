// SPDX-License-Identifier: Apache-2.0

// Package history runs both controllers through random histories of a cluster and checks after every write, and at
// rest, that they keep their promises.
//
// The ledger, the reconcilers, the runner of tasks and the rebuild after an election are the real ones. The API server, kubelets
// and executors are simulated. Every call of the API server and of executors waits until the test lets it through, lost, late,
// or after somebody else's write; caches show what the test has delivered, and the ledger hears of pods later still; a process
// can be killed at any call. A synctest bubble makes it all replay: rapid's -rapid.seed repeats a history and shrinks it.
//
// What a broken build comes to, and after how many histories (one run each; it varies by a factor of ten):
//
//	| broken                                                | found by                                          | histories |
//	| ExpectPod counts nothing                              | no create above poolMax                           | 105       |
//	| terminating pods take no room                         | no create above poolMax                           | 23        |
//	| after an error, take it that nothing has landed       | no pod held twice                                 | 3,560     |
//	| allocations are written without a resourceVersion     | no pod held twice                                 | 638       |
//	| the batch controller believes an old cache            | no held pod deleted by the pool                   | 1,571     |
//	| deletionTimestamp of pods ignored                     | no unfit pod handed out                           | 532       |
//	| a pod being recycled counts as idle                   | no dirty pod idle                                 | 28        |
//	| the executor's report "unclean" is accepted           | no dirty pod handed out                           | 3,190     |
//	| finalizers go before the release                      | no dirty pod idle                                 | 263       |
//	| labels of a batch that vanished don't matter          | no dirty pod handed out                           | 2,771     |
//	| priority ignored                                      | served in order                                   | 12        |
//	| a pod that the pool is deleting may be handed out     | no dirty pod handed out                           | 1,906     |
//	| a gang gets a part of what it wants                   | gangs come together                               | 112       |
//	| whoever asks is served, not the head of the queue     | served in order                                   | 74        |
//	| a pod that becomes idle wakes nobody                  | every waiting batch is served                     | 2         |
//	| a failed pod keeps its place in a full pool           | every task runs or has ended                      | 5,543     |
//	| a batch that gave its pods back holds them, restarted | pods are held or idle                             | 5,521     |
//	| what an earlier batch of the name assumed stays       | the ledger counts what there is                   | 77        |
//	| an empty pool is forgotten under its batch            | the ledger counts what there is                   | 2         |
//
// Not found in 10,000: no fence after an election or an unanswered allocation, no queue after an election, an old cache
// believed by the pool controller, old news of a pod believed, lost pods not dirty, restarted containers that need not be new.
// Each needs a rare order of events: don't count on this test for them.
package history

import (
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"pgregory.net/rapid"
	ctrl "sigs.k8s.io/controller-runtime"
)

const (
	// wantHistories are enough, and mostTime is how long at most they may take.
	wantHistories = 10_000
	mostTime      = time.Minute

	// perCheck is how many histories are run between two looks at the clock.
	perCheck = 50

	// seedBytes are enough for the draws of most histories.
	seedBytes = 8 << 10
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

func setFlag(t testing.TB, name, value string) {
	t.Helper()
	if err := flag.Set(name, value); err != nil {
		t.Fatal(err)
	}
}

func TestHistories(t *testing.T) {
	if f := flag.Lookup("rapid.seed"); f.Value.String() != "0" || flag.Lookup("rapid.failfile").Value.String() != "" {
		rapid.Check(t, aHistory)
		return
	}
	setFlag(t, "rapid.checks", "50")
	start := time.Now()
	done := 0
	defer func() { t.Logf("%d histories in %s", done, time.Since(start)) }()
	for ; done < wantHistories && time.Since(start) < mostTime; done += perCheck {
		rapid.Check(t, aHistory)
	}
}

func FuzzHistories(f *testing.F) {
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // histories need no secrets
		bits := make([]byte, 0, seedBytes)
		for len(bits) < seedBytes {
			bits = binary.LittleEndian.AppendUint64(bits, random.Uint64())
		}
		f.Add(bits)
	}
	f.Fuzz(rapid.MakeFuzz(aHistory))
}

func aHistory(t *rapid.T) { rapid.SyncTest(t, runHistory) }

func runHistory(t *rapid.T) {
	w := newWorld(t)
	w.createPool("p")
	w.startProcess(nil)
	defer w.kill(func(*call) bool { return false })
	w.rest()
	t.Repeat(w.actions())
	w.rest()
	w.checkRest()
	switch draw(w, "in the end", "nothing", "nothing", "a restart", "everything is deleted") {
	case "a restart":
		w.checkRestart()
	case "everything is deleted":
		w.checkEnd()
	}
}
