// SPDX-License-Identifier: Apache-2.0

package auditor

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
)

// ChangeType says what became of an object.
type ChangeType string

// The types of changes, as a watch tells them.
const (
	Added    ChangeType = "Added"
	Modified ChangeType = "Modified"
	Deleted  ChangeType = "Deleted"
)

// Change is one change of one object.
type Change struct {
	// Time is when the recorder saw it.
	Time time.Time

	// Revision is the one of etcd that the change made: the resourceVersion of the object after it.
	Revision int64

	Type ChangeType

	// Initial: the object was there before the recorder. What came before in its life isn't known.
	Initial bool

	// Object is the object after the change, or as it was last when it was deleted: a Pod, BatchSandbox, Pool or Node.
	Object client.Object
}

// History is what the API server went through. The revisions of all kinds are one order.
type History []Change

func (h History) sorted() History {
	sorted := slices.Clone(h)
	slices.SortStableFunc(sorted, func(a, b Change) int { return cmp.Compare(a.Revision, b.Revision) })
	return sorted
}

// line is a change as a file has it.
type line struct {
	Time     time.Time       `json:"time"`
	Revision int64           `json:"revision"`
	Type     ChangeType      `json:"type"`
	Initial  bool            `json:"initial,omitempty"`
	Kind     string          `json:"kind"`
	Object   json.RawMessage `json:"object"`
}

// kindOf is the kind of an object of a history.
func kindOf(obj client.Object) string {
	switch obj.(type) {
	case *corev1.Pod:
		return "Pod"
	case *v1alpha1.BatchSandbox:
		return "BatchSandbox"
	case *v1alpha1.Pool:
		return "Pool"
	case *corev1.Node:
		return "Node"
	default:
		return "unknown"
	}
}

// newObject is an empty object of a kind, nil for one that no history has.
func newObject(kind string) client.Object {
	switch kind {
	case "Pod":
		return &corev1.Pod{}
	case "BatchSandbox":
		return &v1alpha1.BatchSandbox{}
	case "Pool":
		return &v1alpha1.Pool{}
	case "Node":
		return &corev1.Node{}
	default:
		return nil
	}
}

// Write appends the change to a file of lines of JSON.
func (c Change) Write(w io.Writer) error {
	object, err := json.Marshal(c.Object)
	if err != nil {
		return fmt.Errorf("write revision %d: %w", c.Revision, err)
	}
	data, err := json.Marshal(line{c.Time, c.Revision, c.Type, c.Initial, kindOf(c.Object), object})
	if err != nil {
		return fmt.Errorf("write revision %d: %w", c.Revision, err)
	}
	if _, err := w.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("write revision %d: %w", c.Revision, err)
	}
	return nil
}

// ReadHistory reads what Change.Write wrote, so that a run can be judged again.
func ReadHistory(r io.Reader) (History, error) {
	var h History
	lines := bufio.NewReader(r)
	for n := 1; ; n++ {
		data, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(data) == 0 {
			return h, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read line %d of the history: %w", n, err)
		}
		c, err := parseLine(data)
		if err != nil {
			return nil, fmt.Errorf("read line %d of the history: %w", n, err)
		}
		h = append(h, c)
	}
}

func parseLine(data []byte) (Change, error) {
	var l line
	if err := json.Unmarshal(data, &l); err != nil {
		return Change{}, err
	}
	obj := newObject(l.Kind)
	if obj == nil {
		return Change{}, fmt.Errorf("no history has objects of kind %q", l.Kind)
	}
	if err := json.Unmarshal(l.Object, obj); err != nil {
		return Change{}, err
	}
	return Change{Time: l.Time, Revision: l.Revision, Type: l.Type, Initial: l.Initial, Object: obj}, nil
}
