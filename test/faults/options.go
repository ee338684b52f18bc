// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"
)

// Options say what to do.
type Options struct {
	// For is how long things are broken.
	For time.Duration
	// Seed draws what is broken, and what the load asks for.
	Seed uint64
	// Rate is how many batches are asked for a second.
	Rate float64
	// Checkout is the root of the checkout.
	Checkout string
	// Controller is the path of the controller's binary.
	Controller string
	// Results is the directory that histories and logs go to; Keep keeps those of runs without findings too.
	Results string
	Keep    bool
	// UntilFound ends the run at the first finding that no later change can mend.
	UntilFound bool
	// Judge is the directory of an earlier run that is judged again, instead of a new run.
	Judge string
	// Strike is the one way in which the lead is taken away; "" for all.
	Strike string
	// Lease is the lease of the leader: short makes elections quick, longer keeps a busy machine from losing it all the time.
	Lease time.Duration
	// Cluster is the name of the cluster, PodCIDR the addresses of its pods, Nodes the number of its nodes.
	Cluster string
	PodCIDR string
	Nodes   int
}

func parse(args []string, out io.Writer) (Options, error) {
	var o Options
	flags := flag.NewFlagSet("faults", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.DurationVar(&o.For, "for", 10*time.Minute, "how long things are broken")
	flags.Uint64Var(&o.Seed, "seed", rand.Uint64N(1_000_000), "`number` that draws the faults; default random")
	flags.Float64Var(&o.Rate, "rate", 30, "how many batches are asked for a second")
	flags.StringVar(&o.Checkout, "checkout", ".", "`directory` of the checkout")
	flags.StringVar(&o.Controller, "controller", "bin/controller", "`path` of the controller's binary")
	flags.StringVar(&o.Results, "results", "bin/faults-results", "`directory` for histories and logs")
	flags.BoolVar(&o.Keep, "keep", false, "keep history and logs also if nothing was found")
	flags.BoolVar(&o.UntilFound, "until-found", false, "end at the first finding that nothing later can mend")
	flags.StringVar(&o.Judge, "judge", "", "`directory` of an earlier run to be judged again")
	flags.StringVar(&o.Strike, "strike", "", "the only `way` to take the lead away: killLeader, freezeLeader, endLeader or killBoth; default all")
	flags.DurationVar(&o.Lease, "lease", 3*time.Second, "lease of the leader; longer for a busy machine, which else loses it all the time")
	flags.StringVar(&o.Cluster, "cluster", "faults", "`name` of the cluster; one that is up is used and stays up")
	flags.StringVar(&o.PodCIDR, "pod-cidr", "127.31.0.0/16", "addresses of the simulated pods, below 127.0.0.0/8")
	flags.IntVar(&o.Nodes, "nodes", 12, "number of simulated nodes")
	if err := flags.Parse(args); err != nil {
		return o, flag.ErrHelp
	}
	return o, o.check(flags.Args())
}

func (o Options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q: only flags are taken", rest[0])
	case o.For < 10*time.Second:
		return errors.New("-for must be at least 10s")
	case o.Rate <= 0:
		return errors.New("-rate must be above 0")
	case o.Strike != "" && !slices.ContainsFunc(strikes, func(s strike) bool { return s.name == o.Strike }):
		return fmt.Errorf("-strike is %q, and must be killLeader, freezeLeader, endLeader or killBoth", o.Strike)
	case o.Lease < time.Second:
		return errors.New("-lease must be at least 1s")
	case o.Nodes < 3:
		return errors.New("-nodes must be at least 3: some are cordoned or removed")
	}
	return nil
}
