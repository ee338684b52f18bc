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
	values := map[string]string{}
	for line := range strings.SplitSeq(data, "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			values[name] = strings.TrimSpace(value)
		}
	}
	var s Status
	fields := []struct {
		name  string
		parse func(value string) error
	}{
		{"Uid", effectiveID(&s.UID)},
		{"Gid", effectiveID(&s.GID)},
		{"Groups", numbers(&s.Groups)},
		{"Umask", octal(&s.Umask)},
		{"CapInh", caps(&s.Inheritable)},
		{"CapPrm", caps(&s.Permitted)},
		{"CapEff", caps(&s.Effective)},
		{"CapBnd", caps(&s.Bounding)},
		{"CapAmb", caps(&s.Ambient)},
		{"NoNewPrivs", flag(&s.NoNewPrivs)},
	}
	for _, field := range fields {
		value, ok := values[field.name]
		if !ok {
			return Status{}, fmt.Errorf("%w: no field %s", ErrMalformed, field.name)
		}
		if err := field.parse(value); err != nil {
			return Status{}, fmt.Errorf("%w: field %s: %w", ErrMalformed, field.name, err)
		}
	}
	return s, nil
}

// effectiveID takes the second of the real, the effective, the saved and the file system's id.
func effectiveID(to *int) func(string) error {
	return func(value string) error {
		var ids []int
		if err := numbers(&ids)(value); err != nil {
			return err
		}
		if len(ids) != 4 {
			return fmt.Errorf("%d ids instead of 4", len(ids))
		}
		*to = ids[1]
		return nil
	}
}

func numbers(to *[]int) func(string) error {
	return func(value string) error {
		for field := range strings.FieldsSeq(value) {
			n, err := strconv.ParseUint(field, 10, 32)
			if err != nil {
				return err
			}
			*to = append(*to, int(n))
		}
		return nil
	}
}

func octal(to *int) func(string) error {
	return func(value string) error {
		n, err := strconv.ParseUint(value, 8, 12)
		*to = int(n)
		return err
	}
}

func caps(to *Caps) func(string) error {
	return func(value string) error {
		n, err := strconv.ParseUint(value, 16, 64)
		*to = Caps(n)
		return err
	}
}

func flag(to *bool) func(string) error {
	return func(value string) error {
		if value != "0" && value != "1" {
			return fmt.Errorf("value %q", value)
		}
		*to = value == "1"
		return nil
	}
}
