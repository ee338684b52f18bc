// SPDX-License-Identifier: Apache-2.0

package enter

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"opensandbox.io/controller/internal/task-executor/procfs"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// defaultPath is the PATH of a command whose environment has none. Programs that show a title in ps, as nginx does,
// overwrite the environment that /proc shows, so that a main process may seem to have none at all.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// rights are what the command runs with.
type rights struct {
	uid, gid   int
	groups     []int
	umask      int
	noNewPrivs bool
	// bounding, permitted, inheritable and ambient are the capability sets before the command is executed.
	bounding, permitted, inheritable, ambient procfs.Caps
}

// planRights returns the rights of a command beside main, started from a process with the rights own.
//
//	| main is           | bounding                                     | permitted |
//	|-------------------|----------------------------------------------|-----------|
//	| root              | main's bounding and effective, as far as own | bounding  |
//	| another user      | main's bounding, as far as own               | ambient   |
//	| the executor, own | as above, without SYS_PTRACE if it has that  | as above  |
//
// A command of root gets its bounding set as permitted set from the kernel, so for root bounding is cut to what main can
// do; for others it stays as wide as main's, for programs with the set-user-ID bit.
func planRights(main, own procfs.Status, ownRoot bool) rights {
	r := rights{
		uid: main.UID, gid: main.GID, groups: main.Groups, umask: main.Umask,
		noNewPrivs: main.NoNewPrivs,
		bounding:   main.Bounding & own.Bounding,
	}
	if main.UID == 0 {
		r.bounding &= main.Effective
	}
	if ownRoot && own.Permitted&sysPtrace != 0 {
		r.bounding &^= sysPtrace
	}
	r.inheritable = main.Inheritable & r.bounding & own.Permitted
	r.ambient = main.Ambient & r.inheritable
	r.permitted = r.ambient
	if main.UID == 0 {
		r.permitted = r.bounding & own.Permitted
	}
	return r
}

// sysPtrace is the capability the executor needs to look at the sandbox, and no task may have from it.
const sysPtrace = procfs.Caps(1) << unix.CAP_SYS_PTRACE

// planEnv lays overlay over base by name: an entry that is overridden keeps its place, the last of several in overlay
// wins, and names no environment should have twice stand once. What tells an executor whom to believe is left out of base: it
// is there where the executor's own container is the sandbox.
func planEnv(base, overlay []string) []string {
	var env []string
	place := map[string]int{}
	set := func(entry string, override bool) {
		name, _, ok := strings.Cut(entry, "=")
		if !ok || name == "" {
			return
		}
		at, known := place[name]
		if !known {
			place[name] = len(env)
			env = append(env, entry)
			return
		}
		if override {
			env[at] = entry
		}
	}
	for _, entry := range base {
		if name, _, _ := strings.Cut(entry, "="); name != taskexecutor.RootCertificateEnv && name != taskexecutor.PodUIDEnv {
			set(entry, false) // the first counts, as for getenv
		}
	}
	for _, entry := range overlay {
		set(entry, true)
	}
	set("PATH="+defaultPath, false)
	return env
}

// planCandidates returns the paths at which to look for a program, as execvp does.
func planCandidates(program, path string) []string {
	if strings.Contains(program, "/") {
		return []string{program}
	}
	var candidates []string
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		candidates = append(candidates, strings.TrimSuffix(dir, "/")+"/"+program)
	}
	return slices.Compact(candidates)
}
