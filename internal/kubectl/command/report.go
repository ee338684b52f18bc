// SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"opensandbox.io/controller/internal/kubectl/cluster"
)

// report tells of an error as kubectl does, and returns the exit code: 1 where the error has none of its own.
func report(cmd *cobra.Command, err error, out io.Writer) int {
	if err == nil {
		return 0
	}
	var exit *cluster.ExitError
	if errors.As(err, &exit) {
		if exit.Err != nil {
			fmt.Fprintln(out, message(exit.Err))
		}
		return exit.Code
	}
	fmt.Fprintln(out, message(err))
	var usage *cluster.UsageError
	if errors.As(err, &usage) {
		cmd = usage.Command
	} else if !isUsage(err) {
		return 1
	}
	fmt.Fprintf(out, "See '%s --help' for usage.\n", cmd.CommandPath())
	return 1
}

// isUsage finds the errors of cobra about arguments, which have no type.
func isUsage(err error) bool {
	text := err.Error()
	for _, part := range []string{"unknown command ", "arg(s), ", "required flag(s) ", "if any flags in the group "} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// message returns what to tell of an error.
//
//	| error                                 | told                                               |
//	|---------------------------------------|----------------------------------------------------|
//	| the API server doesn't have our kinds | that, and how to install them                      |
//	| another one of the API server         | Error from server (Reason): ...                    |
//	| refused connection                    | which server, and a question, as kubectl asks it   |
//	| Plain                                 | its text                                           |
//	| any other                             | error: ...                                         |
func message(err error) string {
	if plain := cluster.Plain(""); errors.As(err, &plain) {
		return string(plain)
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return serverMessage(err, status)
	}
	var at *url.Error
	if errors.As(err, &at) && utilnet.IsConnectionRefused(err) {
		host := at.URL
		if server, parseErr := url.Parse(at.URL); parseErr == nil {
			host = server.Host
		}
		return fmt.Sprintf("The connection to the server %s was refused - did you specify the right host or port?", host)
	}
	return "error: " + err.Error()
}

func serverMessage(err error, status apierrors.APIStatus) string {
	s := status.Status()
	if cluster.IsNotInstalled(err) {
		return "error: the server doesn't have the kinds BatchSandbox and Pool of sandbox.opensandbox.io/v1alpha1: " +
			"install the controller, or name another cluster with --context"
	}
	reason := ""
	if s.Reason != "" && s.Reason != "Unknown" {
		reason = fmt.Sprintf(" (%s)", s.Reason)
	}
	return fmt.Sprintf("Error from server%s: %v", reason, err)
}
