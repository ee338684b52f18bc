// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"opensandbox.io/controller/test/bench/internal/report"
)

const (
	// loadWindow is how long the load is watched for one reading, loadLook the time between two looks.
	loadWindow = 2 * time.Second
	loadLook   = 20 * time.Millisecond
	// loadTurns bounds the readings that are waited for until the load falls no more, by loadDrop at least.
	loadTurns = 15
	loadDrop  = 0.25
)

// thisMachine describes the machine as far as it tells of itself, once what was started on it has come to rest.
func thisMachine(ctx context.Context) (report.Machine, error) {
	load, err := settledLoad(ctx, loadNow)
	return report.Machine{CPUs: runtime.NumCPU(), Model: runtime.GOARCH, MemoryGB: memory(), Load: load}, err
}

// settledLoad reads the load until it falls no more, and returns the last reading.
func settledLoad(ctx context.Context, read func(context.Context) (float64, error)) (float64, error) {
	last, err := read(ctx)
	for turn := 1; turn < loadTurns && err == nil; turn++ {
		before := last
		if last, err = read(ctx); last > before-loadDrop {
			break
		}
	}
	return last, err
}

// loadNow is the number of threads that run or wait for a processor, this one left out, on average over a window. The kernel's
// own averages are over a minute and more: they tell of what is long over.
func loadNow(ctx context.Context) (float64, error) {
	ticker := time.NewTicker(loadLook)
	defer ticker.Stop()
	sum, looks := 0, 0
	for ; looks < int(loadWindow/loadLook); looks++ {
		select {
		case <-ticker.C:
			sum += runnable()
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return float64(sum) / float64(looks), nil
}

// runnable is the number of threads that run or wait for a processor now, this one left out; 0 if it can't be read.
func runnable() int {
	text, err := os.ReadFile("/proc/loadavg") // three averages, running/all threads, the last PID
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 4 {
		return 0
	}
	running, _, _ := strings.Cut(fields[3], "/") // no error: without a slash it is the whole field
	n, _ := strconv.Atoi(running)                // 0 for what can't be read
	return max(0, n-1)
}

// memory is the size of the machine's, in GiB; 0 if it can't be read.
func memory() float64 {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer file.Close() //nolint:errcheck // only read from
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "MemTotal:" {
			kib, _ := strconv.ParseFloat(fields[1], 64) // 0 for what can't be read
			return kib / (1 << 20)
		}
	}
	return 0
}
