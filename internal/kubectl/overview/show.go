// SPDX-License-Identifier: Apache-2.0

package overview

import (
	"bytes"
	"context"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/internal/kubectl/cluster"
)

const (
	// redrawPace is the least time between two pictures on a terminal, and tick is when ages are told anew.
	redrawPace = 200 * time.Millisecond
	tick       = time.Second

	// clearScreen moves to the top left and clears what is below.
	clearScreen = "\x1b[H\x1b[J"
)

// show is one run of get or top.
type show struct {
	client  client.WithWatch
	clock   clock.WithTicker
	streams genericiooptions.IOStreams
	output  *cluster.Output
	scope   scope
	all     bool // across namespaces
	watch   bool
	// render writes everything that there is; line what changed, as kubectl does where the output is no terminal.
	render func(s *show, w *world, out io.Writer) error
	line   func(s *show, changed []client.Object, out io.Writer) error
}

// run shows the world once, or follows it until ctx is done.
func (s *show) run(ctx context.Context) error {
	w := newWorld()
	listers := s.scope.listers(s.client)
	from := make([]string, len(listers))
	for i, l := range listers {
		n, version, err := l.list(ctx)
		if err != nil {
			return err
		}
		w.take(n)
		from[i] = version
	}
	if !s.watch {
		return s.render(s, w, s.streams.Out)
	}
	ctx, stop := context.WithCancel(ctx)
	var followers sync.WaitGroup
	defer followers.Wait()
	defer stop()
	changes, failures := make(chan news), make(chan error, len(listers))
	for i, l := range listers {
		followers.Go(func() { failures <- l.follow(ctx, s.clock, from[i], changes) })
	}
	if s.onTerminal() {
		return s.redraw(ctx, w, changes, failures)
	}
	return s.append(ctx, w, changes, failures)
}

// onTerminal says whether a person watches tables.
func (s *show) onTerminal() bool {
	file, ok := s.streams.Out.(*os.File)
	return ok && s.output.IsTable() && term.IsTerminal(int(file.Fd())) //nolint:gosec // a file descriptor
}

// redraw shows everything anew when something changed, and every second for the ages.
func (s *show) redraw(ctx context.Context, w *world, changes <-chan news, failures <-chan error) error {
	second := s.clock.NewTicker(tick)
	defer second.Stop()
	var soon <-chan time.Time
	last := ""
	draw := func() error {
		var picture bytes.Buffer
		if err := s.render(s, w, &picture); err != nil {
			return err
		}
		if picture.String() == last {
			return nil
		}
		last = picture.String()
		_, err := io.WriteString(s.streams.Out, clearScreen+last)
		return err
	}
	if err := draw(); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failures:
			return err
		case n := <-changes:
			if w.take(n); soon == nil {
				soon = s.clock.After(redrawPace)
			}
			continue
		case <-soon:
		case <-second.C():
		}
		soon = nil
		if err := draw(); err != nil {
			return err
		}
	}
}

// append shows everything once and then a line for every change.
func (s *show) append(ctx context.Context, w *world, changes <-chan news, failures <-chan error) error {
	if err := s.render(s, w, s.streams.Out); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failures:
			return err
		case n := <-changes:
			changed := w.take(n)
			if len(changed) == 0 {
				continue
			}
			if err := s.line(s, changed, s.streams.Out); err != nil {
				return err
			}
		}
	}
}

// tables writes tables with an empty line in between; those without a row are left out.
func (s *show) tables(out io.Writer, all ...table) error {
	written := false
	for _, t := range all {
		if len(t.rows) == 0 {
			continue
		}
		if written {
			if _, err := io.WriteString(out, "\n"); err != nil {
				return err
			}
		}
		written = true
		if err := s.output.PrintTable(cluster.Table(t.columns, t.rows), out); err != nil {
			return err
		}
	}
	return nil
}

// table is one of the tables of a picture.
type table struct {
	columns []cluster.Column
	rows    [][]any
}

// namespaced puts the namespace before a row, where all of them are shown.
func (s *show) namespaced(t *table, o client.Object, row []any) {
	if s.all {
		row = append([]any{o.GetNamespace()}, row...)
	}
	t.rows = append(t.rows, row)
}

func (s *show) newTable(columns []cluster.Column) *table {
	if s.all {
		columns = append([]cluster.Column{{Name: "NAMESPACE"}}, columns...)
	}
	return &table{columns: columns}
}

// noHeaders is the output without headers, for lines that follow a table.
func (s *show) noHeaders() *cluster.Output {
	o := *s.output
	o.NoHeaders = true
	return &o
}
