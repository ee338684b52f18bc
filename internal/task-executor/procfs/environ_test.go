// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// titleEnv makes the test's binary a program that shows a title: "moved" or "lost" says what becomes of its environment.
const titleEnv = "PROCFS_TEST_TITLE"

func TestMain(m *testing.M) {
	if mode := os.Getenv(titleEnv); mode != "" {
		if err := showTitle(mode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// showTitle overwrites the own environment, tells that it is done, and waits for the end of its input. "moved" copies the
// entries elsewhere and has the pointers on the stack lead there, as nginx does.
func showTitle(mode string) error {
	mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	self := New("/proc")
	stack, err := self.startOfStack(os.Getpid())
	if err != nil {
		return err
	}
	env, err := self.Environ(os.Getpid())
	if err != nil {
		return err
	}
	args, err := readPointer(mem, stack)
	if err != nil {
		return err
	}
	first := stack + pointerSize*(2+args)
	area, err := readPointer(mem, first)
	if err != nil {
		return err
	}
	moved := []byte(strings.Join(env, "\x00") + "\x00")
	at := uint64(uintptr(unsafe.Pointer(&moved[0])))
	for i, entry := range env {
		if mode == "moved" {
			word := binary.NativeEndian.AppendUint64(nil, at)
			if _, err := mem.WriteAt(word, int64(first)+int64(i)*pointerSize); err != nil {
				return err
			}
		}
		at += uint64(len(entry)) + 1
	}
	title := make([]byte, len(moved))
	copy(title, "ess program in the foreground")
	if _, err := mem.WriteAt(title, int64(area)); err != nil {
		return err
	}
	fmt.Println("shown")
	_, err = io.Copy(io.Discard, os.Stdin)
	if !bytes.Contains(moved, []byte(titleEnv)) { // also keeps it where it is
		return errors.New("the moved environment is gone")
	}
	return err
}

func TestEnvironOfAProcessThatShowsATitle(t *testing.T) {
	for mode, want := range map[string][]string{
		"moved": {titleEnv + "=moved", "COLOR=light blue", "EMPTY="},
		"lost":  {"ess program in the foreground"},
	} {
		t.Run(mode, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{titleEnv + "=" + mode, "COLOR=light blue", "EMPTY="}
			cmd.Stderr = os.Stderr
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
					t.Error(err)
				}
			})
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "shown\n" {
				t.Fatalf("it said %q, %v", line, err)
			}
			got, err := New("/proc").Environ(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// words is a memory that starts at address 0, which holds these.
func words(values ...any) []byte {
	var mem []byte
	for _, v := range values {
		switch v := v.(type) {
		case int:
			mem = binary.NativeEndian.AppendUint64(mem, uint64(v))
		case string:
			mem = append(mem, v...)
		}
	}
	return mem
}

func TestEnvironOnStack(t *testing.T) {
	padding := strings.Repeat("\x00", 512) // a string is read in blocks
	long := strings.Repeat("x", 1000)
	cases := map[string]struct {
		mem     []byte
		stack   uint64
		want    []string
		wantErr bool
	}{
		"two arguments, two entries": {mem: words(2, 900, 900, 0, 56, 60, 0, "A=1\x00", "B=2\x00", padding), want: []string{"A=1", "B=2"}},
		"no entries":                 {mem: words(0, 0, 0)},
		"an entry of many blocks":    {mem: words(0, 0, 32, 0, "A="+long+"\x00", padding), want: []string{"A=" + long}},
		"entries without a name":     {mem: words(0, 0, 48, 54, 57, 0, "title\x00", "=1\x00", "C=3\x00", padding), want: []string{"C=3"}},
		"too many arguments":         {mem: words(1<<40, 0, 0), wantErr: true},
		"arguments without an end":   {mem: words(1, 8, 8, 0, padding), wantErr: true},
		"memory that is not there":   {mem: words(0, 0, 1<<20, 0), wantErr: true},
		"an address beyond all":      {mem: words(0, 0, -1, 0), wantErr: true},
		"a stack beyond all":         {mem: words(0, 0, 0), stack: 1<<64 - 8, wantErr: true},
		"an entry without an end":    {mem: words(0, 0, 32, 0, strings.Repeat("x", maxEnvEntry+1024)), wantErr: true},
		"too many entries":           {mem: words(0, 0, strings.Repeat(string(words(8)), maxEnvEntries+2)), wantErr: true},
		"nothing":                    {wantErr: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := environOnStack(bytes.NewReader(tc.mem), tc.stack)
			if (err != nil) != tc.wantErr {
				t.Fatalf("error %v, want one: %v", err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestIsOverwritten(t *testing.T) {
	for data, want := range map[string]bool{
		"":                          false, // a process that has none, or a zombie
		"A=1\x00B=2\x00":            false,
		"\x00\x00\x00\x00":          true,
		"aemon off;\x00\x00B=2\x00": true,
		"=1\x00B=2\x00":             true,
		"A=1\x00no name\x00B=2\x00": false,
	} {
		if got := isOverwritten([]byte(data)); got != want {
			t.Errorf("%q: overwritten %v, want %v", data, got, want)
		}
	}
}

func TestEnvEndTellsAProcessThatIsExecutingAProgram(t *testing.T) {
	stat := func(state, flags, envEnd string) string {
		fields := slices.Repeat([]string{"0"}, 50)
		fields[0], fields[statFlags], fields[statEnvEnd] = state, flags, envEnd
		return "7 (sh) " + strings.Join(fields, " ")
	}
	cases := map[string]struct {
		stat string
		want uint64
	}{
		"the end of the environment is not set yet":    {stat("R", "4194304", "0"), 0},
		"an environment that is empty has an end, too": {stat("S", "4194304", "140722"), 140722},
		"a process that has ended executes nothing":    {stat("Z", "4194304", "0"), ended},
		"nor does a thread of the kernel":              {stat("S", "2097152", "0"), ended},
		"a line that is cut off tells nothing":         {"7 (sh) R 1", ended},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "7"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "7", "stat"), []byte(c.stat), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := New(dir).envEnd(7); got != c.want {
				t.Errorf("end %d, want %d", got, c.want)
			}
		})
	}
}

// However often a process executes another program, its environment is either that of one of them, or the process is gone.
func TestEnvironOfAProcessThatExecutesProgramsAllTheTimeIsNeverEmpty(t *testing.T) {
	script := filepath.Join(t.TempDir(), "again")
	if err := os.WriteFile(script, []byte(`[ "$LEFT" -gt 0 ] || exit 0; LEFT=$((LEFT-1)) exec sh "$0"`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", script)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LEFT=300"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process
	reads := 0
	for {
		env, err := New("/proc").Environ(cmd.Process.Pid)
		if stat, statErr := New("/proc").Stat(cmd.Process.Pid); statErr != nil || !stat.Alive() {
			break
		}
		if _, ok := Lookup(env, "LEFT"); err == nil && !ok {
			t.Errorf("read %d: environment %q", reads, env)
			break
		}
		reads++
	}
	if err := <-ended; err != nil || reads < 100 {
		t.Errorf("%d reads, want 100 at least; it ended with %v", reads, err)
	}
}
