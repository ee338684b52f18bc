// SPDX-License-Identifier: Apache-2.0

// Command walkthrough runs the commands of a list against the cluster of KUBECONFIG, and draws them with their output as a
// terminal in an SVG. The picture is written only when every command ended as the list says.
//
//	go run ./hack/walkthrough LIST PICTURE
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const (
	// title is what the bar of the window says.
	title = "kubectl sandbox"

	// largest bounds the picture, in bytes: it is loaded with a README.
	largest = 60_000
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "walkthrough:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: walkthrough LIST PICTURE")
	}
	list, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("read the list of commands: %w", err)
	}
	steps, err := parse(string(list))
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	shown, err := play(ctx, steps, os.Stderr)
	if err != nil {
		return err
	}
	picture := render(title, shown)
	if len(picture) > largest {
		return fmt.Errorf("the picture has %d bytes, more than %d: show less", len(picture), largest)
	}
	if err := os.WriteFile(args[1], picture, 0o644); err != nil {
		return fmt.Errorf("write the picture: %w", err)
	}
	return nil
}
