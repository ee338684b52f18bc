// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"opensandbox.io/controller/api/v1alpha1"
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

// ExitInterrupted is the exit code of a shell's command that SIGINT ended.
const ExitInterrupted = 130

// IndexError says that a batch has no such index.
func IndexError(sb *v1alpha1.BatchSandbox, index int) error {
	switch replicas := Replicas(sb); replicas {
	case 0:
		return fmt.Errorf("batchsandbox %s has no sandboxes: its replicas are 0", sb.Name)
	case 1:
		return fmt.Errorf("batchsandbox %s has no index %d: it has one sandbox, index 0", sb.Name, index)
	default:
		return fmt.Errorf("batchsandbox %s has no index %d: its indexes are 0 to %d", sb.Name, index, replicas-1)
	}
}

// IsRefused is true for what the user may not do, or for an object that doesn't exist: a further try won't help.
func IsRefused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err)
}

// Plain is told as it is, without "error: " before it.
type Plain string

func (p Plain) Error() string { return string(p) }
