// SPDX-License-Identifier: Apache-2.0

package overview

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
)

const getLong = `Show batches and pools at a glance.

READY counts the sandboxes of a batch that are Ready, of those that it asks for. STATUS is one word for what it is doing, or the
reason why it isn't: kubectl sandbox explain NAME tells more. EXPIRES is the time that is left until its expireTime.

Of a pool, PODS are all of its pods and the most that it may have (poolMax), HELD those that batches hold, IDLE those that can be
handed out, WAITING the sandboxes that batches wait for, and BUFFER its bounds of pods that nobody holds.

A name without a kind is that of a batch, of a pool, or both.`

const getExample = `  # Everything in this namespace
  kubectl sandbox get

  # One batch, live
  kubectl sandbox get web -w

  # The pools of all namespaces, with their last decision about their size
  kubectl sandbox get pools -A -o wide

  # A batch and its pool
  kubectl sandbox get batch/web pool/small`

// NewGet returns get.
func NewGet(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	s := &show{streams: streams, clock: f.Clock(), render: renderGet, line: lineGet}
	s.output = cluster.NewOutput(cluster.FormatWide, cluster.FormatJSON, cluster.FormatYAML, cluster.FormatName)
	cmd := &cobra.Command{
		Use:                   "get [batches | pools] [NAME...]",
		Short:                 "Show batches and pools at a glance",
		Long:                  getLong,
		Example:               getExample,
		DisableFlagsInUseLine: true,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return completeGet(f, cmd, args, prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.output.Validate(cmd); err != nil {
				return err
			}
			scope, err := parseScope(cmd, args)
			if err != nil {
				return err
			}
			if s.all && len(scope.wanted) > 0 {
				return cluster.UsageErrorf(cmd, "a resource cannot be retrieved by name across all namespaces")
			}
			return s.begin(cmd, f, scope)
		},
	}
	s.output.AddFlags(cmd)
	cluster.AddAllNamespaces(cmd, &s.all)
	cmd.Flags().BoolVarP(&s.watch, "watch", "w", false, "After listing the requested objects, watch for changes: on a terminal the tables are drawn anew, else lines are appended.")
	return cmd
}

// begin connects and runs.
func (s *show) begin(cmd *cobra.Command, f *cluster.Factory, what scope) error {
	namespace, err := f.NamespaceOrAll(&s.all)
	if err != nil {
		return err
	}
	if s.client, err = f.Client(); err != nil {
		return err
	}
	s.scope = what
	s.scope.namespace = namespace
	return s.run(cmd.Context())
}

// kindOf reads kubectl's words for the kinds.
func kindOf(word string) (kind string, known bool) {
	word, _, _ = strings.Cut(strings.ToLower(word), ".")
	switch word {
	case "batch", "batches", "batchsandbox", "batchsandboxes", "bsbx":
		return "batch", true
	case "pool", "pools":
		return "pool", true
	default:
		return "", false
	}
}

// parseScope reads what is to be shown: a kind first, then names; or names, each with a kind or without.
//
//	| arguments           | what is shown                          |
//	| none                | all batches and pools                  |
//	| pools               | all pools                              |
//	| pools a b           | the pools a and b                      |
//	| pool/a batch/b      | the pool a and the batch b             |
//	| a                   | the batch a, and the pool a            |
func parseScope(cmd *cobra.Command, args []string) (scope, error) {
	s := scope{wanted: map[string]bool{}}
	kind := ""
	if len(args) > 0 {
		if word, known := kindOf(args[0]); known {
			kind, args = word, args[1:]
		}
	}
	for _, arg := range args {
		word, name, found := strings.Cut(arg, "/")
		switch of, known := kindOf(word); {
		case !found && arg == "":
			return scope{}, cluster.UsageErrorf(cmd, "a name must not be empty")
		case !found && kind != "":
			s.wanted[kind+"/"+arg] = true
		case !found:
			s.wanted[arg] = true
		case !known || name == "" || kind != "":
			return scope{}, cluster.UsageErrorf(cmd, "%q is no name: use NAME, batch/NAME or pool/NAME", arg)
		default:
			s.wanted[of+"/"+name] = true
		}
	}
	s.batches, s.pools = kind != "pool", kind != "batch"
	return s, nil
}

func completeGet(f *cluster.Factory, cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		switch kind, _ := kindOf(args[0]); kind {
		case "batch":
			return f.CompleteBatches(cmd, args[1:], prefix)
		case "pool":
			return f.CompletePools(cmd, args[1:], prefix)
		}
	}
	batches, directive := f.CompleteBatches(cmd, args, prefix)
	pools, _ := f.CompletePools(cmd, args, prefix)
	names := slices.Concat(batches, pools)
	if len(args) == 0 {
		for _, kind := range []string{"batches", "pools"} {
			if strings.HasPrefix(kind, prefix) {
				names = append(names, kind)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), directive
}

func renderGet(s *show, w *world, out io.Writer) error {
	now := s.clock.Now()
	batches, pools := s.newTable(batchColumns()), s.newTable(poolColumns())
	var objects []client.Object
	for _, sb := range w.sortedBatches() {
		s.namespaced(batches, sb, batchRow(sb, now))
		objects = append(objects, withKind(sb))
	}
	for _, p := range w.sortedPools() {
		s.namespaced(pools, p, poolRow(p, now))
		objects = append(objects, withKind(p))
	}
	err := s.missed(w)
	switch {
	case len(objects) == 0 && err != nil:
		return err
	case !s.output.IsTable():
		return errors.Join(s.printObjects(objects, out), err)
	case len(objects) == 0 && len(s.scope.wanted) > 0:
		return nil
	case len(objects) == 0 && s.all:
		fmt.Fprintln(s.streams.ErrOut, "No resources found")
		return nil
	case len(objects) == 0:
		fmt.Fprintf(s.streams.ErrOut, "No resources found in %s namespace.\n", s.scope.namespace)
		return nil
	}
	return errors.Join(s.tables(out, *batches, *pools), err)
}

// missed says which of the names that were asked for are nobody's. Who watches may wait for them to come.
func (s *show) missed(w *world) error {
	if s.watch {
		return nil
	}
	var missed []error
	for _, wanted := range slices.Sorted(maps.Keys(s.scope.wanted)) {
		kind, name, found := strings.Cut(wanted, "/")
		if !found {
			kind, name = "", wanted
		}
		key := client.ObjectKey{Namespace: s.scope.namespace, Name: name}
		if w.batches[key] != nil && kind != "pool" || w.pools[key] != nil && kind != "batch" {
			continue
		}
		resource := "batchsandboxes"
		if kind == "pool" {
			resource = "pools"
		}
		missed = append(missed, apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource(resource).GroupResource(), name))
	}
	if len(missed) == 1 {
		return missed[0]
	}
	return errors.Join(missed...)
}

// printObjects prints one object that was asked for by name as itself, and others as a list, as kubectl does. Names come one by
// one.
func (s *show) printObjects(objects []client.Object, out io.Writer) error {
	if s.output.Format == cluster.FormatName {
		for _, o := range objects {
			if err := s.output.PrintObject(o, out); err != nil {
				return err
			}
		}
		return nil
	}
	if len(s.scope.wanted) == 1 && len(objects) == 1 {
		return s.output.PrintObject(objects[0], out)
	}
	list := &corev1.List{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}, Items: []runtime.RawExtension{}}
	for _, o := range objects {
		o.SetManagedFields(nil)
		list.Items = append(list.Items, runtime.RawExtension{Object: o})
	}
	return s.output.PrintObject(list, out)
}

// withKind is a copy that says what it is, as objects from a list don't.
func withKind(o client.Object) client.Object {
	c, _ := o.DeepCopyObject().(client.Object) // what is copied is of the same type
	kind := "Pool"
	if _, batch := o.(*v1alpha1.BatchSandbox); batch {
		kind = "BatchSandbox"
	}
	c.GetObjectKind().SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	return c
}

func lineGet(s *show, changed []client.Object, out io.Writer) error {
	now := s.clock.Now()
	for _, o := range changed {
		if !s.output.IsTable() {
			if err := s.output.PrintObject(withKind(o), out); err != nil {
				return err
			}
			continue
		}
		t := s.newTable(poolColumns())
		switch o := o.(type) {
		case *v1alpha1.BatchSandbox:
			t = s.newTable(batchColumns())
			s.namespaced(t, o, batchRow(o, now))
		case *v1alpha1.Pool:
			s.namespaced(t, o, poolRow(o, now))
		}
		if err := s.noHeaders().PrintTable(cluster.Table(t.columns, t.rows), out); err != nil {
			return err
		}
	}
	return nil
}
