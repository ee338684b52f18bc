// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/test/bench/internal/audit"
	"opensandbox.io/controller/test/bench/internal/report"
	"opensandbox.io/controller/test/internal/cluster"
)

// run measures what the options ask for.
func run(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Results, 0o755); err != nil {
		return err
	}
	for _, s := range o.Scenarios {
		result := report.Result{Scenario: s.name, Command: o.command(s.name), Sizes: o.Sizes.or(s.sizes).byName()}
		var all []findings
		for i := range o.Runs {
			found, machine, err := runOnce(ctx, o, s, i+1)
			if err != nil {
				return fmt.Errorf("%s, run %d of %d: %w", s.name, i+1, o.Runs, err)
			}
			if i == 0 {
				result.Machine = machine
			}
			all = append(all, found)
			result.Runs = append(result.Runs, found.metrics)
		}
		result.Time = time.Now().UTC().Format(time.RFC3339)
		if err := publish(o, result, drawing(s, all)); err != nil {
			return err
		}
	}
	return nil
}

// runOnce runs a scenario in a cluster of its own, and takes everything down at its end, also when ctx is done before. In the same
// cluster each run would be slower than the one before: events stay for an hour.
func runOnce(ctx context.Context, o Options, s scenario, number int) (found findings, machine report.Machine, err error) {
	tell("starting the cluster %s", o.Cluster)
	c, err := cluster.Up(ctx, cluster.Options{Checkout: o.Checkout, Name: o.Cluster, PodCIDR: o.PodCIDR, Nodes: o.Nodes, Out: os.Stderr})
	if err != nil {
		return found, machine, fmt.Errorf("start the cluster: %w", err)
	}
	defer func() { err = errors.Join(err, c.Down(ctx)) }()
	e := &env{options: o, cluster: c, audit: audit.Open(c.AuditLog)}
	defer func() { err = errors.Join(err, e.stop()) }()
	e.begin(s.name, number)
	if err := e.prepare(ctx); err != nil {
		return found, machine, err
	}
	e.tell("waiting until the load of the machine falls no more")
	if machine, err = thisMachine(ctx); err != nil {
		return found, machine, err
	}
	found, err = e.once(ctx, s)
	return found, machine, err
}

// prepare makes the namespace, and deletes the batches of a run that was cut off in a cluster that stayed up.
func (e *env) prepare(ctx context.Context) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: benchNamespace}}
	if err := e.cluster.Client.Create(ctx, namespace); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s: %w", benchNamespace, err)
	}
	if err := e.cluster.Client.DeleteAllOf(ctx, &v1alpha1.BatchSandbox{}, client.InNamespace(benchNamespace)); err != nil {
		return fmt.Errorf("delete batches of an earlier run: %w", err)
	}
	return nil
}

// drawing is the plot of a scenario as SVG; "" if it has none.
func drawing(s scenario, all []findings) string {
	if s.plot == nil {
		return ""
	}
	return s.plot(all).SVG()
}

// publish shows a result, and keeps it.
func publish(o Options, r report.Result, svg string) error {
	line, err := r.JSON()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%s%s\n", r.Table(), line)
	name := filepath.Join(o.Results, r.Scenario+"-"+strings.NewReplacer(":", "", "-", "").Replace(r.Time))
	err = errors.Join(
		os.WriteFile(name+".json", []byte(line+"\n"), 0o644),
		os.WriteFile(name+".md", []byte(r.Markdown()), 0o644))
	if svg != "" {
		err = errors.Join(err, os.WriteFile(name+".svg", []byte(svg), 0o644))
	}
	if o.Document == "" || err != nil {
		return err
	}
	return enter(o.Document, r, svg)
}

// enter puts a result into a document, and its plot beside it.
func enter(path string, r report.Result, svg string) error {
	text := r.Markdown()
	if svg != "" {
		name := filepath.Join("images", r.Scenario+".svg")
		if err := os.MkdirAll(filepath.Join(filepath.Dir(path), "images"), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), name), []byte(svg), 0o644); err != nil {
			return err
		}
		text += fmt.Sprintf("\n![%s](%s)\n", r.Scenario, filepath.ToSlash(name))
	}
	document, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed, err := report.Replace(string(document), r.Scenario, text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(changed), 0o644)
}

// tell shows progress.
func tell(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
