// SPDX-License-Identifier: Apache-2.0

package batchsandbox

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/clock"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

const (
	// longPoll and longPollJitter: an executor is asked for news with a wait of 4 to 5 minutes.
	longPoll       = 4 * time.Minute
	longPollJitter = time.Minute

	// shortPoll is how often an executor is asked that doesn't know how to wait.
	shortPoll = 2 * time.Second

	// maxHasty is how many answers may come in quick succession, each within hastyPause of the last, before the next is asked
	// for after hastyPause.
	maxHasty   = 10
	hastyPause = 500 * time.Millisecond

	// unknownAfter is how long an executor may be silent before its task counts as unknown.
	unknownAfter = 5 * time.Second

	// unreachableAfter is how long an executor may be silent before its sandbox counts as one that can't be stopped.
	unreachableAfter = 30 * time.Second

	// stopLimit is how long the processes of a sandbox may take to end; the executor kills them after 10 s.
	stopLimit = time.Minute
)

// Executor is what the runner needs of a task-executor.
type Executor interface {
	Set(ctx context.Context, tasks []taskexecutor.Task) ([]taskexecutor.Task, error)
	Wait(ctx context.Context, since string, wait time.Duration) ([]taskexecutor.Task, string, error)
}

// target is one index of a batch and where its executor is.
type target struct {
	batch types.NamespacedName
	uid   types.UID
	index int
	pod   types.UID
	ip    string
}

// Runner keeps one watcher for every task that should run or stop, and remembers the last state of each. Its memory is
// no home of a fact: executors keep the ends until the batch's status has them.
type Runner struct {
	ctx    context.Context //nolint:containedctx // the watchers live as long as the runner, not as a reconcile
	clock  clock.Clock
	dial   Dial
	wake   func(types.NamespacedName)
	wg     sync.WaitGroup
	mu     sync.Mutex
	byUID  map[types.UID]*sessions
	byName map[types.NamespacedName]types.UID
	heard  map[types.UID][]heardEnd // that nobody took yet
}

// sessions are the watchers of one batch.
type sessions struct {
	byIndex map[int]*session
	// open is the number of those that may have more to tell.
	open int
	// turn is when the batch was woken last, or will be next.
	turn time.Time
}

// newsIn says how long after its last turn a batch with news is to be woken, so that a thousand tasks that end within a second
// cost a handful of looks and status writes. ok is false where it will be woken anyway.
//
//	| a turn is to come | last turn        | more to come | woken                |
//	| yes               | -                | yes          | at that turn         |
//	| no                | statusPace ago   | yes          | at once              |
//	| no                | less long ago    | yes          | statusPace after it  |
//	| -                 | -                | no           | at once              |
func (b *sessions) newsIn(now time.Time) (wait time.Duration, ok bool) {
	switch {
	case b.open == 0:
	case b.turn.After(now):
		return 0, false
	default:
		wait = max(0, statusPace-now.Sub(b.turn))
	}
	b.turn = now.Add(wait)
	return wait, true
}

// replace puts a watcher in the place of an index; nil for none.
func (b *sessions) replace(index int, s *session) {
	if before, ok := b.byIndex[index]; ok {
		before.cancel()
		if before.state.open() {
			b.open--
		}
	}
	if s == nil {
		delete(b.byIndex, index)
		return
	}
	b.byIndex[index] = s
	if s.state.open() {
		b.open++
	}
}

// session is one watcher.
type session struct {
	target   target
	try      int // 0 while it stops
	stopping bool
	cancel   context.CancelFunc
	state    taskState
	// ended is how the task ended that is being stopped; nil if it had not.
	ended *taskexecutor.Terminated
	// since is when the watcher began.
	since time.Time
}

// Dial connects to the executor of a pod.
type Dial func(ip string, pod types.UID) Executor

// Dialer returns a Dial whose calls are signed, and go over a transport that wrap may watch.
func Dialer(sign func(token.Call) (string, error), wrap func(http.RoundTripper) http.RoundTripper) Dial {
	transport := wrap(taskexecutor.NewTransport())
	return func(ip string, pod types.UID) Executor {
		return taskexecutor.New(taskexecutor.BaseURL(ip), taskexecutor.WithTransport(transport),
			taskexecutor.WithTokens(token.ForPod(sign, string(pod))))
	}
}

// NewRunner returns a runner whose watchers end with ctx; wake is called with a batch that has news.
func NewRunner(ctx context.Context, clk clock.Clock, wake func(types.NamespacedName), dial Dial) *Runner {
	return &Runner{
		ctx: ctx, clock: clk, wake: wake, dial: dial,
		byUID: map[types.UID]*sessions{}, byName: map[types.NamespacedName]types.UID{}, heard: map[types.UID][]heardEnd{},
	}
}

// Wait returns when every watcher has ended, some time after the context of NewRunner.
func (r *Runner) Wait() { r.wg.Wait() }

// run is one try of a task.
type run struct {
	try  int
	task taskexecutor.Task
	// wait is how long it waits where its executor doesn't know it yet.
	wait time.Duration
	// span ends when the executor has the task; nil for none.
	span trace.Span
}

// Run has this try of a task run in a sandbox. Saying it again changes nothing. A try after the first begins when nothing is left
// of those before it in that sandbox.
func (r *Runner) Run(t target, try int, task taskexecutor.Task) {
	r.Resume(t, run{try: try, task: task})
}

// Resume is Run for a try that another controller decided on.
func (r *Runner) Resume(t target, w run) {
	r.start(t, false, taskState{phase: taskPending, try: w.try}, func(ctx context.Context, s *session) {
		client := r.dial(t.ip, t.pod)
		known, ok := false, true
		if w.try > 1 {
			known, ok = r.clear(ctx, client, s, w)
		}
		if ok {
			r.watch(ctx, client, s, watched{w.task, known, w.span})
		}
	})
}

// clear finds out whether an executor knows a try already, which then is only followed. If it doesn't, all that the tries
// before it left is ended, and their records are forgotten: the status has their ends. ok is false if there is nothing to be
// watched: that didn't succeed, or nobody wants it any more.
func (r *Runner) clear(ctx context.Context, client Executor, s *session, w run) (known, ok bool) {
	backoff := newBackoff()
	heard := r.clock.Now()
	var since string
	var ending time.Time // since when what is left is being ended; zero while nobody asked for that
	var asked bool
	var answers haste
	for ctx.Err() == nil {
		var tasks []taskexecutor.Task
		var rev string
		var err error
		if !ending.IsZero() && !asked {
			tasks, err = client.Set(ctx, nil)
		} else {
			tasks, rev, err = client.Wait(ctx, since, unreachableAfter)
		}
		if err != nil {
			r.reportSilence(s, heard, err)
			asked, since = false, ""
			r.pause(ctx, backoff.Step())
			continue
		}
		heard, backoff = r.clock.Now(), newBackoff()
		switch {
		case find(tasks, w.task.Name) != nil:
			return true, true
		case len(tasks) == 0:
			r.report(s, taskState{phase: taskPending, try: w.try})
			r.pause(ctx, w.wait)
			return false, ctx.Err() == nil
		case ending.IsZero():
			ending = heard
			continue
		case heard.Sub(ending) >= stopLimit:
			r.report(s, taskState{phase: taskEnded, try: w.try, end: notCleared()})
			return false, false
		}
		if tooMuch := answers.tooMuch(heard); tooMuch || (asked && rev == "") {
			r.pause(ctx, hastyPause)
		}
		asked, since = true, rev
	}
	return false, false
}

// Stop has everything end that tasks started in a sandbox. Saying it again changes nothing.
func (r *Runner) Stop(t target) {
	r.start(t, true, taskState{phase: taskPending}, r.stop)
}

func (r *Runner) start(t target, stopping bool, initial taskState, work func(context.Context, *session)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, ok := r.byName[t.batch]; ok && before != t.uid {
		r.forgetBatch(before) // it vanished, and a new batch has its name
	}
	r.byName[t.batch] = t.uid
	batch := r.byUID[t.uid]
	if batch == nil {
		batch = &sessions{byIndex: map[int]*session{}}
		r.byUID[t.uid] = batch
	}
	var ended *taskexecutor.Terminated
	if s, ok := batch.byIndex[t.index]; ok {
		if s.stopping == stopping && s.try == initial.try && s.target == t {
			return
		}
		if stopping && s.target == t {
			ended = s.state.end
		}
	}
	ctx, cancel := context.WithCancel(r.ctx)
	initial.ip = t.ip
	s := &session{target: t, try: initial.try, stopping: stopping, cancel: cancel, state: initial, ended: ended, since: r.clock.Now()}
	batch.replace(t.index, s)
	r.wg.Go(func() {
		defer cancel()
		work(ctx, s)
	})
}

// states returns the last state of each index of a batch that has a watcher, ended ones included.
func (r *Runner) states(uid types.UID) map[int]taskState {
	r.mu.Lock()
	defer r.mu.Unlock()
	batch, ok := r.byUID[uid]
	if !ok {
		return map[int]taskState{}
	}
	states := make(map[int]taskState, len(batch.byIndex))
	for index, s := range batch.byIndex {
		state := s.state
		if state.end == nil {
			state.end = s.ended
		}
		states[index] = state
	}
	return states
}

// Forget ends the watcher of one index.
func (r *Runner) Forget(uid types.UID, index int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if batch, ok := r.byUID[uid]; ok {
		batch.replace(index, nil)
	}
}

// ForgetBatch ends the watchers of a batch.
func (r *Runner) ForgetBatch(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetBatch(uid)
}

// forgetBatch is called with the lock held.
func (r *Runner) forgetBatch(uid types.UID) {
	batch, ok := r.byUID[uid]
	if !ok {
		return
	}
	for _, s := range batch.byIndex {
		s.cancel()
		if r.byName[s.target.batch] == uid {
			delete(r.byName, s.target.batch)
		}
	}
	delete(r.byUID, uid)
	delete(r.heard, uid)
}

// ForgetName ends the watchers of the batch that has or had this name.
func (r *Runner) ForgetName(batch types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if uid, ok := r.byName[batch]; ok {
		r.forgetBatch(uid)
		delete(r.byName, batch)
	}
}

// report keeps the state of a session that is still the one of its index, and wakes the batch if it is news: at once where
// nothing was told of the batch for a while or nothing more is to come, else together with what comes until the next turn.
func (r *Runner) report(s *session, state taskState) {
	state.ip = s.target.ip
	wait, wakes := r.keep(s, state)
	switch {
	case !wakes:
	case wait == 0:
		r.wake(s.target.batch)
	default:
		r.wg.Go(func() {
			if r.pause(r.ctx, wait); r.ctx.Err() == nil {
				r.takeTurn(s.target)
			}
		})
	}
}

// takeTurn wakes a batch. The turn is now, even if the timer was early: what is heard from now on needs another.
func (r *Runner) takeTurn(t target) {
	r.mu.Lock()
	if batch, ok := r.byUID[t.uid]; ok {
		batch.turn = r.clock.Now()
	}
	r.mu.Unlock()
	r.wake(t.batch)
}

// keep keeps the state of a session, and says when the batch is to be woken for it.
func (r *Runner) keep(s *session, state taskState) (wait time.Duration, wakes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	batch, ok := r.byUID[s.target.uid]
	if !ok || batch.byIndex[s.target.index] != s || s.state == state {
		return 0, false
	}
	if s.state.open() && !state.open() {
		batch.open--
	}
	s.state = state
	r.hear(s)
	return batch.newsIn(r.clock.Now())
}

// watched is a task to be handed to an executor, which may have it already.
type watched struct {
	task     taskexecutor.Task
	accepted bool
	span     trace.Span // ends when it is accepted
}

// watch hands the task to the executor and follows it to its end.
func (r *Runner) watch(ctx context.Context, client Executor, s *session, w watched) {
	try, task, accepted := s.try, w.task, w.accepted
	backoff := newBackoff()
	heard := r.clock.Now()
	var since string
	var started bool
	var answers haste
	for ctx.Err() == nil {
		tasks, rev, err := r.ask(ctx, client, task, accepted, since)
		switch {
		case isRefused(err):
			r.dispatched(w.span, err)
			r.report(s, taskState{phase: taskEnded, try: try, end: refusedTask(err)})
			return
		case err != nil:
			r.reportSilence(s, heard, err)
			r.pause(ctx, backoff.Step())
			continue
		}
		heard, backoff = r.clock.Now(), newBackoff()
		first := !accepted
		r.dispatched(w.span, nil)
		accepted, since = true, rev
		status := find(tasks, task.Name)
		switch {
		case status == nil && started:
			r.report(s, taskState{phase: taskEnded, try: try, end: lostRecord()})
			return
		case status == nil:
			accepted, since = false, ""
			r.pause(ctx, backoff.Step())
		case status.Terminated != nil:
			r.report(s, taskState{phase: taskEnded, try: try, end: status.Terminated})
			return
		case status.Running != nil:
			started = true
			r.report(s, taskState{phase: taskRunning, try: try})
		default:
			r.report(s, taskState{phase: taskPending, try: try})
		}
		switch {
		case rev == "" && !first:
			r.pause(ctx, shortPoll)
		case answers.tooMuch(heard):
			r.pause(ctx, hastyPause)
		}
	}
}

// reportSilence tells that an executor was not heard for too long.
func (r *Runner) reportSilence(s *session, heard time.Time, err error) {
	if r.clock.Since(heard) >= unknownAfter {
		r.report(s, taskState{phase: taskUnknown, try: s.try, err: silence(err)})
	}
}

// silence is why an executor told nothing, in words that stay the same while the reason does.
func silence(err error) string {
	var status *taskexecutor.StatusError
	if errors.As(err, &status) && status.Status == http.StatusUnauthorized {
		return "refuses the controller, whose root is not the one it got with its pod"
	}
	return "can't be reached: is there one in the pod, and is its port open?"
}

// haste counts answers that came in quick succession. An executor that gives many of them, for it is broken or hostile, is
// asked less often.
type haste struct {
	answers int
	last    time.Time
}

func (h *haste) tooMuch(now time.Time) bool {
	if now.Sub(h.last) > hastyPause {
		h.answers = 0
	}
	h.answers++
	h.last = now
	return h.answers > maxHasty
}

// ask hands the task over, once, and from then on waits for news of it.
func (r *Runner) ask(ctx context.Context, c Executor, task taskexecutor.Task, accepted bool, since string) ([]taskexecutor.Task, string, error) {
	if accepted {
		return c.Wait(ctx, since, longPoll+rand.N(longPollJitter)) //nolint:gosec // jitter needs no secret randomness
	}
	tasks, err := c.Set(ctx, []taskexecutor.Task{task})
	if taskexecutor.IsConflict(err) {
		return knownTry(ctx, c, task.Name, err)
	}
	return tasks, "", err
}

// knownTry asks for a try that the executor has already and refuses to change: it was handed over with fields of the pod that
// have changed since, and keeps what it got. An executor that refuses and doesn't know the try makes no sense.
func knownTry(ctx context.Context, c Executor, name string, refusal error) ([]taskexecutor.Task, string, error) {
	tasks, rev, err := c.Wait(ctx, "", 0)
	if err == nil && find(tasks, name) == nil {
		err = refusal
	}
	return tasks, rev, err
}

// stop has the executor end everything, and follows it until nothing is left.
func (r *Runner) stop(ctx context.Context, s *session) {
	client := r.dial(s.target.ip, s.target.pod)
	backoff := newBackoff()
	start := r.clock.Now()
	heard := start
	var since string
	var accepted bool
	for ctx.Err() == nil {
		var tasks []taskexecutor.Task
		var rev string
		var err error
		if accepted {
			tasks, rev, err = client.Wait(ctx, since, unreachableAfter)
		} else {
			tasks, err = client.Set(ctx, nil)
		}
		switch {
		case err == nil && len(tasks) == 0:
			r.report(s, taskState{phase: taskStopped})
			return
		case err == nil:
			heard, backoff = r.clock.Now(), newBackoff()
			if accepted && rev == "" {
				r.pause(ctx, backoff.Step())
			}
			accepted, since = true, rev
		default:
			accepted, since = false, ""
			r.pause(ctx, backoff.Step())
		}
		if r.clock.Since(heard) >= unreachableAfter || r.clock.Since(start) >= stopLimit {
			r.report(s, taskState{phase: taskUnstoppable, err: silence(err)})
			return
		}
	}
}

func newBackoff() *wait.Backoff {
	return &wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 1 << 30, Cap: 2 * time.Second}
}

func (r *Runner) pause(ctx context.Context, d time.Duration) {
	timer := r.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-ctx.Done():
	}
}

func find(tasks []taskexecutor.Task, name string) *taskexecutor.ProcessStatus {
	for i := range tasks {
		if tasks[i].Name == name {
			if tasks[i].ProcessStatus == nil {
				return &taskexecutor.ProcessStatus{}
			}
			return tasks[i].ProcessStatus
		}
	}
	return nil
}

// isRefused says that no executor would ever take the task: it is wrong, or too large with the fields of its pod.
func isRefused(err error) bool {
	var status *taskexecutor.StatusError
	if errors.As(err, &status) {
		return status.Status == http.StatusBadRequest || status.Status == http.StatusRequestEntityTooLarge
	}
	return errors.Is(err, taskexecutor.ErrRequestTooLarge)
}

func refusedTask(err error) *taskexecutor.Terminated {
	return &taskexecutor.Terminated{ExitCode: -1, Reason: taskexecutor.ReasonStartError, Message: "the task-executor refuses the task: " + err.Error()}
}

func notCleared() *taskexecutor.Terminated {
	return &taskexecutor.Terminated{ExitCode: -1, Reason: taskexecutor.ReasonStartError, Message: "processes of the try before could not be ended"}
}

func lostRecord() *taskexecutor.Terminated {
	return &taskexecutor.Terminated{ExitCode: -1, Reason: taskexecutor.ReasonExecutorLost, Message: "the task-executor lost its record of the task"}
}
