// SPDX-License-Identifier: Apache-2.0

package process

import (
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"opensandbox.io/controller/internal/task-executor/enter"
	"opensandbox.io/controller/internal/task-executor/procfs"
)

// makeRoot makes a root file system that holds programs of this machine under /bin, with what they are linked with.
func makeRoot(t *testing.T, programs ...string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"bin", "work", "only-in-sandbox"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(root, dir), 0o777); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	for _, program := range programs {
		copyLinked(t, root, "/bin/"+program)
	}
	return root
}

// copyLinked copies a program or library to the same path under root, and what it needs.
func copyLinked(t *testing.T, root, path string) {
	t.Helper()
	to := filepath.Join(root, path)
	if _, err := os.Stat(to); err == nil {
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o755)); err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read from
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			name := make([]byte, prog.Filesz)
			if _, err := prog.ReadAt(name, 0); err != nil {
				t.Fatal(err)
			}
			copyLinked(t, root, strings.TrimRight(string(name), "\x00"))
		}
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	for _, lib := range libs {
		found, err := filepath.Glob("/lib/*-linux-gnu*/" + lib)
		if err != nil || len(found) == 0 {
			found = []string{"/lib64/" + lib}
		}
		copyLinked(t, root, found[0])
	}
}

// startSandbox starts a process that plays a sandbox's main process: in root, with what args (of setpriv and chroot) make
// of its rights.
func startSandbox(t *testing.T, s *Supervisor, root string, setpriv, chroot []string) procfs.ID {
	t.Helper()
	args := append([]string{"setpriv"}, setpriv...)
	args = append(append(append(args, "chroot"), chroot...), root)
	args = append(args, "/bin/sh", "-c", "umask 027; cd /work; echo ready; exec sleep 1000")
	p, err := start(t, s, "sandbox", enter.Spec{Own: true, Main: self(t), Args: args,
		Env: []string{"IN_SANDBOX=yes", "OVERRIDDEN=sandbox"}})
	if err != nil {
		t.Fatal(err)
	}
	p.expect(t, "ready")
	return p.ID
}

// TestEnter runs a command beside a process that has another root and fewer rights.
func TestEnter(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a root can be changed by root alone")
	}
	s := newSupervisor(t)
	const netRaw = procfs.Caps(1) << unix.CAP_NET_RAW
	cases := map[string]struct{ setpriv, chroot []string }{
		"root with a smaller bounding set": {setpriv: []string{"--bounding-set=-sys_ptrace,-net_raw,-sys_admin"}},
		"root that can't get new rights":   {setpriv: []string{"--bounding-set=-sys_ptrace,-net_raw", "--no-new-privs"}},
		"another user with groups":         {setpriv: []string{"--bounding-set=-sys_ptrace,-net_raw"}, chroot: []string{"--userspec=1234:4321", "--groups=7,8"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			root := makeRoot(t, "sh", "sleep")
			main := startSandbox(t, s, root, tc.setpriv, tc.chroot)
			p, err := start(t, s, "task-"+name, enter.Spec{Main: main, Args: []string{"sh", "-c",
				`pwd; umask; echo $OVERRIDDEN; echo made > file; [ -d /only-in-sandbox ] && echo inside; read line || echo eof; exec sleep 1000`},
				Env: []string{"OVERRIDDEN=task", "PATH=/bin"}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff("/work\n0027\ntask\ninside\neof\n", p.expect(t, "eof\n")); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
			if data, err := os.ReadFile(filepath.Join(root, "work", "file")); err != nil || string(data) != "made\n" {
				t.Errorf("the task's file in the sandbox's root: %q, %v", data, err)
			}

			awaitSettled(t, p.PID, "sleep")
			want, err := proc.Status(main.PID)
			if err != nil {
				t.Fatal(err)
			}
			got, err := proc.Status(p.PID)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("rights (-main +task):\n%s", diff)
			}
			if got.Bounding&(netRaw|1<<unix.CAP_SYS_PTRACE) != 0 {
				t.Errorf("bounding set %x has what the sandbox's main process has not", got.Bounding)
			}
			checkIsolation(t, p.PID, root)
		})
	}
}

// awaitSettled waits until a process runs a program and has no file open but the standard three. The shell's exec comes
// after its last output, and the loader of the program has libraries open for a moment.
func awaitSettled(t *testing.T, pid int, comm string) {
	t.Helper()
	var fds []string
	for range 3000 {
		s, err := proc.Stat(pid)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(proc.Path(pid, "fd"))
		if err != nil {
			t.Fatal(err)
		}
		fds = fds[:0]
		for _, e := range entries {
			fds = append(fds, e.Name())
		}
		if s.Comm == comm && slices.Equal(fds, []string{"0", "1", "2"}) {
			return
		}
		<-time.After(time.Millisecond)
	}
	t.Fatalf("process %d never was %s with the standard three files alone: open are %v", pid, comm, fds)
}

// checkIsolation checks what a task must have, or not have, of the executor's.
func checkIsolation(t *testing.T, pid int, root string) {
	t.Helper()
	if got, err := os.Readlink(proc.Path(pid, "root")); err != nil || got != root {
		t.Errorf("root %q, %v, want %q", got, err, root)
	}
	env, err := proc.Environ(pid)
	if err != nil {
		t.Fatal(err)
	}
	if value, _ := procfs.Lookup(env, "IN_SANDBOX"); value != "yes" {
		t.Errorf("environment %q lacks that of the sandbox's main process", env)
	}
	score := func(pid int) int {
		data, err := os.ReadFile(proc.Path(pid, "oom_score_adj"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if own := score(os.Getpid()); score(pid) <= own && own < 1000 {
		t.Errorf("oom_score_adj %d, not above the executor's %d", score(pid), own)
	}
	if stat, err := proc.Stat(pid); err != nil || stat.Session != pid {
		t.Errorf("session %d, want its own", stat.Session)
	}
}

// Between taking the sandbox's rights and executing the command the process has threads with those of the executor. A root in
// the sandbox that could trace it then would have them too.
func TestTheSandboxCannotTraceATaskBeforeItsCommandIsExecuted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a root can be changed by root alone")
	}
	s := newSupervisor(t)
	main := startSandbox(t, s, makeRoot(t, "sh", "sleep"), []string{"--bounding-set=-sys_ptrace"}, nil)
	tracer := traceAsTheSandbox(t)
	// Looking for a program in many directories takes a while.
	path := "PATH=" + strings.Repeat("/a:", 30000) + "/bin"
	read, write, err := pipe("out")
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close() //nolint:errcheck // nothing is read
	p, err := s.Start(t.Context(), StartInput{
		Spec: enter.Spec{Main: main, Args: []string{"sleep", "1000"}, Env: []string{path}}, Marker: "traced", Stdout: write, Stderr: write,
		Commit: func(id procfs.ID, _ time.Time) error {
			tracer.begin(id.PID)
			return nil
		},
	})
	if err := errors.Join(err, write.Close()); err != nil {
		t.Fatal(err)
	}
	traced := tracer.end() // it tries until it succeeds
	if err := p.End(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if traced != "sleep\x001000\x00" {
		t.Errorf("it traced %q, want the command itself, which has the rights of the sandbox, and nothing before that", traced)
	}
}

// tracer tries to open the memory of a process, with the rights of a root without SYS_PTRACE.
type tracer struct {
	pids   chan int
	traced chan string
}

func traceAsTheSandbox(t *testing.T) *tracer {
	t.Helper()
	tr := &tracer{pids: make(chan int), traced: make(chan string, 1)}
	go func() { // ends with tr.end
		runtime.LockOSThread() // and never unlocked: the thread ends, for its rights are no longer those of the others
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		for i := range data {
			data[i].Effective &^= uint32((1 << unix.CAP_SYS_PTRACE) >> (32 * i))
		}
		if err = errors.Join(err, unix.Capset(&header, &data[0])); err != nil {
			tr.traced <- err.Error()
			return
		}
		pid := <-tr.pids
		for range 1_000_000 {
			mem, err := os.OpenFile(proc.Path(pid, "mem"), os.O_RDWR, 0)
			if err != nil {
				continue
			}
			_ = mem.Close() // nothing was written
			cmdline, _ := os.ReadFile(proc.Path(pid, "cmdline"))
			if len(cmdline) == 0 {
				continue // the program is just being loaded
			}
			tr.traced <- string(cmdline)
			return
		}
		tr.traced <- "nothing"
	}()
	return tr
}

func (tr *tracer) begin(pid int) { tr.pids <- pid }
func (tr *tracer) end() string   { return <-tr.traced }

// TestEnterNeverFallsBack: a program that only the executor's root has is not found, and a root that may not be entered
// is told as such.
func TestEnterNeverFallsBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a root can be changed by root alone")
	}
	s := newSupervisor(t)
	root := makeRoot(t, "sh", "sleep")
	main := startSandbox(t, s, root, []string{"--bounding-set=-sys_ptrace"}, nil)

	t.Run("a program of the executor's root", func(t *testing.T) {
		_, err := start(t, s, "a", enter.Spec{Main: main, Args: []string{"cat", "/etc/passwd"}})
		if err == nil || !strings.Contains(err.Error(), "PATH") {
			t.Errorf("error %v, want one that names PATH", err)
		}
	})
	t.Run("the executor's own path", func(t *testing.T) {
		_, err := start(t, s, "b", enter.Spec{Main: main, Args: []string{"/bin/cat"}})
		if err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("error %v, want that there is no such file", err)
		}
	})
	t.Run("an executor without SYS_PTRACE is told that it needs it", func(t *testing.T) {
		err := startWithout(t, s, main)
		if err == nil || !strings.Contains(err.Error(), "SYS_PTRACE") {
			t.Errorf("error %v, want one that names SYS_PTRACE", err)
		}
	})
}

// startWithout starts a command as an executor that isn't root would: the process that enters has another user.
func startWithout(t *testing.T, s *Supervisor, main procfs.ID) error {
	t.Helper()
	spec, err := enter.File(enter.Spec{Main: main, Args: []string{"sh"}})
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := pipe("report")
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Open("/proc/self/exe") // the other user may not reach its path
	if err != nil {
		t.Fatal(err)
	}
	_, ended, err := s.reaper.Start(func() (int, error) {
		return syscall.ForkExec("/proc/self/fd/5", []string{"task-executor", enter.Command}, &syscall.ProcAttr{
			Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), spec.Fd(), write.Fd(), exe.Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: 1234, Gid: 1234}},
		})
	})
	if err := errors.Join(err, write.Close(), null.Close(), exe.Close(), spec.Close()); err != nil {
		t.Fatal(err)
	}
	report := enter.ReadReport(read)
	if err := read.Close(); err != nil {
		t.Fatal(err)
	}
	<-ended
	return report
}
