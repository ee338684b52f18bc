// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// Bounds of an environment that is read out of a process's memory: what a stack of 8 MiB has room for, in reason.
const (
	maxArgs       = 1 << 16
	maxEnvEntries = 1 << 12
	maxEnvEntry   = 128 << 10 // the kernel's own bound
	maxEnvBytes   = 2 << 20
)

// A process that executes a program is looked at again this often, after this long.
const (
	maxExecuting   = 500
	executingPause = 2 * time.Millisecond
)

// Environ reads the environment a process was started with.
//
// A program that shows a title in ps (nginx does) writes it over its arguments and over the environment behind them,
// after it has moved the environment elsewhere. Then /proc/<pid>/environ has the rest of the title, or nothing but zeros,
// and the environment is where the pointers at the start of the stack lead to. A program that sets those aside as well
// (PostgreSQL does) shows what is left.
//
// A process that is just executing another program has no environment for a moment; it is waited for, up to a second.
func (f FS) Environ(pid int) ([]string, error) {
	data, err := f.environ(pid)
	if err != nil {
		return nil, err
	}
	env := splitEnviron(data)
	if !isOverwritten(data) {
		return env, nil
	}
	if moved, err := f.movedEnviron(pid); err == nil && len(moved) > 0 {
		return moved, nil
	}
	return env, nil
}

// Fields of /proc/<pid>/stat, counted from the state.
const (
	statFlags  = 6
	statEnvEnd = 48
)

// kernelThread is the flag of a process that never executes a program.
const kernelThread = 0x00200000

// environ reads the file. If it is empty it is read again until that is known to be the process's own doing.
func (f FS) environ(pid int) ([]byte, error) {
	for try := 0; ; try++ {
		before := f.envEnd(pid)
		data, err := os.ReadFile(f.Path(pid, "environ"))
		if err != nil || len(data) > 0 || try == maxExecuting {
			return data, err
		}
		switch f.envEnd(pid) {
		case 0:
			<-time.After(executingPause) //nolint:forbidigo // the kernel gives no event for the end of an exec
		case before:
			return data, nil // the same program before and after: it has none
		}
	}
}

// ended stands for the end of the environment of what executes nothing.
const ended = math.MaxUint64

// envEnd returns where the environment of a process ends, which tells one program that it executes from the next. It is 0 in
// the middle of executing one: the kernel has not set it down yet.
func (f FS) envEnd(pid int) uint64 {
	data, err := os.ReadFile(f.Path(pid, "stat"))
	if err != nil {
		return ended
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) <= statEnvEnd || fields[0] == "Z" || fields[0] == "X" {
		return ended
	}
	if flags, err := strconv.ParseUint(fields[statFlags], 10, 64); err != nil || flags&kernelThread != 0 {
		return ended
	}
	end, err := strconv.ParseUint(fields[statEnvEnd], 10, 64)
	if err != nil {
		return ended
	}
	return end
}

func splitEnviron(data []byte) []string {
	var env []string
	for entry := range strings.SplitSeq(string(data), "\x00") {
		if entry != "" {
			env = append(env, entry)
		}
	}
	return env
}

// isOverwritten reports whether the first entry of an environment is none. A title covers the environment from its start.
func isOverwritten(environ []byte) bool {
	first, _, _ := bytes.Cut(environ, []byte{0})
	return len(environ) > 0 && bytes.IndexByte(first, '=') < 1
}

// movedEnviron reads the environment by its pointers.
func (f FS) movedEnviron(pid int) ([]string, error) {
	stack, err := f.startOfStack(pid)
	if err != nil {
		return nil, err
	}
	mem, err := os.Open(f.Path(pid, "mem"))
	if err != nil {
		return nil, err
	}
	defer mem.Close() //nolint:errcheck // only read from
	return environOnStack(mem, stack)
}

// startOfStack returns the address at which the kernel put the number of arguments of a process.
func (f FS) startOfStack(pid int) (uint64, error) {
	data, err := os.ReadFile(f.Path(pid, "stat"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) <= statStack {
		return 0, ErrMalformed
	}
	stack, err := strconv.ParseUint(fields[statStack], 10, 64)
	if err != nil || stack == 0 {
		return 0, fmt.Errorf("start of the stack of process %d is %q: %w", pid, fields[statStack], ErrMalformed)
	}
	return stack, nil
}

// pointerSize is that of the process looked at; one of 32 bits does not pass the checks below.
const pointerSize = 8

// environOnStack reads the environment from the start of a stack: the number of arguments, as many pointers, 0, the
// pointers to the environment, 0. What is read belongs to somebody else, and may be anything. Entries without a name are
// left out.
func environOnStack(mem io.ReaderAt, stack uint64) ([]string, error) {
	args, err := readPointer(mem, stack)
	if err != nil {
		return nil, err
	}
	if args > maxArgs {
		return nil, fmt.Errorf("%w: %d arguments", ErrMalformed, args)
	}
	at := stack + pointerSize*(1+args)
	end, err := readPointer(mem, at)
	if err != nil {
		return nil, err
	}
	if end != 0 {
		return nil, fmt.Errorf("%w: the arguments have no end", ErrMalformed)
	}
	var env []string
	size := 0
	for range maxEnvEntries {
		at += pointerSize
		entry, err := readPointer(mem, at)
		if err != nil {
			return nil, err
		}
		if entry == 0 {
			return env, nil
		}
		text, err := readString(mem, entry)
		if err != nil {
			return nil, err
		}
		if size += len(text); size > maxEnvBytes {
			return nil, fmt.Errorf("%w: the environment is larger than %d bytes", ErrMalformed, maxEnvBytes)
		}
		if strings.IndexByte(text, '=') > 0 {
			env = append(env, text)
		}
	}
	return nil, fmt.Errorf("%w: the environment has more than %d entries", ErrMalformed, maxEnvEntries)
}

func readPointer(mem io.ReaderAt, at uint64) (uint64, error) {
	var word [pointerSize]byte
	if err := readMemory(mem, at, word[:]); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(word[:]), nil
}

// readString reads up to the next zero, in blocks that end where a page does: the next page may not be there.
func readString(mem io.ReaderAt, at uint64) (string, error) {
	const block = 256 // divides every size of a page
	var text []byte
	for len(text) <= maxEnvEntry {
		part := make([]byte, block-at%block)
		if err := readMemory(mem, at, part); err != nil {
			return "", err
		}
		if end := bytes.IndexByte(part, 0); end >= 0 {
			return string(append(text, part[:end]...)), nil
		}
		text = append(text, part...)
		at += uint64(len(part))
	}
	return "", fmt.Errorf("%w: an entry of the environment is longer than %d bytes", ErrMalformed, maxEnvEntry)
}

func readMemory(mem io.ReaderAt, at uint64, into []byte) error {
	if at > math.MaxInt64-uint64(len(into)) {
		return fmt.Errorf("%w: address %x", ErrMalformed, at)
	}
	if n, err := mem.ReadAt(into, int64(at)); n < len(into) {
		return fmt.Errorf("read memory at %x: %w", at, err)
	}
	return nil
}
