// SPDX-License-Identifier: Apache-2.0

package process

import (
	"slices"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

// root is the main process of a tree, alive or not, and the marker its descendants were born with.
type root struct {
	procfs.ID
	marker string
}

// membersInput is what members decides on.
type membersInput struct {
	// All are the processes of the machine, as far as they are visible.
	All []procfs.Stat
	// Executor is this process's PID.
	Executor int
	// Roots are the main processes of all trees that are tracked.
	Roots []root
	// Seen are processes known to belong to a tree, by its marker.
	Seen map[procfs.ID]string
	// Marker returns the marker in a process's environment, empty for none.
	Marker func(pid int) string
}

// strays is the key of the processes that can't be told to belong to one of several trees.
const strays = ""

// members returns who belongs to which tree, by the tree's marker. A child of the executor is a main process or an orphan;
// it and all its descendants belong to
//
//	| the child                                             | tree                             |
//	|-------------------------------------------------------|----------------------------------|
//	| is a main process                                     | its own                          |
//	| was seen in a tree before                             | that one                         |
//	| is in the session of a main process not younger       | that one's                       |
//	| carries a marker                                      | the marker's                     |
//	| none of these, younger than a main process, one tree  | that one                         |
//	| none of these, younger than a main process            | strays                           |
//	| was seen as a stray before                            | as above, whatever the ages      |
//	| none of these                                         | none                             |
func members(in membersInput) map[string][]procfs.Stat {
	children := map[int][]procfs.Stat{}
	for _, s := range in.All {
		children[s.Parent] = append(children[s.Parent], s)
	}
	out := map[string][]procfs.Stat{}
	for _, child := range children[in.Executor] {
		tree, ok := in.treeOf(child)
		if !ok {
			continue
		}
		visited := map[int]bool{in.Executor: true} // a snapshot isn't atomic, so it could hold a circle
		todo := []procfs.Stat{child}
		for len(todo) > 0 {
			s := todo[0]
			todo = todo[1:]
			if visited[s.PID] {
				continue
			}
			visited[s.PID] = true
			if s.Alive() {
				out[tree] = append(out[tree], s)
			}
			todo = append(todo, children[s.PID]...)
		}
	}
	return out
}

func (in membersInput) treeOf(child procfs.Stat) (string, bool) {
	for _, r := range in.Roots {
		if child.ID == r.ID {
			return r.marker, true
		}
	}
	if marker, ok := in.Seen[child.ID]; ok && in.tracked(marker) {
		return marker, true
	}
	for _, r := range in.Roots {
		if child.Session == r.PID && child.Start >= r.Start {
			return r.marker, true
		}
	}
	if marker := in.Marker(child.PID); marker != "" && in.tracked(marker) {
		return marker, true
	}
	switch {
	case len(in.Roots) == 0 || !in.mayBelong(child):
		return "", false
	case len(in.Roots) == 1:
		return in.Roots[0].marker, true
	default:
		return strays, true
	}
}

// mayBelong reports whether a child without any sign could be of some tree: it was held to be a stray before, or is not
// older than every main process.
func (in membersInput) mayBelong(child procfs.Stat) bool {
	if marker, seen := in.Seen[child.ID]; seen && marker == strays {
		return true
	}
	return slices.ContainsFunc(in.Roots, func(r root) bool { return child.Start >= r.Start })
}

func (in membersInput) tracked(marker string) bool {
	for _, r := range in.Roots {
		if r.marker == marker {
			return true
		}
	}
	return false
}
