// SPDX-License-Identifier: Apache-2.0

// Package enter turns a fresh process of the executor's own binary into a task's main process: it enters the sandbox's
// root, takes over the rights of the sandbox's main process, and executes the command.
//
// It runs in a process of its own because rights and root belong to threads and processes in ways that a program with
// many threads can't undo. In that process everything happens on one locked thread, the one that executes the command:
// the kernel ends the others at that moment, whatever rights they still had.
//
// Why chroot and not the namespaces: joining a mount namespace takes SYS_ADMIN. Opening the root of a process takes
// SYS_PTRACE and chroot takes SYS_CHROOT, which a container's default set has. What follows from it: no user namespaces can
// be made inside, the seccomp and LSM profiles are the executor's, and /proc/self/mounts shows the executor's mounts.
package enter
