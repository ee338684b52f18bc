// SPDX-License-Identifier: Apache-2.0

// Command licenses judges the licences of everything that is linked into the binaries, and writes their texts to
// THIRD_PARTY_NOTICES. A licence that isn't allowed, and a module without one, is an error.
//
//	go -C hack/licenses run . [-check]
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
)

// noticesFile is written to the top of the checkout.
const noticesFile = "THIRD_PARTY_NOTICES"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o := options{}
	flag.StringVar(&o.checkout, "checkout", "../..", "top of the checkout")
	flag.BoolVar(&o.check, "check", false, "compare with "+noticesFile+" and write nothing")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

type options struct {
	checkout string
	check    bool
}

func run(ctx context.Context, o options) error {
	l, err := findLinked(ctx, o.checkout)
	if err != nil {
		return err
	}
	findings, problems := ours.judge(l)
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	want := notices(findings)
	name := filepath.Join(o.checkout, noticesFile)
	if !o.check {
		return os.WriteFile(name, want, 0o644)
	}
	got, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New(noticesFile + " is not what the linked modules say. fix: make licenses, and commit it")
	}
	return nil
}
