// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// host is what all real nodes on this machine share, whoever started them: settings of the kernel that a kubelet changes
// when it starts, and folders that serve as mount points. The first node notes how things were, the last one puts them
// back. No earlier one may: a removed folder takes the mounts of other namespaces with it.
type host struct {
	file   string // the record; gone with a reboot, like what it tells of
	lock   string // a folder that exists: locked as it is, nothing is left behind
	sysctl string // root of the kernel's settings
}

func theHost() host {
	return host{file: "/run/opensandbox-nodes.json", lock: "/run", sysctl: "/proc/sys"}
}

type hostRecord struct {
	Nodes    []string          `json:"nodes"` // ids of clusters
	Sysctls  map[string]string `json:"sysctls"`
	MadeDirs []string          `json:"madeDirs"`
}

// sysctls are the settings of the whole machine that a kubelet changes.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// join counts a node in and makes the mount points that are missing.
func (h host) join(id string, mountPoints []string) error {
	return h.change(func(r *hostRecord) error {
		if len(r.Nodes) == 0 {
			r.Sysctls = h.readSysctls()
		}
		if !slices.Contains(r.Nodes, id) {
			r.Nodes = append(r.Nodes, id)
		}
		// Noted first: a crash after this line leaves at most a note of a folder that does not exist.
		r.MadeDirs = append(r.MadeDirs, missingDirs(mountPoints)...)
		if err := h.save(r); err != nil {
			return err
		}
		for _, dir := range mountPoints {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		return nil
	})
}

// missingDirs lists the folders, with their parents, that do not exist.
func missingDirs(dirs []string) []string {
	var missing []string
	for _, dir := range dirs {
		for ; !exists(dir) && !slices.Contains(missing, dir); dir = filepath.Dir(dir) {
			missing = append(missing, dir)
		}
	}
	return missing
}

// leave counts a node out; a node that never joined may leave too.
func (h host) leave(id string) error {
	return h.change(func(r *hostRecord) error {
		if !slices.Contains(r.Nodes, id) {
			return nil
		}
		r.Nodes = slices.DeleteFunc(r.Nodes, func(other string) bool { return other == id })
		if len(r.Nodes) > 0 {
			return nil
		}
		errs := []error{h.restoreSysctls(r.Sysctls)}
		slices.SortFunc(r.MadeDirs, func(a, b string) int { return len(b) - len(a) }) // a folder before its parent
		for _, dir := range r.MadeDirs {
			errs = append(errs, removeEmpty(dir))
		}
		return errors.Join(errs...)
	})
}

// change runs fn on the record, alone, and saves it; a record without nodes is removed.
func (h host) change(fn func(r *hostRecord) error) (err error) {
	dir, err := os.Open(h.lock)
	if err != nil {
		return err
	}
	defer closeInto(dir, &err) // drops the lock
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", h.lock, err)
	}
	var r hostRecord
	data, err := os.ReadFile(h.file)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w; remove it when no cluster is up", h.file, err)
	}
	err = fn(&r)
	return errors.Join(err, h.save(&r))
}

func (h host) save(r *hostRecord) error {
	if len(r.Nodes) == 0 {
		if err := os.Remove(h.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(h.file, append(data, '\n'), 0o600)
}

func (h host) readSysctls() map[string]string {
	values := map[string]string{}
	for _, name := range sysctls {
		data, err := os.ReadFile(filepath.Join(h.sysctl, name))
		if err != nil {
			continue // not in this kernel
		}
		values[name] = strings.TrimSpace(string(data))
	}
	return values
}

func (h host) restoreSysctls(values map[string]string) error {
	var errs []error
	for _, name := range sysctls {
		if value, ok := values[name]; ok {
			errs = append(errs, os.WriteFile(filepath.Join(h.sysctl, name), []byte(value), 0o644))
		}
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// removeEmpty leaves a folder that somebody uses by now.
func removeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return nil //nolint:nilerr // gone already, or not ours alone any more
	}
	return os.Remove(dir)
}
