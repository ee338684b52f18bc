// SPDX-License-Identifier: Apache-2.0

package executors

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/internal/task-executor/recycle"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/test/faults/internal/auditor"
	"opensandbox.io/controller/test/internal/executors"
)

// pod is one pod: its executor, and what its kubelet does.
type pod struct {
	all        *Executors
	key        client.ObjectKey
	uid        types.UID
	ctx        context.Context //nolint:containedctx // ends with the pod
	containers []string
	tasks      *executors.Tasks

	kubelet sync.Mutex // held while the status is written

	mu    sync.Mutex
	lives map[string]int // of each container, those before the present one too
	runs  int            // processes that run
	down  time.Time      // until when the executor can't be reached
	asked bool           // to have all containers restarted
	born  string         // the recycling that this life came from
	dirty bool           // it says that it is not clean
}

// busy says whether a task runs.
func (p *pod) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs > 0
}

func (p *pod) isDown() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.down)
}

// isBack ends the time in which the executor can't be reached.
func (p *pod) isBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = time.Time{}
}

// Started implements [executors.Life].
func (p *pod) Started(r *executors.Run) (after time.Duration, how taskexecutor.Terminated, known bool) {
	if err := p.all.begun(r, p.uid); err != nil {
		p.all.fail(err)
	}
	p.mu.Lock()
	p.runs++
	p.mu.Unlock()
	after, how = endOf(r.Task())
	return after, how, true
}

// Ended implements [executors.Life].
func (p *pod) Ended(r *executors.Run, how taskexecutor.Terminated) {
	p.mu.Lock()
	p.runs--
	p.mu.Unlock()
	p.all.over(r, how)
}

// breaks does one thing to the pod.
func (p *pod) breaks(kind Kind, outage time.Duration) {
	p.mu.Lock()
	p.down = time.Now().Add(outage)
	p.mu.Unlock()
	switch kind {
	case Restarted:
		p.mu.Lock()
		p.born = "" // this life comes from no recycling
		p.mu.Unlock()
		p.tasks.Lose(taskexecutor.ReasonExecutorLost)
		p.restart(slices.DeleteFunc(slices.Clone(p.containers), func(c string) bool { return !isExecutor(c) })...)
	case SandboxRestarted:
		p.tasks.Lose(taskexecutor.ReasonSandboxLost)
		p.restart(slices.DeleteFunc(slices.Clone(p.containers), isExecutor)...)
	default: // Unreachable
	}
}

// Ask implements server.Recycler: all containers restart a moment later.
func (p *pod) Ask(id string) error {
	if p.comesFrom(id) {
		return nil
	}
	if err := p.tasks.CloseIdle(); err != nil {
		return err
	}
	unclean, share := p.all.meets(Unclean)
	pause := time.Duration(share * float64(longRestart))
	p.mu.Lock()
	p.asked = true
	p.mu.Unlock()
	time.AfterFunc(pause/2, func() {
		p.mu.Lock()
		p.down, p.born, p.dirty, p.asked = time.Now().Add(pause/2), id, unclean == Unclean, false
		p.mu.Unlock()
		p.tasks.Reopen()
		p.restart(p.containers...)
	})
	return nil
}

// comesFrom says whether the executor has nothing to do about a recycling.
func (p *pod) comesFrom(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked || id == p.born
}

// State implements server.Recycler.
func (p *pod) State() (taskexecutor.RecycleState, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	state := taskexecutor.RecycleState{ID: p.born, Clean: p.born != "" && !p.dirty}
	switch {
	case p.asked:
		return taskexecutor.RecycleState{}, recycle.ErrExiting
	case p.dirty:
		state.Reasons = []string{"a semaphore is left"}
	}
	return state, nil
}

// restart gives containers new IDs.
func (p *pod) restart(containers ...string) {
	p.kubelet.Lock()
	defer p.kubelet.Unlock()
	p.mu.Lock()
	for _, name := range containers {
		p.lives[name]++
	}
	p.mu.Unlock()
	err := retry.OnError(retry.DefaultBackoff, func(error) bool { return p.ctx.Err() == nil }, func() error {
		return p.tell(p.ctx)
	})
	if err != nil && p.ctx.Err() == nil && !apierrors.IsNotFound(err) {
		p.all.fail(fmt.Errorf("tell of the containers of pod %s: %w", p.key.Name, err))
	}
}

// tell writes the containers' IDs into the pod's status.
func (p *pod) tell(ctx context.Context) error {
	obj := &corev1.Pod{}
	if err := p.all.options.Client.Get(ctx, p.key, obj); err != nil {
		return client.IgnoreNotFound(err)
	}
	if obj.UID != p.uid {
		return nil // it is gone
	}
	p.mu.Lock()
	obj.Status.ContainerStatuses = nil
	for _, c := range obj.Spec.Containers {
		life := p.lives[c.Name]
		obj.Status.ContainerStatuses = append(obj.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, ContainerID: fmt.Sprintf("simulated://%s-%s-%d", p.uid, c.Name, life), Ready: true,
			RestartCount: int32(life - 1), //nolint:gosec // a few
			State:        corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
		})
	}
	obj.Status.Message = ""
	if p.dirty {
		obj.Status.Message = auditor.Unclean // for the auditor, who doesn't hear executors
	}
	p.mu.Unlock()
	return client.IgnoreNotFound(p.all.options.Client.Status().Update(ctx, obj))
}
