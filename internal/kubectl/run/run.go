// SPDX-License-Identifier: Apache-2.0

package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/kubectl/tasklog"
	"opensandbox.io/controller/internal/kubectl/tasks"
)

const (
	// defaultAtOnce is how many logs are read at the same time.
	defaultAtOnce = 100
	// deleteTimeout bounds the call that deletes the batch.
	deleteTimeout = 30 * time.Second
	// linesTold is how many of a failed task's last lines are told again.
	linesTold = 3
)

// errInterrupted ends a run that was interrupted, which is told before.
var errInterrupted = &cluster.ExitError{Code: cluster.ExitInterrupted}

// options are what one run has to go by.
type options struct {
	settings
	keep   bool
	quiet  bool
	atOnce int

	factory *cluster.Factory
	streams genericiooptions.IOStreams
	batch   *v1alpha1.BatchSandbox
}

// run makes the batch, waits for its tasks, and deletes it.
func (o *options) run(ctx context.Context) error {
	c, err := o.factory.Client()
	if err != nil {
		return err
	}
	source, err := tasklog.NewSource(o.factory)
	if err != nil {
		return err
	}
	if err := c.Create(ctx, o.batch); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("batchsandbox %s exists already: choose another name, or none to have one made up", o.name)
		}
		return err
	}
	if o.keep {
		o.tell("batchsandbox %s made", o.batch.Name)
	}
	r := &runner{options: o, client: c, source: source, states: tasklog.NewStates(o.batch)}
	err = r.await(ctx)
	if deleteErr := o.settle(ctx, c, err); deleteErr != nil {
		o.tell("%v", deleteErr)
	}
	return err
}

// settle deletes the batch, unless it is to be kept.
func (o *options) settle(ctx context.Context, c client.Client, runErr error) error {
	interrupted := errors.Is(runErr, error(errInterrupted))
	if o.keep {
		if interrupted {
			o.tell("batchsandbox %s goes on; see its output: kubectl sandbox logs -f %s; end it: kubectl delete batchsandbox %s", o.batch.Name, o.batch.Name, o.batch.Name)
		}
		return nil
	}
	if interrupted {
		o.tell("interrupted: deleting batchsandbox %s", o.batch.Name)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	err := c.Delete(ctx, o.batch, client.Preconditions{UID: ptr.To(o.batch.UID)}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("batchsandbox %s was not deleted: %w; delete it: kubectl delete batchsandbox %s", o.batch.Name, err, o.batch.Name)
	}
	return nil
}

func (o *options) tell(format string, args ...any) {
	fmt.Fprintf(o.streams.ErrOut, format+"\n", args...)
}

// runner waits for one batch.
type runner struct {
	*options
	client client.WithWatch
	source tasklog.Source
	states *tasklog.States
}

// await shows the output and waits for the end of all tasks. It returns nil if all of them succeeded, else an error with the exit code.
func (r *runner) await(ctx context.Context) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan error, 1)
	go func() { watched <- r.watch(watching) }()
	output := make(chan []tasklog.Incomplete, 1)
	go func() { output <- r.follow(watching) }()

	err := r.awaitEnd(ctx, watched)
	if err != nil {
		stop()
		<-output
		return err
	}
	var incomplete []tasklog.Incomplete
	select {
	case incomplete = <-output:
	case <-ctx.Done():
		return errInterrupted
	}
	r.tellIncomplete(incomplete)
	return r.result(len(incomplete) > 0)
}

// watch keeps the state. It returns when the batch is gone, or can't be seen.
func (r *runner) watch(ctx context.Context) error {
	w := cluster.BatchWatch{Client: r.client, Clock: r.factory.Clock(), Key: client.ObjectKeyFromObject(r.batch), Tell: r.streams.ErrOut}
	return w.Run(ctx, func(sb *v1alpha1.BatchSandbox) bool {
		r.states.See(sb)
		return sb != nil
	})
}

// follow shows the output of all tasks until they have ended.
func (r *runner) follow(ctx context.Context) []tasklog.Incomplete {
	printer := &tasklog.Printer{Out: r.streams.Out, ErrOut: r.streams.ErrOut, Prefixed: r.replicas > 1}
	indexes := make([]int, r.replicas)
	for i := range indexes {
		indexes[i] = i
	}
	return tasklog.Many{
		Source: r.source, States: r.states, Clock: r.factory.Clock(), Indexes: indexes, AtOnce: r.atOnce, Emit: printer.Print,
	}.Follow(ctx)
}

// awaitEnd waits until every task has ended, or can't.
func (r *runner) awaitEnd(ctx context.Context, watched <-chan error) error {
	progress := r.newProgress()
	defer progress.stop()
	for {
		state, changed := r.states.Get()
		switch {
		case state.Gone:
			return fmt.Errorf("batchsandbox %s was deleted by somebody else before its tasks ended", r.batch.Name)
		case state.AllEnded():
			return nil
		}
		if why := tasks.Hopeless(state.Batch); why != "" {
			return fmt.Errorf("batchsandbox %s can't run: %s", r.batch.Name, why)
		}
		select {
		case <-changed:
		case <-progress.due():
			progress.tell(state.Batch)
		case err := <-watched:
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("watch batchsandbox %s: %w", r.batch.Name, err)
			}
			watched = nil // the state tells, or ctx
		case <-ctx.Done():
			return errInterrupted
		}
	}
}

// tellIncomplete tells whose output is not all there.
func (r *runner) tellIncomplete(incomplete []tasklog.Incomplete) {
	for _, i := range incomplete {
		why := "its pod is gone"
		if i.Err != nil {
			why = i.Err.Error()
		}
		r.tell("the output of index %d may be incomplete: %s", i.Index, why)
		if i.Err != nil && apierrors.IsForbidden(i.Err) {
			return // so it is for all
		}
	}
}

// result is the end of the run by the end of its tasks.
func (r *runner) result(incomplete bool) error {
	state, _ := r.states.Get()
	list := tasks.Of(state.Batch)
	code := tasks.ExitCode(list)
	if code == 0 {
		return nil
	}
	lines := 0 // one task's output was just shown
	if incomplete || len(list) > 1 {
		lines = linesTold
	}
	return &cluster.ExitError{Code: code, Err: errors.New(tasks.Failures(list, lines))}
}
