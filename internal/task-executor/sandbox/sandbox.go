// SPDX-License-Identifier: Apache-2.0

// Package sandbox finds the process that tasks belong beside: the main process of the sandbox's container.
package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

// MainContainerEnv is the environment variable that marks the sandbox's container where a pod has several, and that tells
// the executor which one it is. Its value is the container's name.
const MainContainerEnv = "SANDBOX_MAIN_CONTAINER"

// Mode says where tasks run.
type Mode int

const (
	// Auto is Sidecar when another container of the pod is visible, when a main container is named, and when the executor is
	// the first process of its container in a shared PID namespace (then the sandbox is only down for the moment); else Own.
	Auto Mode = iota
	// Sidecar runs tasks in another container of the pod.
	Sidecar
	// Own runs tasks in the executor's own container.
	Own
)

// ErrNotVisible says that no process of a sandbox container is visible, perhaps not yet.
var ErrNotVisible = errors.New("no sandbox container is visible: the pod needs shareProcessNamespace: true and a running sandbox container; " +
	"an executor that is alone in its pod, or started inside of the sandbox, needs -enable-sidecar-mode=false")

// ErrAmbiguous says that several containers could be the sandbox.
var ErrAmbiguous = errors.New("several containers could be the sandbox")

// Target is where tasks run.
type Target struct {
	// Own: in the executor's container, with its root.
	Own bool
	// Main is the main process of the sandbox's container; the executor itself when Own.
	Main procfs.ID
}

// Finder looks for the sandbox. All fields are required but MainContainer.
type Finder struct {
	FS procfs.FS
	// Self is the executor's PID.
	Self int
	Mode Mode
	// MainContainer is the name of the sandbox's container; needed only where a pod has several beside the executor's.
	MainContainer string
}

// Find returns the sandbox as it is now. The error is ErrNotVisible when there is none, ErrAmbiguous when the executor
// can't tell which of several it is.
func (f Finder) Find() (Target, error) {
	self, err := f.FS.Stat(f.Self)
	if err != nil {
		return Target{}, fmt.Errorf("read own process: %w", err)
	}
	own, err := f.FS.Container(f.Self)
	if err != nil {
		return Target{}, fmt.Errorf("read own cgroup: %w", err)
	}
	processes, err := f.observe()
	if err != nil {
		return Target{}, err
	}
	candidates := mainProcesses(processes, own)
	if f.Mode == Own || (f.Mode == Auto && f.MainContainer == "" && len(candidates) == 0 && !isSidecar(processes, self.ID, own)) {
		return Target{Own: true, Main: self.ID}, nil
	}
	return f.choose(candidates)
}

// process is one process and where it belongs.
type process struct {
	procfs.Stat
	container procfs.Container
}

func (f Finder) observe() ([]process, error) {
	stats, err := f.FS.List()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []process
	for _, s := range stats {
		container, err := f.FS.Container(s.PID)
		if err != nil || !s.Alive() {
			continue // gone meanwhile
		}
		all = append(all, process{Stat: s, container: container})
	}
	return all, nil
}

// isSidecar reports whether the executor has a container of its own in a shared PID namespace: process 1 belongs to
// another container (the pause container), and no process of its own container is older than the executor. An executor
// that a sandbox's own script has started is younger than that script.
func isSidecar(processes []process, self procfs.ID, own procfs.Container) bool {
	shared := false
	for _, p := range processes {
		if p.PID == 1 && p.container != own {
			shared = true
		}
		if p.container == own && p.Start < self.Start {
			return false
		}
	}
	return shared
}

// mainProcesses returns the main process of each container of the own pod but the own and the pause container, oldest
// first. The main process is the oldest one whose parent is outside of the namespace, else the oldest. In the PID namespace
// of a pod there must be such a one: what is left of a container whose main process has ended is a child of process 1.
func mainProcesses(processes []process, own procfs.Container) []process {
	mains := map[procfs.Container]process{}
	pause := map[procfs.Container]bool{}
	podNamespace := slices.ContainsFunc(processes, func(p process) bool { return p.PID == 1 && p.container.Pod == own.Pod })
	for _, p := range neighbours(processes, own) {
		if isPause(p, podNamespace) {
			pause[p.container] = true
		}
		if podNamespace && p.Parent != 0 {
			continue
		}
		if best, ok := mains[p.container]; !ok || better(p, best) {
			mains[p.container] = p
		}
	}
	var out []process
	for container, p := range mains {
		if !pause[container] && !isStarting(p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, compareAge)
	return out
}

// neighbours returns the processes in the other containers of the own pod.
func neighbours(processes []process, own procfs.Container) []process {
	var out []process
	for _, p := range processes {
		if p.container != own && p.container.Pod == own.Pod {
			out = append(out, p)
		}
	}
	return out
}

// isPause reports whether a process is that of the pause container, which holds the pod's namespaces. In the PID namespace of a
// pod that is process 1; a sandbox may call its own processes as it likes.
func isPause(p process, podNamespace bool) bool {
	return p.PID == 1 || (!podNamespace && p.Comm == "pause" && p.Parent == 0)
}

// isStarting reports whether a container's first process is still the runtime's own, about to become the main process.
func isStarting(p process) bool { return strings.HasPrefix(p.Comm, "runc:[") }

func better(a, b process) bool {
	if (a.Parent == 0) != (b.Parent == 0) {
		return a.Parent == 0
	}
	return compareAge(a, b) < 0
}

func compareAge(a, b process) int {
	switch {
	case a.Start < b.Start:
		return -1
	case a.Start > b.Start:
		return 1
	default:
		return a.PID - b.PID
	}
}

// choose picks the sandbox among the main processes of the candidates:
//
//	| candidates | a name is given                     | no name is given                          |
//	|------------|-------------------------------------|-------------------------------------------|
//	| 0          | ErrNotVisible                       | ErrNotVisible                             |
//	| 1          | that one                            | that one                                  |
//	| more       | the one whose mark has that name    | the one that has a mark                   |
//	|            | (none or several: ErrAmbiguous)     | (none or several: ErrAmbiguous)           |
//
// The mark is MainContainerEnv in the environment of the main process. Which container stands first in the pod's spec
// can't be told from processes: after a restart the first one is no longer the oldest.
func (f Finder) choose(candidates []process) (Target, error) {
	if len(candidates) == 0 {
		return Target{}, ErrNotVisible
	}
	if len(candidates) == 1 {
		return Target{Main: candidates[0].ID}, nil
	}
	var marked []process
	for _, c := range candidates {
		env, err := f.FS.Environ(c.PID)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			return Target{}, fmt.Errorf("%w (one has just ended)", ErrNotVisible)
		}
		if err != nil {
			return Target{}, fmt.Errorf("read the environment of process %d (the executor needs the capability SYS_PTRACE): %w", c.PID, err)
		}
		value, ok := procfs.Lookup(env, MainContainerEnv)
		if ok && (f.MainContainer == "" || value == f.MainContainer) {
			marked = append(marked, c)
		}
	}
	if len(marked) == 1 {
		return Target{Main: marked[0].ID}, nil
	}
	wanted := f.MainContainer
	if wanted == "" {
		wanted = "<its name>"
	}
	return Target{}, fmt.Errorf("%w: %d beside the executor's, %d of them with %s=%s in the environment; set that variable in exactly one",
		ErrAmbiguous, len(candidates), len(marked), MainContainerEnv, wanted)
}
