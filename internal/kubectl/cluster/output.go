// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/yaml"
)

// Output formats. Each command says which of them it has; FormatTable, the default, they all have.
const (
	FormatTable = ""
	FormatWide  = "wide"
	FormatJSON  = "json"
	FormatYAML  = "yaml"
	FormatName  = "name"
)

// Output is the flag -o of a command, and --no-headers if its output is a table.
type Output struct {
	// Format is one of the formats that the command has, once Validate was called.
	Format    string
	NoHeaders bool

	formats []string
}

// NewOutput returns the output of a command that knows the formats beside its default.
func NewOutput(formats ...string) *Output { return &Output{formats: formats} }

// AddFlags adds the flags to a command.
func (o *Output) AddFlags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.Format, "output", "o", o.Format, fmt.Sprintf("Output format. One of: (%s).", strings.Join(o.formats, ", ")))
	cmd.Flags().BoolVar(&o.NoHeaders, "no-headers", o.NoHeaders, "When using the default or wide output format, don't print headers.")
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(o.formats, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was added above
	}
}

// Validate refuses a format that the command doesn't have.
func (o *Output) Validate(cmd *cobra.Command) error {
	if o.Format != FormatTable && !slices.Contains(o.formats, o.Format) {
		return UsageErrorf(cmd, "unable to match a printer suitable for the output format %q, allowed formats are: %s",
			o.Format, strings.Join(o.formats, ","))
	}
	return nil
}

// IsTable is true for output that is read by people.
func (o *Output) IsTable() bool { return o.Format == FormatTable || o.Format == FormatWide }

// PrintTable prints a table; columns with a priority above 0 are for the wide format. It needs a new table for each call.
func (o *Output) PrintTable(table *metav1.Table, out io.Writer) error {
	w := printers.GetNewTabWriter(out)
	printer := printers.NewTablePrinter(printers.PrintOptions{Wide: o.Format == FormatWide, NoHeaders: o.NoHeaders})
	if err := printer.PrintObj(table, w); err != nil {
		return err
	}
	return w.Flush()
}

// PrintObject prints an object of the API, or a list of them, as json, yaml or name. Objects need their kind: see SetKind.
func (o *Output) PrintObject(object runtime.Object, out io.Writer) error {
	if o.Format == FormatName {
		return (&printers.NamePrinter{}).PrintObj(object, out)
	}
	if o.Format == FormatJSON {
		return (&printers.OmitManagedFieldsPrinter{Delegate: &printers.JSONPrinter{}}).PrintObj(object, out)
	}
	return (&printers.OmitManagedFieldsPrinter{Delegate: &printers.YAMLPrinter{}}).PrintObj(object, out)
}

// PrintValue prints something else than an object of the API, as json or yaml.
func (o *Output) PrintValue(value any, out io.Writer) error {
	data, err := json.MarshalIndent(value, "", "    ")
	if err != nil {
		return err
	}
	if o.Format == FormatYAML {
		if data, err = yaml.JSONToYAML(data); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(out, strings.TrimSuffix(string(data), "\n"))
	return err
}

// Column is a column of a table; Wide ones are shown with -o wide alone.
type Column struct {
	Name string
	Wide bool
}

// Table returns a table of rows, which have a cell for each column.
func Table(columns []Column, rows [][]any) *metav1.Table {
	table := &metav1.Table{}
	for _, c := range columns {
		definition := metav1.TableColumnDefinition{Name: c.Name, Type: "string"}
		if c.Wide {
			definition.Priority = 1
		}
		table.ColumnDefinitions = append(table.ColumnDefinitions, definition)
	}
	for _, cells := range rows {
		table.Rows = append(table.Rows, metav1.TableRow{Cells: cells})
	}
	return table
}

// AddAllNamespaces adds kubectl's flag to a command that lists.
func AddAllNamespaces(cmd *cobra.Command, all *bool) {
	cmd.Flags().BoolVarP(all, "all-namespaces", "A", *all,
		"If present, list the requested object(s) across all namespaces. Namespace in current context is ignored even if specified with --namespace.")
}
