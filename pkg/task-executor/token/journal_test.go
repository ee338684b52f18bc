// SPDX-License-Identifier: Apache-2.0

package token

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
)

// restart is what a new process of the executor knows.
func (w *world) restart(dir string) {
	w.t.Helper()
	w.verifier = NewVerifier(w.root.Certificate, pod, w.pods)
	if err := w.verifier.KeepIn(dir); err != nil {
		w.t.Fatal(err)
	}
}

func TestATokenIsGoodOnceAlsoForAnExecutorThatWasRestarted(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	w.restart(dir)
	raw := w.sign(setTasks())
	if err := w.accept(raw, setTasks()); err != nil {
		t.Fatal(err)
	}
	for range 4 { // as long as its age doesn't refuse it
		w.restart(dir)
		if err := w.accept(raw, setTasks()); !errors.Is(err, ErrReplayed) {
			t.Fatalf("after a restart: got %v, want %v", err, ErrReplayed)
		}
		if err := w.accept(w.sign(setTasks()), setTasks()); err != nil {
			t.Fatalf("another token: %v", err)
		}
		w.pods.Step(Lifetime / 3)
	}
}

// Whatever the clocks say, a token is refused from its use until its age refuses it, and what is kept doesn't grow.
func TestUsedTokensAreKeptAsLongAsTheyAreGoodAndNoLonger(t *testing.T) {
	for name, behind := range map[string]time.Duration{"the executor's clock is right": 0, "it is behind": Leeway, "it is ahead": -Leeway - Lifetime} {
		t.Run(name, func(t *testing.T) {
			w, dir := newWorld(t), t.TempDir()
			w.signers.Step(behind)
			w.restart(dir)
			var sizes []int64
			for turn := range 40 {
				raw := w.sign(setTasks())
				if err := w.accept(raw, setTasks()); err != nil {
					t.Fatalf("turn %d: %v", turn, err)
				}
				for used := w.pods.Now(); w.pods.Since(used) < 3*Leeway+Lifetime; w.pods.Step(7 * time.Second) {
					w.restart(dir)
					err := w.accept(raw, setTasks())
					if !errors.Is(err, ErrReplayed) && !errors.Is(err, ErrExpired) {
						t.Fatalf("turn %d, %s later: %v", turn, w.pods.Since(used), err)
					}
				}
				w.signers.SetTime(w.pods.Now().Add(behind))
				sizes = append(sizes, sizeOf(t, dir))
			}
			if last := sizes[len(sizes)-1]; last > 4*int64(len("26 bytes and so on, a space, and a time\n")) {
				t.Errorf("%d bytes are kept of 40 tokens, of which a few are good: %v", last, sizes)
			}
		})
	}
}

// A process that lives long begins a new file from time to time, and one that is killed then has still kept all that matters.
func TestTheFilesOfALongLifeStaySmallAndKeepWhatMatters(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	w.restart(dir)
	const every, tokens = 10 * time.Second, 100
	var sent []string
	for range tokens {
		raw := w.sign(setTasks())
		if err := w.accept(raw, setTasks()); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, raw)
		next, copied := world{t: t, root: w.root, pods: w.pods}, t.TempDir()
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		next.restart(copied)
		for _, raw := range sent[max(0, len(sent)-15):] {
			if err := next.accept(raw, setTasks()); !errors.Is(err, ErrReplayed) && !errors.Is(err, ErrExpired) {
				t.Fatalf("token %d: got %v", len(sent), err)
			}
		}
		w.pods.Step(every)
		w.signers.Step(every)
	}
	if size, most := sizeOf(t, dir), int64(2*(journalTurn/every)+2)*38; size > most {
		t.Errorf("%d bytes of %d tokens, want at most %d", size, tokens, most)
	}
}

func sizeOf(t *testing.T, dir string) int64 {
	t.Helper()
	total := int64(0)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

func TestALineThatWasCutOffSpoilsNothing(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	w.restart(dir)
	raw := w.sign(setTasks())
	if err := w.accept(raw, setTasks()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("CUTOFF")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	w.restart(dir)
	after := w.sign(setTasks())
	if err := w.accept(after, setTasks()); err != nil {
		t.Fatal(err)
	}
	w.restart(dir)
	for name, used := range map[string]string{"before": raw, "behind": after} {
		if err := w.accept(used, setTasks()); !errors.Is(err, ErrReplayed) {
			t.Errorf("the token %s the line: got %v, want %v", name, err, ErrReplayed)
		}
	}
}

// A call whose token can't be remembered must not go on.
func TestATokenThatCanNotBeRememberedIsRefused(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	w.restart(dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := w.accept(w.sign(setTasks()), setTasks()); err == nil || Reason(err) != "" {
		t.Errorf("got %v, want an error of the executor's own", err)
	}
}

// A disk that is full in the middle of a line, and has room again for the next.
func TestALineThatCouldNotBeWrittenWholeSpoilsNotTheNext(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	w.restart(dir)
	if err := w.accept(w.sign(setTasks()), setTasks()); err != nil {
		t.Fatal(err)
	}
	file := w.verifier.journal.file
	readOnly, err := os.Open(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close() //nolint:errcheck // nothing is written
	w.verifier.journal.file = readOnly
	if err := w.accept(w.sign(setTasks()), setTasks()); err == nil || Reason(err) != "" {
		t.Fatalf("a token that could not be remembered: %v", err)
	}
	if _, err := file.WriteString("ABCDEFGHIJ"); err != nil { // what was written of it
		t.Fatal(err)
	}
	w.verifier.journal.file = file
	raw := w.sign(setTasks())
	if err := w.accept(raw, setTasks()); err != nil {
		t.Fatal(err)
	}
	w.restart(dir)
	if err := w.accept(raw, setTasks()); !errors.Is(err, ErrReplayed) {
		t.Errorf("after a restart: got %v, want %v", err, ErrReplayed)
	}
}

func TestAnIDThatIsNoneOfOursIsMalformed(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"a b", "a\nb", strings.Repeat("x", maxIDBytes+1)} {
		raw := forge(t, w.root.Key, w.root.Certificate.Raw, claimsAt(id))
		if err := w.accept(raw, setTasks()); !errors.Is(err, ErrMalformed) {
			t.Errorf("ID %q: got %v, want %v", id, err, ErrMalformed)
		}
	}
	if err := w.accept(forge(t, w.root.Key, w.root.Certificate.Raw, claimsAt("good")), setTasks()); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func claimsAt(id string) jwt.Claims {
	return jwt.Claims{
		ID: id, Audience: jwt.Audience{pod}, IssuedAt: jwt.NewNumericDate(start), Expiry: jwt.NewNumericDate(start.Add(Lifetime)),
	}
}

// FuzzReadJournal: whatever stands in the files, reading them returns, and nothing that is over is remembered.
func FuzzReadJournal(f *testing.F) {
	f.Add([]byte("ABC 1777636800\nDEF 1777636860\n"), []byte("GHI 1777636900\nCUT"))
	f.Add([]byte("ABC -1\nABC 99999999999999999999\n \n\n"), []byte("\x00\xff 1777636900\n1777636900"))
	f.Fuzz(func(t *testing.T, older, newer []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{journalFile + olderSuffix: older, journalFile: newer} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		used, err := readJournal(dir, start)
		if err != nil {
			t.Fatal(err)
		}
		for id, until := range used {
			if start.After(until) {
				t.Errorf("remembers %q, which is over since %s", id, until)
			}
		}
		if err := newJournal(dir, start).begin(used); err != nil {
			t.Fatal(err)
		}
		again, err := readJournal(dir, start)
		if err != nil || len(again) != len(used) {
			t.Errorf("written and read again: %v, %v, want %v", again, err, used)
		}
	})
}
