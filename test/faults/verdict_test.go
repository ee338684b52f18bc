// SPDX-License-Identifier: Apache-2.0

package main

import (
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"opensandbox.io/controller/test/faults/internal/auditor"
	"opensandbox.io/controller/test/wrappers"
)

// stuck is the history of a batch that is deleted, and that our finalizer keeps.
func stuck(begin time.Time) auditor.History {
	sb := wrappers.MakeBatch("ns", "b").Pool("p").Finalizers("pool.sandbox.opensandbox.io/pool-allocation").Obj()
	now := metav1.NewTime(begin)
	sb.DeletionTimestamp = &now
	return auditor.History{{Time: begin, Revision: 7, Type: auditor.Added, Object: sb}}
}

func TestARunThatWasKeptIsJudgedAgain(t *testing.T) {
	begin := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	s := &show{options: Options{Seed: 42}, dir: t.TempDir()}
	v := verdict{history: stuck(begin), end: begin.Add(time.Minute)}
	v.judge()
	v.Seed = 42
	file, err := os.Create(filepath.Join(s.dir, historyFile))
	if err != nil {
		t.Fatal(err)
	}
	packed := gzip.NewWriter(file)
	if err := v.history[0].Write(packed); err != nil {
		t.Fatal(err)
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	err = s.publish(v)
	if err == nil || !strings.Contains(err.Error(), "1 findings: seed 42, history and logs in "+s.dir) {
		t.Errorf("got %v, want an error that names the seed and the directory", err)
	}
	if err := judgeAgain(s.dir); err == nil || !strings.Contains(err.Error(), "1 findings") {
		t.Errorf("judged again: %v, want the same", err)
	}
	summary, err := os.ReadFile(filepath.Join(s.dir, summaryFile))
	if err != nil || !strings.Contains(string(summary), `"findings":[{"kind":"Stuck"`) {
		t.Errorf("summary %s (%v), want the finding in it", summary, err)
	}
}

func TestARunWithoutFindingsLeavesNothingUnlessAskedFor(t *testing.T) {
	for name, keep := range map[string]bool{"not asked for": false, "asked for": true} {
		t.Run(name, func(t *testing.T) {
			s := &show{options: Options{Keep: keep}, dir: filepath.Join(t.TempDir(), "run")}
			if err := os.Mkdir(s.dir, 0o755); err != nil {
				t.Fatal(err)
			}
			v := verdict{}
			v.judge()
			if err := s.publish(v); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(s.dir); (err == nil) != keep {
				t.Errorf("kept: %v (%v), want %v", err == nil, err, keep)
			}
		})
	}
}

func TestARunThatWasCutOffIsNotJudgedAsIfItWereAtRest(t *testing.T) {
	begin := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		cutOff bool
		want   int
	}{"at its end": {false, 1}, "cut off": {true, 0}} {
		t.Run(name, func(t *testing.T) {
			v := verdict{history: stuck(begin), end: begin.Add(time.Minute), cutOff: c.cutOff}
			v.judge()
			if len(v.findings) != c.want || v.ByKind[auditor.Stuck] != c.want {
				t.Errorf("%d findings, want %d: %+v", len(v.findings), c.want, v.findings)
			}
		})
	}
}
