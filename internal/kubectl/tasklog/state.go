// SPDX-License-Identifier: Apache-2.0

// Package tasklog reads the output of tasks from the logs of the containers of their task-executors, with no more rights than
// to read logs of pods.
package tasklog

import (
	"encoding/json"
	"strconv"
	"strings"
	"sync"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	"opensandbox.io/controller/internal/utils/indexset"
)

// State is what a reader has to know of a batch. It doesn't change.
type State struct {
	// Batch was seen last; Gone says that it doesn't exist any more.
	Batch *v1alpha1.BatchSandbox
	Gone  bool

	pods      []string // of a pooled batch, by index
	endpoints []string // by index
	ended     map[int]bool
	tries     map[int]int // only of those beyond their first
}

// NewState returns the state of a batch that exists. What can't be read in it is as if it were not there.
func NewState(sb *v1alpha1.BatchSandbox) *State {
	s := &State{Batch: sb, ended: map[int]bool{}, tries: map[int]int{}}
	s.pods, _ = cluster.AllocatedPods(sb) // told by the batch's own conditions
	_ = json.Unmarshal([]byte(sb.Annotations[v1alpha1.EndpointsAnnotation]), &s.endpoints)
	for _, text := range []string{sb.Status.CompletedIndexes, sb.Status.FailedIndexes} {
		indexes, _ := indexset.Parse(text) // the controller wrote it
		for _, index := range indexes {
			s.ended[index] = true
		}
	}
	for _, t := range sb.Status.TaskTries {
		s.tries[int(t.Index)] = int(t.Failed + t.Lost + t.Withdrawn)
	}
	return s
}

// gone is the state after the batch was deleted.
func (s *State) gone() *State {
	after := *s
	after.Gone = true
	return &after
}

// Ended is true when the task of an index ended for good.
func (s *State) Ended(index int) bool { return s.ended[index] }

// AllEnded is true when every task ended for good.
func (s *State) AllEnded() bool {
	for index := range cluster.Replicas(s.Batch) {
		if !s.ended[index] {
			return false
		}
	}
	return true
}

// Try returns the number of the current or last try of an index, from 1.
func (s *State) Try(index int) int { return 1 + s.tries[index] }

// pooledPod returns the name of the pod of an index of a pooled batch, "" for none.
func (s *State) pooledPod(index int) string {
	if index >= len(s.pods) {
		return ""
	}
	return s.pods[index]
}

// endpoint returns the address of an index, "" for none.
func (s *State) endpoint(index int) string {
	if index >= len(s.endpoints) {
		return ""
	}
	return s.endpoints[index]
}

// tryOf returns the number of the try that a task's name has, if it is one of the index.
func (s *State) tryOf(task string, index int) (int, bool) {
	rest, ok := strings.CutPrefix(task, string(s.Batch.UID)+"-"+strconv.Itoa(index)+"-")
	if !ok {
		return 0, false
	}
	try, err := strconv.Atoi(rest)
	return try, err == nil
}

// States hands the newest state of a batch to many readers.
type States struct {
	mu      sync.Mutex
	state   *State
	changed chan struct{}
}

// NewStates begins with a batch.
func NewStates(sb *v1alpha1.BatchSandbox) *States {
	return &States{state: NewState(sb), changed: make(chan struct{})}
}

// See takes the newest state; nil says that the batch doesn't exist any more, or that there is another one of its name.
func (s *States) See(sb *v1alpha1.BatchSandbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sb == nil || sb.UID != s.state.Batch.UID {
		s.state = s.state.gone()
	} else {
		s.state = NewState(sb)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Get returns the newest state, and a channel that is closed when there is a newer one.
func (s *States) Get() (*State, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.changed
}
