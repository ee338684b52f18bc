// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Options say what to measure.
type Options struct {
	// Scenarios are what to run, in this order.
	Scenarios []scenario
	// Sizes replace those of a scenario where they are set.
	Sizes sizes
	// Runs is how often each scenario is run; medians are told.
	Runs int
	// Checkout is the root of the checkout.
	Checkout string
	// Controller is the path of the controller's binary.
	Controller string
	// Flags are those of the controller beside its addresses: none, but to find out what one of them changes.
	Flags []string
	// Results is the directory that results and logs go to.
	Results string
	// Document is a file whose tables are replaced by what was measured; "" for none.
	Document string
	// Profile says whether profiles of the controller are taken.
	Profile bool
	// Cluster is the name of the cluster, PodCIDR the addresses of its pods, Nodes the number of its nodes.
	Cluster string
	PodCIDR string
	Nodes   int
}

// sizes say how much a scenario does. Each scenario says what they mean for it; zero is its default.
type sizes struct {
	N, Pool int
	Rate    float64
	For     time.Duration
}

// or takes from d what is not set.
func (s sizes) or(d sizes) sizes {
	if s.N == 0 {
		s.N = d.N
	}
	if s.Pool == 0 {
		s.Pool = d.Pool
	}
	if s.Rate == 0 {
		s.Rate = d.Rate
	}
	if s.For == 0 {
		s.For = d.For
	}
	return s
}

// byName is for reports.
func (s sizes) byName() map[string]float64 {
	m := map[string]float64{}
	for name, value := range map[string]float64{"n": float64(s.N), "pool": float64(s.Pool), "rate": s.Rate, "seconds": s.For.Seconds()} {
		if value != 0 {
			m[name] = value
		}
	}
	return m
}

// command is what runs a scenario again with these sizes.
func (s sizes) command(scenario string) string {
	words := []string{"make bench", "BENCH=" + scenario}
	if s.N != 0 {
		words = append(words, fmt.Sprint("N=", s.N))
	}
	if s.Pool != 0 {
		words = append(words, fmt.Sprint("POOL=", s.Pool))
	}
	if s.Rate != 0 {
		words = append(words, fmt.Sprint("RATE=", s.Rate))
	}
	if s.For != 0 {
		words = append(words, fmt.Sprint("FOR=", s.For))
	}
	return strings.Join(words, " ")
}

// command is what runs a scenario again in the same way.
func (o Options) command(scenario string) string {
	command := o.Sizes.command(scenario)
	if len(o.Flags) > 0 {
		command += fmt.Sprintf(" BENCHFLAGS=\"-controller-flags='%s'\"", strings.Join(o.Flags, " "))
	}
	return command
}

func parse(args []string, out io.Writer) (Options, error) {
	var o Options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprintln(out, "usage: bench [flags]\n\nScenarios:")
		for _, s := range scenarios() {
			fmt.Fprintf(out, "  %-10s %s\n", s.name, s.about)
		}
		fmt.Fprintln(out, "\nFlags:")
		flags.PrintDefaults()
	}
	names := flags.String("bench", "", "comma-separated `scenarios`; default all")
	flags.IntVar(&o.Sizes.N, "n", 0, "how many; default the scenario's")
	flags.Float64Var(&o.Sizes.Rate, "rate", 0, "how many a second; default the scenario's")
	flags.IntVar(&o.Sizes.Pool, "pool", 0, "pods of the pool; default the scenario's")
	flags.DurationVar(&o.Sizes.For, "for", 0, "how long; default the scenario's")
	flags.IntVar(&o.Runs, "runs", 3, "how often each scenario is run; medians are told")
	flags.StringVar(&o.Checkout, "checkout", ".", "`directory` of the checkout")
	flags.StringVar(&o.Controller, "controller", "bin/controller", "`path` of the controller's binary")
	further := flags.String("controller-flags", "", "`flags` of the controller other than its defaults, with spaces between")
	flags.StringVar(&o.Results, "results", "bench/results", "`directory` for results and logs")
	flags.StringVar(&o.Document, "document", "", "`file` whose tables are replaced by what was measured")
	flags.BoolVar(&o.Profile, "profile", false, "take CPU and heap profiles of the controller, into the results")
	flags.StringVar(&o.Cluster, "cluster", "bench", "`name` of the cluster; one that is up is used and stays up")
	flags.StringVar(&o.PodCIDR, "pod-cidr", "127.13.0.0/16", "addresses of the simulated pods, below 127.0.0.0/8")
	flags.IntVar(&o.Nodes, "nodes", 20, "number of simulated nodes")
	if err := flags.Parse(args); err != nil {
		return o, flag.ErrHelp
	}
	o.Flags = strings.Fields(*further)
	var err error
	o.Scenarios, err = pick(*names)
	return o, errors.Join(err, o.check(flags.Args()))
}

// pick returns the named scenarios, all if none is named.
func pick(names string) ([]scenario, error) {
	all := scenarios()
	if names == "" {
		return all, nil
	}
	var picked []scenario
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(s scenario) bool { return s.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("there is no scenario %q: bench -h lists them", name)
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

func (o Options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q: only flags are taken", rest[0])
	case o.Runs < 1 || o.Nodes < 1:
		return errors.New("-runs and -nodes must be at least 1")
	case o.Sizes.N < 0 || o.Sizes.Pool < 0 || o.Sizes.Rate < 0 || o.Sizes.For < 0:
		return errors.New("-n, -pool, -rate and -for must not be negative")
	}
	return nil
}
