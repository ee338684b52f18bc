// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"os"
	"regexp"
	"strings"
)

// Container is where a process belongs, as far as its cgroup tells.
type Container struct {
	// Pod is the path of the cgroup that holds the pod's containers, as the reader sees it.
	Pod string
	// ID names the container within Pod. It is empty for the reader's own container when the reader has a cgroup
	// namespace of its own, and for a process in no container at all.
	ID string
}

// Container reads which container a process belongs to.
func (f FS) Container(pid int) (Container, error) {
	data, err := os.ReadFile(f.Path(pid, "cgroup"))
	if err != nil {
		return Container{}, err
	}
	return parseCgroup(string(data)), nil
}

// ownPod is Container.Pod of the reader's own pod when the reader has a cgroup namespace of its own: its container is
// the root, so the pod is one up.
const ownPod = "/.."

// parseCgroup finds the container in the lines "hierarchy:controllers:path" of /proc/<pid>/cgroup. The paths are those
// the reader sees:
//
//	| cgroup namespace of the reader | own container    | other container of the pod | other pod             |
//	|--------------------------------|------------------|----------------------------|-----------------------|
//	| host's (v1, v2)                | /kube../podU/ID  | /kube../podU/ID2           | /kube../podV/ID       |
//	| its own (v1, v2)               | /                | /../ID2                    | /../../podV/ID        |
//
// ID may be dressed up ("cri-containerd-<id>.scope"), and containers may have cgroups below theirs. A line that names a
// container wins over one that doesn't: in a mix of v1 and v2 only one of the two holds the containers.
func parseCgroup(data string) Container {
	var best Container
	bestRank := -1
	for line := range strings.SplitSeq(data, "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
			continue
		}
		c, rank := parseCgroupPath(parts[2])
		if rank > bestRank {
			best, bestRank = c, rank
		}
	}
	return best
}

// How much a path tells: nothing, a neighbour by its position, a container by its ID, the same below a pod's cgroup.
const (
	rankNone = iota
	rankNeighbour
	rankID
	rankPodID
)

func parseCgroupPath(path string) (Container, int) {
	segments := strings.Split(strings.Trim(path, "/"), "/")
	if up := countUp(segments); up > 0 {
		return relativeContainer(segments, up)
	}
	pod := -1
	for i, segment := range segments {
		if isPodSegment(segment) {
			pod = i
		}
	}
	for i := pod + 1; i < len(segments); i++ {
		if id := containerID(segments[i]); id != "" {
			rank := rankID
			if pod >= 0 {
				rank = rankPodID
			}
			return Container{Pod: "/" + strings.Join(segments[:i], "/"), ID: id}, rank
		}
	}
	return Container{Pod: ownPod}, rankNone
}

// relativeContainer reads a path that leaves the reader's own cgroup, up times "..".
func relativeContainer(segments []string, up int) (Container, int) {
	rest := segments[up:]
	for i, segment := range rest {
		if id := containerID(segment); id != "" {
			return Container{Pod: "/" + strings.Join(segments[:up+i], "/"), ID: id}, rankPodID
		}
	}
	if len(rest) == 0 {
		return Container{Pod: "/" + strings.Join(segments, "/"), ID: "/"}, rankNeighbour
	}
	return Container{Pod: "/" + strings.Join(segments[:up], "/"), ID: rest[0]}, rankNeighbour
}

func countUp(segments []string) int {
	n := 0
	for n < len(segments) && segments[n] == ".." {
		n++
	}
	return n
}

var (
	containerIDPattern = regexp.MustCompile(`[0-9a-f]{64}`)
	podPattern         = regexp.MustCompile(`(^|-)pod[0-9a-f]{8}[-_0-9a-f]{24,}(\.slice)?$`)
)

// containerID returns the 64 hexadecimal digits that every runtime has in the name of a container's cgroup.
func containerID(segment string) string {
	return containerIDPattern.FindString(segment)
}

// isPodSegment recognises "pod<uid>" and "kubepods-burstable-pod<uid_with_underscores>.slice".
func isPodSegment(segment string) bool {
	return podPattern.MatchString(segment)
}
