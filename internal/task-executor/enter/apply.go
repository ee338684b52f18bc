// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enter

import (
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

// maxCap is one more than the largest number a capability can have.
const maxCap = 64

// apply takes the rights, on this thread alone. The order matters: capabilities leave the bounding set while SETPCAP is
// there, and the user changes while SETUID is there.
func (r rights) apply(own procfs.Status) error {
	unix.Umask(r.umask)
	if err := r.dropBounding(own.Bounding); err != nil {
		return err
	}
	if err := r.becomeUser(own); err != nil {
		return err
	}
	if err := r.setCaps(); err != nil {
		return err
	}
	if !r.noNewPrivs {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}

func (r rights) dropBounding(own procfs.Caps) error {
	for c := range maxCap {
		bit := procfs.Caps(1) << c
		if own&bit == 0 || r.bounding&bit != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return refused(fmt.Sprintf("drop capability %d, which the sandbox's main process has not", c), err)
		}
	}
	return nil
}

// becomeUser changes only what differs, so that an executor that isn't root can still run tasks as itself.
func (r rights) becomeUser(own procfs.Status) error {
	if !slices.Equal(r.groups, own.Groups) {
		if err := setGroups(r.groups); err != nil {
			return refused("take the groups of the sandbox's main process", err)
		}
	}
	if r.gid != own.GID {
		if err := rawSyscall(unix.SYS_SETRESGID, uintptr(r.gid), uintptr(r.gid), uintptr(r.gid)); err != nil {
			return refused(fmt.Sprintf("become group %d", r.gid), err)
		}
	}
	if r.uid == own.UID {
		return nil
	}
	if r.inheritable != 0 { // else none is left to be kept
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("keep capabilities: %w", err)
		}
	}
	if err := rawSyscall(unix.SYS_SETRESUID, uintptr(r.uid), uintptr(r.uid), uintptr(r.uid)); err != nil {
		return refused(fmt.Sprintf("become user %d", r.uid), err)
	}
	return nil
}

// setGroups changes this thread only, as rawSyscall does: the functions of package syscall change all threads.
func setGroups(groups []int) error {
	ids := make([]uint32, len(groups)+1) // one more, so that the address of the first exists
	for i, g := range groups {
		ids[i] = uint32(g)
	}
	return rawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&ids[0])), 0)
}

func rawSyscall(number, a, b, c uintptr) error {
	if _, _, errno := unix.RawSyscall(number, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

func (r rights) setCaps() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		shift := 32 * i
		data[i] = unix.CapUserData{
			Effective:   uint32(r.permitted >> shift),
			Permitted:   uint32(r.permitted >> shift),
			Inheritable: uint32(r.inheritable >> shift),
		}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return refused("take the capabilities of the sandbox's main process", err)
	}
	for c := range maxCap {
		if r.ambient&(1<<c) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return fmt.Errorf("raise ambient capability %d: %w", c, err)
		}
	}
	return nil
}
