// SPDX-License-Identifier: Apache-2.0

// Package history runs both controllers through random histories of a cluster and checks after every write, and at
// rest, that they keep their promises.
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
