// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

var seed = flag.Uint64("seed", 0, "seed of the moments at which the executor is killed; 0 chooses one")

const (
	kills = 50
	tasks = 200
)

// kind is a way for a task to run. In a script $TAG stands for digits that only this test's processes have.
type kind struct {
	name    string
	script  string
	command []string // in place of the script
	timeout int64
	// stopped: the task is taken out of the set as soon as it is seen running.
	stopped bool
	// want is the end it comes to if the executor lives.
	want taskexecutor.Terminated
}

// kinds are all of them.
func kinds() []kind {
	nonZero := func(code int32, message string) taskexecutor.Terminated {
		return taskexecutor.Terminated{ExitCode: code, Reason: taskexecutor.ReasonNonZeroExit, Message: message}
	}
	completed := taskexecutor.Terminated{Reason: taskexecutor.ReasonCompleted, Message: "exit status 0", Output: "out"}
	failed := nonZero(7, "exit status 7")
	failed.Output = "out"
	signalled := nonZero(139, "ended by signal 11 (SIGSEGV)")
	signalled.Signal = 11
	return []kind{
		{name: "quick", script: "echo out", want: completed},
		{name: "fails", script: "echo out >&2; exit 7", want: failed},
		{name: "signalled", script: "ulimit -c 0; kill -SEGV $$", want: signalled},
		{name: "longer", script: "sleep 0.4$TAG; echo out", want: completed},
		{name: "tree", script: "(setsid sleep 1000.$TAG &); sleep 1000.$TAG & (sleep 0.1$TAG; sleep 1000.$TAG) & sleep 0.2$TAG; echo out", want: completed},
		{name: "traceless", script: "echo out; exec env -i sleep 0.3$TAG", want: completed},
		{name: "missing", command: []string{"/nowhere"}, want: taskexecutor.Terminated{
			ExitCode: 128, Reason: taskexecutor.ReasonStartError, Message: `execute "/nowhere": no such file or directory in the sandbox`}},
		{name: "stopped", script: "exec sleep 1000.$TAG", stopped: true},
		{name: "stopped-tree", script: "setsid sleep 1000.$TAG & sleep 1000.$TAG", stopped: true},
		{name: "too-long", script: "echo out; exec sleep 1000.$TAG", timeout: 1, want: taskexecutor.Terminated{
			ExitCode: 143, Signal: 15, Reason: taskexecutor.ReasonTimedOut, Message: "ran longer than 1s", Output: "out"}},
	}
}

// trial is the run: what the controller wants and has seen, and what the executor's lives have said.
type trial struct {
	*installation
	client *taskexecutor.Client
	random *rand.Rand // of the killer
	tag    string
	marks  string
	kinds  []kind

	mu     sync.Mutex
	number int                // of the life that serves, 0 for none
	killed int                // lives that were killed
	spans  [][2]time.Time     // of the lives that were killed: before the kill, and after the end
	logged map[string]logged  // by task: what the logs of dead lives say
	news   chan struct{}      // closed, and replaced, when number changed
	result map[string]*result // by task, of those that were asked for
}

// logged is what the executor's log says of a task. Its end was on disk before that.
type logged struct {
	started int // number of the life, 0 for none
	end     string
}

// result is what the controller has seen of a task.
type result struct {
	running int // the life that it was seen to run in, 0 for none
	end     *taskexecutor.Terminated
	keep    int // how often it is asked for after its end
	gone    bool
}

func newTrial(t *testing.T) *trial {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("run again with: -seed=%d", *seed)
	in := newInstallation(t)
	return &trial{
		installation: in, client: in.client(), random: rand.New(rand.NewPCG(*seed, 1)), kinds: kinds(),
		tag: fmt.Sprintf("%08d", rand.IntN(1e8)), marks: t.TempDir(),
		logged: map[string]logged{}, news: make(chan struct{}), result: map[string]*result{},
	}
}

// The executor is killed at 50 moments over a run of 200 tasks and restarted on the same data, as its container would be.
// What the controller is told must be what happened: no try ran twice, an end that was recorded stays, what ran was lost and
// nothing of it is left, and what was not begun runs.
func TestAKilledExecutorRunsNoTaskTwiceAndReportsEveryEndAsItWas(t *testing.T) {
	tr := newTrial(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	driven := make(chan error, 1)
	done, finish := context.WithCancel(ctx)
	go func() {
		defer finish()
		driven <- tr.drive(ctx)
	}()
	last, err := tr.killAndRestart(ctx, done)
	if err != nil {
		cancel()
		t.Fatal(errors.Join(err, <-driven))
	}
	if err := <-driven; err != nil {
		t.Fatal(err)
	}
	tr.checkMarks()
	tr.summarize()
	if left, err := processesWith(tr.tag); err != nil || len(left) > 0 {
		t.Errorf("the list of tasks is empty, and left are %q, %v", left, err)
	}
	if children, err := childrenOf(last.cmd.Process.Pid); err != nil || len(children) > 0 {
		t.Errorf("the executor has children, dead or alive: %q, %v", children, err)
	}
	if err := last.stop(); err != nil {
		t.Error(err)
	}
}

// --- the kubelet ------------------------------------------------------------------------------------------

// killAndRestart kills the executor again and again, then lets it live until done, and returns that life.
func (tr *trial) killAndRestart(ctx, done context.Context) (*life, error) {
	all := moments(tr.random)
	for n, m := range all {
		if err := tr.liveAndDie(ctx, done, n+1, m); err != nil {
			return nil, err
		}
	}
	l, err := tr.begin("last-life")
	if err != nil {
		return nil, err
	}
	if err := tr.up(ctx, l, len(all)+1); err != nil {
		return nil, err
	}
	<-done.Done()
	return l, nil
}

func (tr *trial) liveAndDie(ctx, done context.Context, n int, m moment) error {
	l, err := tr.begin(fmt.Sprint("life-", n))
	if err != nil {
		return err
	}
	if !m.whileStarting {
		if err := tr.up(ctx, l, n); err != nil {
			return err
		}
	}
	select {
	case <-time.After(m.after):
	case <-l.ended:
		return fmt.Errorf("the executor ended by itself:\n%s", l.readLog())
	case <-done.Done():
		return errors.New("the run was over before all kills")
	}
	tr.down(l, n)
	return nil
}

// moment is when a life is killed: some time after its start, or after it serves.
type moment struct {
	after         time.Duration
	whileStarting bool
}

// moments are those of all kills, in any order: while records are read, while tasks are started, while some run, and when all
// may have ended.
func moments(random *rand.Rand) []moment {
	var out []moment
	add := func(n int, whileStarting bool, from, to time.Duration) {
		for range n {
			out = append(out, moment{after: from + time.Duration(random.Int64N(int64(to-from))), whileStarting: whileStarting})
		}
	}
	const ms = time.Millisecond
	add(7, true, 0, 40*ms)
	add(15, false, 0, 40*ms)
	add(16, false, 40*ms, 500*ms)
	add(kills-len(out), false, 1100*ms, 1500*ms)
	random.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// up waits until a life serves, checks that nothing of the lives before is left, and lets the controller know.
func (tr *trial) up(ctx context.Context, l *life, n int) error {
	if err := l.healthy(ctx, tr.client); err != nil {
		return err
	}
	left, err := processesWith(tr.tag)
	// A call that was meant for the life before may have come late, and to this one.
	left = slices.DeleteFunc(left, func(process string) bool { return l.started(process) })
	switch {
	case err != nil:
		return err
	case len(left) > 0:
		return fmt.Errorf("life %d serves, and of those before it are left %q", n, left)
	}
	tr.setNumber(n)
	return nil
}

func (tr *trial) down(l *life, n int) {
	tr.setNumber(0)
	before := time.Now()
	l.kill()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.killed++
	tr.spans = append(tr.spans, [2]time.Time{before, time.Now()})
	for _, m := range logLine.FindAllStringSubmatch(l.readLog(), -1) {
		entry := tr.logged[m[2]]
		if m[1] == "started" {
			if entry.started != 0 {
				tr.t.Errorf("%s was started in life %d and in life %d", m[2], entry.started, n)
			}
			entry.started = n
		} else {
			entry.end = m[3]
		}
		tr.logged[m[2]] = entry
	}
}

var logLine = regexp.MustCompile(`msg="task (started|ended)" task=(\S+)(?: reason=(\S+))?`)

func (tr *trial) setNumber(n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.number = n
	close(tr.news)
	tr.news = make(chan struct{})
}

// --- the controller ---------------------------------------------------------------------------------------

// drive asks for all tasks, a few more with every life, until each has ended, or is gone after it was stopped.
func (tr *trial) drive(ctx context.Context) error {
	for revision := ""; ; {
		n, err := tr.awaitLife(ctx)
		if err != nil {
			return err
		}
		want := tr.desired()
		list, err := tr.client.Set(ctx, want)
		if err == nil {
			if err := tr.observe(n, list, want); err != nil {
				return err
			}
			if len(want) == 0 && len(list) == 0 && tr.introduced() == tasks {
				return nil
			}
			list, revision, err = tr.client.Wait(ctx, revision, time.Second)
		}
		if err == nil {
			err = tr.observe(n, list, nil)
			if err != nil {
				return err
			}
			continue
		}
		if err := tr.excuse(ctx, n, err); err != nil {
			return err
		}
	}
}

// excuse takes an error for that of a killed executor, if it was killed.
func (tr *trial) excuse(ctx context.Context, n int, err error) error {
	var answered *taskexecutor.StatusError
	if errors.As(err, &answered) {
		return fmt.Errorf("life %d refused: %w", n, err)
	}
	tr.mu.Lock()
	news, same := tr.news, tr.number == n
	tr.mu.Unlock()
	if !same {
		return nil
	}
	select {
	case <-news:
		return nil
	case <-ctx.Done():
	case <-time.After(patience):
	}
	return fmt.Errorf("life %d, which was not killed, failed: %w", n, err)
}

// awaitLife waits until an executor serves, and returns the number of its life.
func (tr *trial) awaitLife(ctx context.Context) (int, error) {
	for {
		tr.mu.Lock()
		n, news := tr.number, tr.news
		tr.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (tr *trial) introduced() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return len(tr.result)
}

func nameOf(i int) string { return fmt.Sprintf("t%03d", i) }

// desired is the set to ask for: tasks that were not seen to end, those that are kept for a while, and new ones, so many that
// the kills are spread over all tasks but one of each kind, which the last life, that nobody kills, brings to its end.
func (tr *trial) desired() []taskexecutor.Task {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	most := tasks
	if tr.killed < kills {
		most = (tr.killed + 1) * (tasks - len(tr.kinds)) / kills
	}
	var want []taskexecutor.Task
	for i := range len(tr.result) {
		r, k := tr.result[nameOf(i)], tr.kinds[i%len(tr.kinds)]
		switch {
		case r.end != nil && r.keep == 0, k.stopped && r.running > 0:
			continue
		case r.end != nil:
			r.keep--
		}
		want = append(want, tr.task(i, k))
	}
	for i := len(tr.result); i < most && len(want) < taskexecutor.MaxTasks; i++ { // a slow machine falls behind the kills
		tr.result[nameOf(i)] = &result{keep: i % 4}
		want = append(want, tr.task(i, tr.kinds[i%len(tr.kinds)]))
	}
	return want
}

func (tr *trial) task(i int, k kind) taskexecutor.Task {
	p := taskexecutor.Process{Command: k.command, TimeoutSeconds: k.timeout}
	if k.command == nil {
		p.Command, p.Args = []string{"sh", "-c"}, []string{`echo "$$" >> "$MARK"; ` + k.script}
		p.Env = []taskexecutor.EnvVar{{Name: "MARK", Value: filepath.Join(tr.marks, nameOf(i))}, {Name: "TAG", Value: tr.tag}}
	}
	return taskexecutor.Task{Name: nameOf(i), Process: p}
}

// observe compares a list of life n with what is known. Wanted tasks must stand in it.
func (tr *trial) observe(n int, list, want []taskexecutor.Task) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	listed := map[string]bool{}
	var errs []error
	for _, task := range list {
		listed[task.Name] = true
		if err := tr.observeTask(n, task); err != nil {
			errs = append(errs, fmt.Errorf("life %d says of %s (%s): %w", n, task.Name, encoded(task.ProcessStatus), err))
		}
	}
	for _, task := range want {
		if !listed[task.Name] {
			errs = append(errs, fmt.Errorf("life %d was asked for %s, and doesn't list it", n, task.Name))
		}
	}
	if want == nil {
		return errors.Join(errs...)
	}
	for name, r := range tr.result {
		r.gone = r.gone || !listed[name] && (r.end != nil || r.running > 0)
	}
	return errors.Join(errs...)
}

func encoded(v any) string {
	data, err := json.Marshal(v)
	return fmt.Sprint(string(data), errors.Join(err))
}

func (tr *trial) observeTask(n int, task taskexecutor.Task) error {
	r, said := tr.result[task.Name], tr.logged[task.Name]
	switch {
	case r == nil:
		return errors.New("nobody asked for it")
	case r.gone:
		return errors.New("it was gone before")
	}
	end := task.ProcessStatus.Terminated
	switch {
	case r.end != nil && !cmp.Equal(r.end, end):
		return fmt.Errorf("it had ended with %+v", r.end)
	case end == nil && said.started != 0 && said.started != n: // the answer of one that was killed meanwhile may come late
		return fmt.Errorf("it was started in life %d, which was killed", said.started)
	case task.ProcessStatus.Running != nil:
		r.running = n
	}
	if end == nil || r.end != nil {
		return nil
	}
	r.end = end
	return tr.checkEnd(task.Name, *end)
}

// checkEnd checks an end that is seen for the first time.
func (tr *trial) checkEnd(name string, end taskexecutor.Terminated) error {
	said := tr.logged[name]
	if end.Reason == taskexecutor.ReasonExecutorLost {
		switch {
		case tr.killed == 0:
			return errors.New("no executor was killed")
		case said.end != "" && said.end != end.Reason:
			return fmt.Errorf("its executor had recorded the end %s", said.end)
		case end.StartedAt.IsZero():
			return errors.New("what wasn't about to start isn't lost: it runs later")
		case end.ExitCode != -1 || end.Signal != 0:
			return errors.New("nobody saw how it ended")
		}
		return nil
	}
	for n, span := range tr.spans {
		if !end.StartedAt.IsZero() && end.StartedAt.Before(span[0]) && end.FinishedAt.After(span[1]) {
			return fmt.Errorf("it would have outlived life %d, which was killed at %s", n+1, span[0])
		}
	}
	var i int
	if _, err := fmt.Sscanf(name, "t%d", &i); err != nil {
		return err
	}
	want := tr.kinds[i%len(tr.kinds)].want
	want.StartedAt, want.FinishedAt = end.StartedAt, end.FinishedAt
	if diff := cmp.Diff(want, end); diff != "" {
		return fmt.Errorf("(-want +got):\n%s", diff)
	}
	return nil
}

// --- what the tasks themselves say ------------------------------------------------------------------------

func (tr *trial) checkMarks() {
	for i := range tasks {
		name, k := nameOf(i), tr.kinds[i%len(tr.kinds)]
		data, err := os.ReadFile(filepath.Join(tr.marks, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			tr.t.Error(err)
		}
		runs, r := strings.Count(string(data), "\n"), tr.result[name]
		// One that was lost may have been killed before it could leave its mark.
		lost := r.end == nil || r.end.Reason == taskexecutor.ReasonExecutorLost
		switch {
		case runs > 1:
			tr.t.Errorf("%s (%s) ran %d times", name, k.name, runs)
		case runs == 0 && !lost && k.command == nil:
			tr.t.Errorf("%s (%s) ended with %+v and never ran", name, k.name, r.end)
		case runs > 0 && k.command != nil:
			tr.t.Errorf("%s (%s) ran", name, k.name)
		}
	}
}

// summarize tells what the run was made of, and fails if it shows nothing.
func (tr *trial) summarize() {
	count := map[string]int{}
	for _, r := range tr.result {
		if r.end == nil {
			count["stopped"]++
			continue
		}
		count[r.end.Reason]++
	}
	tr.t.Logf("%d tasks, %d kills: %v", len(tr.result), tr.killed, count)
	for _, reason := range []string{
		taskexecutor.ReasonCompleted, taskexecutor.ReasonNonZeroExit, taskexecutor.ReasonTimedOut,
		taskexecutor.ReasonStartError, taskexecutor.ReasonExecutorLost, "stopped",
	} {
		if count[reason] == 0 {
			tr.t.Errorf("no task ended as %s: the run shows nothing of that", reason)
		}
	}
	if len(tr.result) != tasks || tr.killed != kills {
		tr.t.Errorf("%d tasks and %d kills, want %d and %d", len(tr.result), tr.killed, tasks, kills)
	}
}
