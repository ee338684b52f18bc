// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// UsageError is a mistake in the command line: it is told with a hint at the help of its command.
type UsageError struct {
	Command *cobra.Command
	message string
}

// UsageErrorf returns a mistake in the command line of cmd.
func UsageErrorf(cmd *cobra.Command, format string, args ...any) error {
	return &UsageError{Command: cmd, message: fmt.Sprintf(format, args...)}
}

func (e *UsageError) Error() string { return e.message }

// ExitError ends the program with a code. Err is told first; nil tells nothing.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// IsNotInstalled is true for the answer of an API server that doesn't have the definitions of this API: it is about no object.
func IsNotInstalled(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	return strings.Contains(status.Status().Message, "could not find the requested resource")
}
