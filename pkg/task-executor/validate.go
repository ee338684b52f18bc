// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxTimeoutSeconds is the longest timeout a time.Duration can hold, some 292 years.
const maxTimeoutSeconds = int64(math.MaxInt64 / time.Second)

// ValidateSet checks a desired set: every task on its own, no name twice, at most MaxTasks of them.
func ValidateSet(tasks []Task) error {
	if len(tasks) > MaxTasks {
		return fmt.Errorf("%d tasks in one set: at most %d are taken", len(tasks), MaxTasks)
	}
	seen := make(map[string]struct{}, len(tasks))
	for i := range tasks {
		if err := tasks[i].Validate(); err != nil {
			return fmt.Errorf("task %d: %w", i, err)
		}
		if _, twice := seen[tasks[i].Name]; twice {
			return fmt.Errorf("task %d: name %q stands twice in one set", i, tasks[i].Name)
		}
		seen[tasks[i].Name] = struct{}{}
	}
	return nil
}

// Validate checks what a caller chose: the name and the process.
func (t *Task) Validate() error {
	if err := ValidateName(t.Name); err != nil {
		return err
	}
	if err := t.Process.Validate(); err != nil {
		return fmt.Errorf("%q: %w", t.Name, err)
	}
	return nil
}

// ValidateName checks that a name can be the name of a file: 1 to 253 bytes of UTF-8, no slash, no control or formatting
// character, and not made of dots alone.
func ValidateName(name string) error {
	switch {
	case name == "":
		return errors.New("name must not be empty")
	case len(name) > MaxNameBytes:
		return fmt.Errorf("name has %d bytes: at most %d are taken", len(name), MaxNameBytes)
	case !utf8.ValidString(name):
		return fmt.Errorf("name %q is not valid UTF-8", name)
	case strings.ContainsAny(name, `/\`):
		return fmt.Errorf("name %q must not contain a slash", name)
	case strings.Trim(name, ".") == "":
		return fmt.Errorf("name %q must not consist of dots alone", name)
	case strings.ContainsFunc(name, isInvisible):
		return fmt.Errorf("name %q must not contain control characters", name)
	}
	return nil
}

// Validate checks that a process can be handed to the kernel.
func (p *Process) Validate() error {
	if len(p.Command) == 0 || p.Command[0] == "" {
		return errors.New("process.command must name a program")
	}
	if p.TimeoutSeconds < 0 || p.TimeoutSeconds > maxTimeoutSeconds {
		return fmt.Errorf("process.timeoutSeconds is %d: it must be between 0 (no limit) and %d", p.TimeoutSeconds, maxTimeoutSeconds)
	}
	for _, s := range [][]string{p.Command, p.Args, {p.WorkingDir}} {
		for i := range s {
			if strings.ContainsRune(s[i], 0) {
				return errors.New("process.command, args and workingDir must not contain a zero byte")
			}
		}
	}
	for i, e := range p.Env {
		if e.Name == "" || strings.ContainsAny(e.Name, "=\x00") || strings.ContainsRune(e.Value, 0) {
			return fmt.Errorf("process.env[%d]: a name must not be empty or contain %q, and nothing may contain a zero byte", i, "=")
		}
	}
	return nil
}

// isInvisible reports control and formatting characters, those that turn the direction of text among them.
func isInvisible(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
}
