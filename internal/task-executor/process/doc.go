// SPDX-License-Identifier: Apache-2.0

// Package process starts the main processes of tasks and ends their trees: what they started, also what has left its
// session and group or has lost its parent.
//
// The executor is the child subreaper of everything it starts. A process whose parent has ended becomes its child, so
// that nothing leaves the tree and a walk from the executor down finds everything. Which task such an orphan belongs to
// is told, in this order, by what was seen of it before, by its session, and by a marker in its environment. One that has
// erased all three belongs to the only task there is; while there are several it is ended with the last of them.
//
// A process is signalled only through a file descriptor of it, checked to be the one with the wanted start time.
package process
