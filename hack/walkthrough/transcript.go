// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// patience is how long one command may run.
const patience = 2 * time.Minute

// step is one command of the list.
type step struct {
	// comment is shown in the line above the command. "": there is none.
	comment string
	// command is one line of bash.
	command string
	// fails tells that the command is expected to end with another code than 0.
	fails bool
}

// shownStep is a step that was run.
type shownStep struct {
	step
	// output is what the command wrote to stdout and stderr, in its order.
	output string
}

// parse reads a list of commands: one a line, "# TEXT" above one is its comment, "! " before one says that it fails, and
// lines that begin with "##" or are blank are for those who read the list.
func parse(list string) ([]step, error) {
	var steps []step
	comment := ""
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		switch {
		case line == "", strings.HasPrefix(line, "##"):
		case strings.HasPrefix(line, "# "):
			if comment != "" {
				return nil, fmt.Errorf("no command follows the comment %q", comment)
			}
			comment = strings.TrimPrefix(line, "# ")
		default:
			command, fails := strings.CutPrefix(line, "! ")
			steps = append(steps, step{comment: comment, command: command, fails: fails})
			comment = ""
		}
	}
	if comment != "" {
		return nil, fmt.Errorf("no command follows the comment %q", comment)
	}
	if len(steps) == 0 {
		return nil, errors.New("there is no command")
	}
	return steps, nil
}

// play runs the commands one after the other and tells of each on progress. Each sees the code of the one before as $?.
func play(ctx context.Context, steps []step, progress io.Writer) ([]shownStep, error) {
	var shown []shownStep
	code := 0
	for _, s := range steps {
		fmt.Fprintf(progress, "$ %s\n", s.command)
		var output string
		var err error
		output, code, err = shell(ctx, s.command, code)
		fmt.Fprint(progress, output)
		if err != nil {
			return nil, fmt.Errorf("run %q: %w", s.command, err)
		}
		if s.fails != (code != 0) {
			return nil, fmt.Errorf("%q ended with code %d, which is not what the list of commands expects", s.command, code)
		}
		shown = append(shown, shownStep{step: s, output: output})
	}
	return shown, nil
}

// shell runs one line of bash, in which $? is previous at first, and returns its output and the code with which it ended.
func shell(ctx context.Context, line string, previous int) (output string, code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	bash := exec.CommandContext(ctx, "bash", "-c", fmt.Sprintf("(exit %d)\n%s", previous, line))
	bash.WaitDelay = 5 * time.Second // where bash was ended and what it started still holds the output
	written, err := bash.CombinedOutput()
	if ctx.Err() != nil {
		return string(written), 0, fmt.Errorf("not done within %s: %w", patience, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return string(written), exit.ExitCode(), nil
	}
	return string(written), 0, err
}
