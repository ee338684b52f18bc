// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os/exec"
	"testing"
	"time"
)

func TestCPUOf(t *testing.T) {
	got, err := cpuOf("12 (a ) 1 b) S 1 1 1 0 -1 4194560 1 0 0 0 150 25 0 0 20 0 1 0 1 1 1")
	if err != nil || got != 1750*time.Millisecond {
		t.Errorf("got %s (%v), want 1.75s", got, err)
	}
	if got, err := cpuOf("12 (a) S 1"); err == nil {
		t.Errorf("got %s of a line that is cut off, want an error", got)
	}
}

func TestKilobytes(t *testing.T) {
	status := []byte("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
	if got, err := kilobytes(status, "VmRSS"); err != nil || got != 1<<20 {
		t.Errorf("got %d (%v), want 1 MiB", got, err)
	}
	if got, err := kilobytes(status, "VmSwap"); err == nil {
		t.Errorf("got %d for what isn't there, want an error", got)
	}
}

func TestAProcessIsMeasuredAndStopped(t *testing.T) {
	p, err := Start(exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	u, err := p.Usage()
	if err != nil || u.Memory <= 0 || u.PeakMemory < u.Memory {
		t.Errorf("usage %+v (%v), want memory and no less at its peak", u, err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	select {
	case <-p.Ended():
	default:
		t.Error("the process runs on")
	}
}
