// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Caps is a set of capabilities, bit n for capability n.
type Caps uint64

// Status is what /proc/<pid>/status says about the rights of a process.
type Status struct {
	// UID and GID are the effective ones.
	UID, GID int
	Groups   []int
	Umask    int
	// Inheritable, Permitted, Effective, Bounding and Ambient are its capability sets.
	Inheritable, Permitted, Effective, Bounding, Ambient Caps
	// NoNewPrivs is the flag of the same name.
	NoNewPrivs bool
}

// Status reads the rights of a process.
func (f FS) Status(pid int) (Status, error) {
	data, err := os.ReadFile(f.Path(pid, "status"))
	if err != nil {
		return Status{}, err
	}
	s, err := parseStatus(string(data))
	if err != nil {
		return Status{}, fmt.Errorf("parse status of process %d: %w", pid, err)
	}
	return s, nil
}

// parseStatus insists on every field it needs: a right that can't be read must not become a right that is granted.
func parseStatus(data string) (Status, error) {
	fields := map[string]string{}
	for line := range strings.SplitSeq(data, "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	var s Status
	var err error
	read := func(name string, parse func(value string) error) {
		value, ok := fields[name]
		if err != nil {
			return
		}
		if !ok {
			err = fmt.Errorf("%w: no field %s", ErrMalformed, name)
			return
		}
		if perr := parse(value); perr != nil {
			err = fmt.Errorf("%w: field %s: %w", ErrMalformed, name, perr)
		}
	}
	caps := func(to *Caps) func(string) error {
		return func(value string) error {
			n, err := strconv.ParseUint(value, 16, 64)
			*to = Caps(n)
			return err
		}
	}
	effectiveID := func(to *int) func(string) error {
		return func(value string) error {
			ids := strings.Fields(value) // real, effective, saved, file system
			if len(ids) != 4 {
				return fmt.Errorf("%d ids instead of 4", len(ids))
			}
			for i, id := range ids {
				n, err := strconv.ParseUint(id, 10, 32)
				if err != nil {
					return err
				}
				if i == 1 {
					*to = int(n)
				}
			}
			return nil
		}
	}
	read("Uid", effectiveID(&s.UID))
	read("Gid", effectiveID(&s.GID))
	read("Groups", func(value string) error {
		for group := range strings.FieldsSeq(value) {
			n, err := strconv.ParseUint(group, 10, 32)
			if err != nil {
				return err
			}
			s.Groups = append(s.Groups, int(n))
		}
		return nil
	})
	read("Umask", func(value string) error {
		n, err := strconv.ParseUint(value, 8, 12)
		s.Umask = int(n)
		return err
	})
	read("CapInh", caps(&s.Inheritable))
	read("CapPrm", caps(&s.Permitted))
	read("CapEff", caps(&s.Effective))
	read("CapBnd", caps(&s.Bounding))
	read("CapAmb", caps(&s.Ambient))
	read("NoNewPrivs", func(value string) error {
		switch value {
		case "0":
		case "1":
			s.NoNewPrivs = true
		default:
			return fmt.Errorf("value %q", value)
		}
		return nil
	})
	if err != nil {
		return Status{}, err
	}
	return s, nil
}
