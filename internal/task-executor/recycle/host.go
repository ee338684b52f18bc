// SPDX-License-Identifier: Apache-2.0

package recycle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"opensandbox.io/controller/internal/task-executor/procfs"
)

// Host is what the containers of a pod share and what outlives them.
type Host struct {
	// Files are written by the kubelet or the runtime for all containers of the pod.
	Files []string
	// Memory are directories of files in memory that all containers share.
	Memory []string
	// Lists are the lists of System V IPC objects.
	Lists []string
	// Since is when the oldest process of the restarted pod was started: what is older is the last user's.
	Since time.Time
}

// RealHost is the pod this process runs in.
func RealHost(proc procfs.FS, self int) (Host, error) {
	since, err := oldestProcess(proc, self)
	if err != nil {
		return Host{}, fmt.Errorf("find the start of the pod's processes: %w", err)
	}
	return Host{
		Files:  []string{"/etc/resolv.conf", "/etc/hosts", "/etc/hostname"},
		Memory: []string{"/dev/shm", "/dev/mqueue"},
		Lists:  []string{"/proc/sysvipc/shm", "/proc/sysvipc/sem", "/proc/sysvipc/msg"},
		Since:  since,
	}, nil
}

// ticksPerSecond is the unit of start times, the same on every Linux.
const ticksPerSecond = 100

// oldestProcess is when the oldest process but the pod's pause container was started, for that one is not restarted.
func oldestProcess(proc procfs.FS, self int) (time.Time, error) {
	processes, err := proc.List()
	if err != nil {
		return time.Time{}, err
	}
	oldest := uint64(0)
	for _, p := range processes {
		if p.PID == 1 && self != 1 {
			continue
		}
		if oldest == 0 || p.Start < oldest {
			oldest = p.Start
		}
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}, err
	}
	age := time.Duration(up.Nano()) - time.Duration(oldest)*(time.Second/ticksPerSecond) //nolint:gosec // 58 years of ticks fit 31 bits
	return time.Now().Add(-age), nil                                                     //nolint:forbidigo // compared with times of files
}

// maxSharedFile bounds what is read of a shared file.
const maxSharedFile = 1 << 20

// readShared reads a file that somebody else may have replaced by anything.
func readShared(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSharedFile+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(data) > maxSharedFile {
		return nil, errors.New("it is larger than 1 MiB")
	}
	return data, nil
}

// Empty removes what the last user left in shared memory, and says what it could not. A file that is not older than the
// restarted processes may be one of theirs and stays; it may be the last user's too, hence it counts as left.
func (h Host) Empty() (left []string) {
	for _, dir := range h.Memory {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			left = append(left, fmt.Sprintf("%s can't be read: %v", dir, err))
			continue
		}
		for _, e := range entries {
			if reason := h.remove(filepath.Join(dir, e.Name())); reason != "" {
				left = append(left, reason)
			}
		}
	}
	return left
}

func (h Host) remove(path string) (left string) {
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return ""
		}
		return fmt.Sprintf("%s can't be looked at: %v", path, err)
	}
	if changed := time.Unix(stat.Ctim.Unix()); !changed.Before(h.Since) {
		return path + " may be the last user's or the next one's"
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Sprintf("%s can't be removed: %v", path, err)
	}
	return ""
}

// IPC says which lists have System V IPC objects: nobody can tell whose they are.
func (h Host) IPC() (left []string) {
	for _, path := range h.Lists {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without System V IPC
		}
		if err != nil {
			left = append(left, fmt.Sprintf("%s can't be read: %v", path, err))
			continue
		}
		if objects := bytes.Count(bytes.TrimSpace(data), []byte("\n")); objects > 0 { // the first line has the headings
			left = append(left, fmt.Sprintf("%s has %d System V IPC objects", path, objects))
		}
	}
	return left
}
