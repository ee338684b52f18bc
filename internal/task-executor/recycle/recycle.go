// SPDX-License-Identifier: Apache-2.0

// Package recycle is the executor's part in making a pod fit for the next user.
//
// Asked to recycle, an executor without tasks notes so in its data directory and exits with the code that has the kubelet
// restart every container of the pod. Its next life finds the note, forgets the tasks of the lives before, empties what
// containers share in memory, and tells whether anything of the last user is left that a restart can't undo.
package recycle

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

const (
	// noteFile is there from the moment a recycling was accepted until the next life has cleaned up. It has the ID.
	noteFile = "recycling"
	// copiesDir has the shared files as the first life of the executor found them.
	copiesDir = "first-start"
)

// ErrInvalid says that a request names no recycling.
var ErrInvalid = errors.New("invalid recycling")

// ErrExiting says that the executor is about to exit, so that the next one is to be asked.
var ErrExiting = errors.New("the executor is about to exit")

// Records are what is kept of tasks; *store.Store in the executor.
type Records interface {
	Forget() error
}

// Tasks are those of this life; *task.Manager in the executor.
type Tasks interface {
	// CloseIdle takes no more tasks; it refuses while there are any.
	CloseIdle() error
	// Reopen undoes CloseIdle.
	Reopen()
	// Idle says whether no task is known.
	Idle() bool
}

// Deps are what a Recycler works with. All are required.
type Deps struct {
	// DataDir outlives the container and is nobody else's.
	DataDir string
	Records Records
	Tasks   Tasks
	// Host is what the containers of the pod share.
	Host Host
	// InPod permits to empty what the host shares: outside of a pod it is the machine's.
	InPod bool
	Log   *slog.Logger
}

// Recycler is safe for concurrent use.
type Recycler struct {
	deps  Deps
	born  string   // ID of the recycling this life came from, "" for none
	dirty []string // what could not be cleaned at its start

	mu      sync.Mutex
	asked   bool
	exiting chan struct{}
}

// Begin does what the start of a life has to do. Call it before the records of tasks are read.
func Begin(deps Deps) (*Recycler, error) {
	r := &Recycler{deps: deps, exiting: make(chan struct{})}
	if err := r.keepCopies(); err != nil {
		return nil, err
	}
	note := filepath.Join(deps.DataDir, noteFile)
	id, err := os.ReadFile(note)
	if errors.Is(err, fs.ErrNotExist) || !deps.InPod {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the note of a recycling: %w", err)
	}
	if err := deps.Records.Forget(); err != nil {
		return nil, err
	}
	r.born, r.dirty = string(id), deps.Host.Empty()
	if err := os.Remove(note); err != nil {
		return nil, fmt.Errorf("remove the note of a recycling: %w", err)
	}
	deps.Log.Info("came back from a recycling", "left", r.dirty)
	return r, nil
}

// keepCopies copies the shared files in the first life, before anybody was given the pod.
func (r *Recycler) keepCopies() error {
	dir := filepath.Join(r.deps.DataDir, copiesDir)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temp := dir + ".tmp"
	if err := errors.Join(os.RemoveAll(temp), os.Mkdir(temp, 0o700)); err != nil {
		return fmt.Errorf("keep copies of shared files: %w", err)
	}
	for _, path := range r.deps.Host.Files {
		data, err := readShared(path)
		if err != nil {
			r.deps.Log.Warn("a shared file has no copy to compare it with", "path", path, "err", err)
			continue
		}
		if err := os.WriteFile(filepath.Join(temp, filepath.Base(path)), data, 0o600); err != nil {
			return fmt.Errorf("keep a copy of %s: %w", path, err)
		}
	}
	if err := os.Rename(temp, dir); err != nil {
		return fmt.Errorf("keep copies of shared files: %w", err)
	}
	return nil
}

// Ask starts the recycling of this name: Exiting is closed, and the process is to exit. The error says why not yet; a
// recycling this life came back from is over, and asking for it does nothing.
func (r *Recycler) Ask(id string) error {
	if id == "" || len(id) > taskexecutor.MaxRecycleIDBytes {
		return fmt.Errorf("%w: id must have 1 to %d bytes", ErrInvalid, taskexecutor.MaxRecycleIDBytes)
	}
	if !r.deps.InPod {
		return fmt.Errorf("%w: the executor doesn't run in a pod", ErrInvalid)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked || id == r.born {
		return nil
	}
	if err := r.deps.Tasks.CloseIdle(); err != nil {
		return err
	}
	if err := r.note(id); err != nil {
		r.deps.Tasks.Reopen()
		return err
	}
	r.asked = true
	close(r.exiting)
	return nil
}

func (r *Recycler) note(id string) error {
	path := filepath.Join(r.deps.DataDir, noteFile)
	err := os.WriteFile(path+".tmp", []byte(id), 0o600)
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return fmt.Errorf("note the recycling: %w", err)
	}
	return nil
}

// Exiting is closed when the process is to exit with taskexecutor.RecycleExitCode.
func (r *Recycler) Exiting() <-chan struct{} { return r.exiting }

// State says whether this life came back clean. The error is ErrExiting once it is about to end.
func (r *Recycler) State() (taskexecutor.RecycleState, error) {
	r.mu.Lock()
	asked := r.asked
	r.mu.Unlock()
	state := taskexecutor.RecycleState{ID: r.born}
	switch {
	case asked:
		return taskexecutor.RecycleState{}, ErrExiting
	case r.born == "":
		state.Reasons = append(state.Reasons, "the executor was not started by a recycling")
	case !r.deps.Tasks.Idle():
		state.Reasons = append(state.Reasons, "the executor has tasks")
	}
	state.Reasons = append(state.Reasons, r.dirty...)
	state.Reasons = append(state.Reasons, r.changedFiles()...)
	state.Reasons = append(state.Reasons, r.deps.Host.IPC()...)
	state.Clean = len(state.Reasons) == 0
	return state, nil
}

// changedFiles are the shared files that differ from their copies.
func (r *Recycler) changedFiles() (reasons []string) {
	for _, path := range r.deps.Host.Files {
		was, copyErr := os.ReadFile(filepath.Join(r.deps.DataDir, copiesDir, filepath.Base(path)))
		is, err := readShared(path)
		switch {
		case errors.Is(copyErr, fs.ErrNotExist) && errors.Is(err, fs.ErrNotExist):
		case err != nil || copyErr != nil:
			reasons = append(reasons, fmt.Sprintf("%s can't be compared: %v", path, errors.Join(err, copyErr)))
		case !bytes.Equal(was, is):
			reasons = append(reasons, path+" was changed")
		}
	}
	return reasons
}
