// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Every cluster has one supervisor, the parent of all its parts, started by `up`. The two talk over a socket pair, one
// JSON value after the other. Until `up` has sent Commit, the end of the conversation ends the supervisor and with it
// everything it started: an interrupted or killed `up` leaves no process behind.
//
// For a real node the supervisor is process 1 of a PID namespace, with a mount and a network namespace of its own. So
// containers, mounts, links, routes and firewall rules of the node are the kernel's to remove when the supervisor ends,
// and whatever the host runs besides is not touched.

// part is one long-running process of the cluster.
type part struct {
	Name string   `json:"name"`
	Path string   `json:"path"`
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"` // beyond the supervisor's own
	Log  string   `json:"log"`
}

// bind puts a folder of the state at a path that a part can't be told to leave.
type bind struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// forward leads connections to a port of the host's loopback into the node's network namespace. The listening socket is
// inherited: a socket stays in the namespace it was made in.
type forward struct {
	FD int    `json:"fd"`
	To string `json:"to"`
	// Patience bounds the wait for a connection to To.
	Patience time.Duration `json:"patience"`
}

type request struct {
	Isolate []bind   `json:"isolate,omitempty"` // set up the namespaces; must come first where it comes at all
	Forward *forward `json:"forward,omitempty"`
	Start   *part    `json:"start,omitempty"`
	Commit  bool     `json:"commit,omitempty"`
}

type report struct {
	Done   bool   `json:"done,omitempty"`   // the last request was carried out
	Error  string `json:"error,omitempty"`  // it was not
	Exited string `json:"exited,omitempty"` // a part ended, at any time
	Status string `json:"status,omitempty"`
}

const (
	controlFD = 3
	// diedSuffix, after the name of a part's log, is a file that tells a later `up` that the part has ended.
	diedSuffix = ".died"
)

func runSupervise(ctx context.Context, args []string) error {
	if len(args) > 0 {
		return errors.New("supervise is started by `up` and takes no arguments")
	}
	// Parts are killed by the kernel when the thread that started them ends: so that is one thread, and it never ends
	// before the supervisor does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.CloseOnExec(controlFD)
	control := os.NewFile(controlFD, "control")
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	s := &supervisor{parts: map[int]*part{}, out: json.NewEncoder(control)}
	requests := make(chan request)
	go readRequests(control, requests)
	for {
		select {
		case req, ok := <-requests:
			if !ok && !s.committed {
				return errors.New("`up` ended before the cluster was ready: stopping all parts")
			}
			if !ok {
				requests = nil // from now on there is nobody to talk to
				continue
			}
			s.answer(s.handle(req))
		case <-children:
			s.reap()
		case <-ctx.Done():
			return nil
		}
	}
}

// readRequests ends, and closes requests, when the other side hangs up.
func readRequests(control *os.File, requests chan<- request) {
	defer close(requests)
	in := json.NewDecoder(control)
	for {
		var req request
		if in.Decode(&req) != nil {
			return
		}
		requests <- req
	}
}

type supervisor struct {
	parts     map[int]*part // by PID
	out       *json.Encoder
	committed bool
}

func (s *supervisor) handle(req request) error {
	switch {
	case req.Isolate != nil:
		return isolate(req.Isolate)
	case req.Forward != nil:
		return req.Forward.serve()
	case req.Start != nil:
		return s.start(req.Start)
	case req.Commit:
		s.committed = true
		return nil
	default:
		return errors.New("empty request")
	}
}

func (s *supervisor) answer(err error) {
	if err != nil {
		s.tell(report{Error: err.Error()})
		return
	}
	s.tell(report{Done: true})
}

// tell drops what it can't send: after Commit nobody listens, and before it the end of the conversation is seen by the
// reader.
func (s *supervisor) tell(r report) { _ = s.out.Encode(r) }

func (s *supervisor) start(p *part) (err error) {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer closeInto(log, &err)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer closeInto(null, &err)
	pid, err := syscall.ForkExec(p.Path, append([]string{p.Path}, p.Args...), &syscall.ProcAttr{
		Dir:   "/",
		Env:   append(os.Environ(), p.Env...),
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	s.parts[pid] = p
	return err
}

// reap collects all children that ended: parts, and in a PID namespace orphans of the parts.
func (s *supervisor) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		p, ok := s.parts[pid]
		if !ok {
			continue
		}
		delete(s.parts, pid)
		text := fmt.Sprintf("exit code %d", status.ExitStatus())
		if status.Signaled() {
			text = "killed by " + status.Signal().String()
		}
		fmt.Fprintf(os.Stderr, "%s ended: %s\n", p.Name, text)
		if err := os.WriteFile(p.Log+diedSuffix, []byte(text+"\n"), 0o644); err != nil {
			fmt.Fprintf(os.Stderr, "note that for the next \"up\": %v\n", err)
		}
		s.tell(report{Exited: p.Name, Status: text})
	}
}

// isolate makes the mount namespace the node's own: cut off from the host's in both directions, shared again within
// itself as the kubelet expects, with a /proc that fits the PID namespace and an empty /run.
func isolate(binds []bind) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, b := range binds {
		if err := unix.Mount(b.From, b.To, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", b.From, b.To, err)
		}
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts within the node: %w", err)
	}
	return nil
}

// serve accepts connections for as long as the supervisor lives.
func (f *forward) serve() error {
	unix.CloseOnExec(f.FD)
	file := os.NewFile(uintptr(f.FD), "listener")
	listener, err := net.FileListener(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("listen for %s: %w", f.To, err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				fmt.Fprintf(os.Stderr, "accept for %s: %v\n", f.To, err)
				return
			}
			go f.join(conn)
		}
	}()
	return nil
}

// join copies both ways until both are done, and passes on each end of a direction.
func (f *forward) join(outer net.Conn) {
	defer outer.Close() //nolint:errcheck // all that could be sent has been
	inner, err := net.DialTimeout("tcp", f.To, f.Patience)
	if err != nil {
		return // the other side sees its connection end, as with a port that nobody listens at
	}
	defer inner.Close() //nolint:errcheck // as above
	back := make(chan struct{})
	go func() {
		defer close(back)
		oneWay(outer, inner)
	}()
	oneWay(inner, outer)
	<-back
}

func oneWay(to, from net.Conn) {
	_, _ = io.Copy(to, from) // an error ends this direction like the end of the data
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the connection may be gone by now
	}
}

// crew is `up`'s end of the conversation with a supervisor.
type crew struct {
	cluster *cluster
	process process
	control *os.File
	out     *json.Encoder
	reports chan report
	reader  sync.WaitGroup
}

// hire starts a supervisor; with isolated, in namespaces of its own. The program is copied first: `go run` removes its
// own binary.
// Listeners are handed on as the descriptors after the control socket's.
func (c *cluster) hire(isolated bool, listeners []*os.File) (*crew, error) {
	self := c.path("localcluster")
	if err := copySelf(self); err != nil {
		return nil, fmt.Errorf("copy this program: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	log, err := os.OpenFile(c.log("supervisor"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, errors.Join(err, ours.Close(), theirs.Close())
	}
	cmd := exec.Command(self, "supervise") //nolint:noctx // it outlives this command on purpose
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), markerEnv+"="+c.dir())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = append([]*os.File{theirs}, listeners...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if isolated {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET
	}
	err = cmd.Start()
	err = errors.Join(err, log.Close(), theirs.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the supervisor: %w", err), ours.Close())
	}
	go func() { _ = cmd.Wait() }() // so that no zombie stays if it ends while this command runs; its log tells why
	id, err := identify(cmd.Process.Pid)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the supervisor ended at once, see %s: %w", c.log("supervisor"), err), ours.Close())
	}
	w := &crew{cluster: c, process: id, control: ours, out: json.NewEncoder(ours), reports: make(chan report, 64)}
	w.reader.Add(1)
	go w.read()
	return w, nil
}

func (w *crew) read() {
	defer w.reader.Done()
	defer close(w.reports)
	in := json.NewDecoder(w.control)
	for {
		var r report
		if in.Decode(&r) != nil {
			return
		}
		w.reports <- r
	}
}

// close hangs up. A supervisor that has no Commit ends itself then.
func (w *crew) close() {
	_ = unix.Shutdown(int(w.control.Fd()), unix.SHUT_RDWR) // wakes the reader; an error means that it is awake already
	for range w.reports {                                  // lets the reader finish
	}
	w.reader.Wait()
	_ = w.control.Close()
}

// send carries out one request.
func (w *crew) send(req request) error {
	if err := w.out.Encode(req); err != nil {
		return fmt.Errorf("talk to the supervisor, see %s: %w", w.cluster.log("supervisor"), err)
	}
	for r := range w.reports {
		switch {
		case r.Exited != "":
			return w.dead(r)
		case r.Error != "":
			return errors.New(r.Error)
		case r.Done:
			return nil
		}
	}
	return fmt.Errorf("the supervisor ended, see %s", w.cluster.log("supervisor"))
}

func (w *crew) start(p part) error {
	p.Log = w.cluster.log(p.Name)
	return w.send(request{Start: &p})
}

// check returns an error if a part has died since the last look.
func (w *crew) check() error {
	select {
	case r, ok := <-w.reports:
		if !ok {
			return fmt.Errorf("the supervisor ended, see %s", w.cluster.log("supervisor"))
		}
		return w.dead(r)
	default:
		return nil
	}
}

func (w *crew) dead(r report) error {
	file := w.cluster.log(r.Exited)
	data, err := os.ReadFile(file)
	if err != nil {
		data = []byte(err.Error())
	}
	return fmt.Errorf("%s ended (%s); the end of its log is below, the whole is %s; then run `make cluster-down` and try again\n%s",
		r.Exited, r.Status, file, tail(data, 20))
}

func copySelf(to string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if same, err := filepath.EvalSymlinks(self); err == nil && same == to {
		return nil
	}
	data, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return writeFile(to, data, 0o755)
}
