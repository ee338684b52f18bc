// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

// oomScoreRaise is added to the executor's oom_score_adj for tasks, so that the kernel ends a task before the executor.
const oomScoreRaise = 300

// Main is the whole life of the process. It returns the exit code, and only when the command could not be executed.
func Main() int {
	runtime.LockOSThread() // never unlocked: this thread's rights are no longer those of the others
	report := os.NewFile(reportFD, "report")
	err := run(report)
	text := err.Error()
	if errors.Is(err, ErrSandboxEnded) {
		text = string(lost) + strings.TrimPrefix(text, ErrSandboxEnded.Error()+": ")
	}
	if _, writeErr := report.WriteString(text); writeErr != nil {
		fmt.Fprintln(os.Stderr, "task-executor: enter:", err) // nobody listens: started by hand
	}
	return 1
}

// run executes the command, or returns why it can't.
func run(report io.Writer) error {
	spec, err := readSpec()
	if err != nil {
		return err
	}
	if err := awaitLeave(); err != nil {
		return err
	}
	fs := procfs.New("/proc")
	obs, err := observe(fs, spec)
	if err != nil {
		return whetherEnded(fs, spec.Main, err)
	}
	if err := detach(fs); err != nil {
		return err
	}
	if err := hide(); err != nil {
		return err
	}
	if err := obs.changeRoot(spec.Own); err != nil {
		return err
	}
	rights := planRights(obs.main, obs.own, spec.Own)
	if err := rights.apply(obs.own); err != nil {
		return err
	}
	// From here on everything is done as the user of the sandbox's main process, in its root.
	if spec.WorkingDir != "" {
		if err := unix.Chdir(spec.WorkingDir); err != nil {
			return fmt.Errorf("change to workingDir %q: %w", spec.WorkingDir, err)
		}
	}
	return execute(spec.Args, planEnv(obs.env, spec.Env), report)
}

func readSpec() (Spec, error) {
	f := os.NewFile(specFD, "spec")
	data, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return Spec{}, fmt.Errorf("read spec: %w", err)
	}
	var spec Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return Spec{}, fmt.Errorf("decode spec: %w", err)
	}
	if len(spec.Args) == 0 {
		return Spec{}, errors.New("decode spec: no command")
	}
	return spec, nil
}

// awaitLeave waits until the executor has set down that this process is there.
func awaitLeave() error {
	f := os.NewFile(goFD, "go")
	n, err := f.Read(make([]byte, 1))
	if err = errors.Join(err, f.Close()); n != 1 {
		return fmt.Errorf("%w: %w", ErrLeft, err)
	}
	return nil
}

// observed is all that is read before anything changes.
type observed struct {
	rootFD, cwdFD int
	main, own     procfs.Status
	env           []string
}

// observe opens and reads what belongs to the main process, and then checks that it still is that process: a PID that
// has been given to another one meanwhile has another start time.
func observe(fs procfs.FS, spec Spec) (observed, error) {
	var obs observed
	var err error
	pid := spec.Main.PID
	if obs.rootFD, err = openDir(fs.Path(pid, "root")); err != nil {
		return obs, refused("open the root of the sandbox's main process", err)
	}
	if obs.cwdFD, err = openDir(fs.Path(pid, "cwd")); err != nil {
		return obs, refused("open the working directory of the sandbox's main process", err)
	}
	if obs.main, err = fs.Status(pid); err != nil {
		return obs, refused("read the rights of the sandbox's main process", err)
	}
	if obs.env, err = fs.Environ(pid); err != nil {
		return obs, refused("read the environment of the sandbox's main process", err)
	}
	if obs.own, err = fs.Status(os.Getpid()); err != nil {
		return obs, fmt.Errorf("read own rights: %w", err)
	}
	now, err := fs.Stat(pid)
	if err != nil {
		return obs, fmt.Errorf("check the sandbox's main process again: %w", err)
	}
	if now.ID != spec.Main {
		return obs, fmt.Errorf("%w: process %d is another one now", ErrSandboxEnded, pid)
	}
	return obs, nil
}

// whetherEnded makes an error an ErrSandboxEnded if the end of the main process explains it. One that is ending has no root
// any more, and one that has ended shows no rights.
func whetherEnded(fs procfs.FS, main procfs.ID, err error) error {
	now, statErr := fs.Stat(main.PID)
	if statErr != nil || now.ID != main || !now.Alive() || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: %w", ErrSandboxEnded, err)
	}
	return err
}

// hide keeps the sandbox's processes from tracing this one. It takes the rights of the sandbox on one thread alone, so that
// from then on whoever traced that thread could make the others do as they please with the rights of the executor. Executing
// the command undoes it.
func hide() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep others from tracing the start: %w", err)
	}
	return nil
}

func openDir(path string) (int, error) {
	return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// detach keeps every open file but the standard three from the command, and makes the kernel prefer it when memory is short.
func detach(fs procfs.FS) error {
	if err := closeOnExec(fs); err != nil {
		return fmt.Errorf("keep files from the command: %w", err)
	}
	path := fs.Path(os.Getpid(), "oom_score_adj")
	old, err := os.ReadFile(path)
	if err != nil {
		return nil //nolint:nilerr // best effort: not every runtime shows it
	}
	if score, err := strconv.Atoi(strings.TrimSpace(string(old))); err == nil {
		_ = os.WriteFile(path, []byte(strconv.Itoa(min(score+oomScoreRaise, 1000))), 0) // best effort
	}
	return nil
}

func closeOnExec(fs procfs.FS) error {
	err := unix.CloseRange(specFD, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
		return err
	}
	entries, err := os.ReadDir(fs.Path(os.Getpid(), "fd")) // a kernel before 5.11
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= specFD {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func (o observed) changeRoot(own bool) error {
	if !own {
		if err := unix.Fchdir(o.rootFD); err != nil {
			return refused("enter the sandbox's root", err)
		}
		if err := unix.Chroot("."); err != nil {
			return refused("enter the sandbox's root", err)
		}
	}
	if err := unix.Fchdir(o.cwdFD); err != nil {
		return refused("enter the working directory of the sandbox's main process", err)
	}
	return nil
}

// execute executes the first candidate that is there, as execvp does.
func execute(args, env []string, report io.Writer) error {
	path, _ := procfs.Lookup(env, "PATH")
	if _, err := report.Write([]byte{ready}); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	var denied error
	for _, candidate := range planCandidates(args[0], path) {
		err := syscall.Exec(candidate, args, env)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		case errors.Is(err, unix.EACCES):
			denied = err
		default:
			return fmt.Errorf("execute %q: %w", candidate, err)
		}
	}
	if denied != nil {
		return fmt.Errorf("execute %q: %w", args[0], denied)
	}
	if strings.Contains(args[0], "/") {
		return fmt.Errorf("execute %q: %w in the sandbox", args[0], unix.ENOENT)
	}
	return fmt.Errorf("execute %q: not found in the sandbox's PATH %q", args[0], path)
}

// refused says what an executor needs that was refused the sandbox.
func refused(what string, err error) error {
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%s: %w (the executor must run as root with the capability SYS_PTRACE beside the runtime's default set, "+
			"under a profile that allows it)", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
