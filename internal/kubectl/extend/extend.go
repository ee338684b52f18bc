// SPDX-License-Identifier: Apache-2.0

// Package extend is kubectl sandbox extend: another time at which a batch is deleted.
package extend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
)

const long = `Set when a batch expires, which is when it is deleted with its sandboxes.

--by goes on from the present expireTime, or from now if that has passed. A batch without an expireTime lives until somebody deletes it: --by is refused there, since it
would make its life shorter, and --until is the way to give it an end.`

const examples = `  # An hour more for the batch web
  kubectl sandbox extend web --by 1h

  # Until a time
  kubectl sandbox extend web --until 2026-12-24T18:00:00Z

  # Until somebody deletes it
  kubectl sandbox extend web --never`

// change is what shall become of an expireTime. One of its members is set.
type change struct {
	by    time.Duration
	until time.Time
	never bool
}

// apply returns the new expireTime, nil for never.
//
//	| change  | present expireTime | result                    |
//	|---------|--------------------|---------------------------|
//	| never   | -                  | none                      |
//	| until T | -                  | T; refused in the past    |
//	| by D    | in the future      | it, and D                 |
//	| by D    | has passed         | now, and D                |
//	| by D    | none               | refused                   |
func (c change) apply(present *metav1.Time, now time.Time) (*metav1.Time, error) {
	switch {
	case c.never:
		return nil, nil
	case !c.until.IsZero() && !c.until.After(now):
		return nil, fmt.Errorf("--until=%s has passed: the batch would be deleted at once; to do that use kubectl delete", c.until.Format(time.RFC3339))
	case !c.until.IsZero():
		return &metav1.Time{Time: c.until}, nil
	case present == nil:
		return nil, errors.New("has no expireTime, so it lives until somebody deletes it: give it an end with --until")
	}
	from := present.Time
	if from.Before(now) {
		from = now
	}
	return &metav1.Time{Time: from.Add(c.by)}, nil
}

// flags are the change as it is given.
type flags struct {
	by    time.Duration
	until string
	never bool
}

// parse reads the change. cobra has seen to it that one of the flags is set.
func (f flags) parse(cmd *cobra.Command) (change, error) {
	if cmd.Flag("by").Changed && f.by <= 0 {
		return change{}, cluster.UsageErrorf(cmd, "--by=%s: must be above 0; an earlier end is set with --until", f.by)
	}
	if cmd.Flag("never").Changed && !f.never {
		return change{}, cluster.UsageErrorf(cmd, "--never=false says nothing: use --by or --until")
	}
	c := change{by: f.by, never: f.never}
	if !cmd.Flag("until").Changed {
		return c, nil
	}
	until, err := time.Parse(time.RFC3339, f.until)
	if err != nil {
		return change{}, cluster.UsageErrorf(cmd, "--until=%s: must be a time as 2026-12-24T18:00:00Z or 2026-12-24T18:00:00+01:00 (RFC 3339)", f.until)
	}
	c.until = until
	return c, nil
}

// NewCommand returns the command.
func NewCommand(f *cluster.Factory, streams genericiooptions.IOStreams) *cobra.Command {
	given := flags{}
	cmd := &cobra.Command{
		Use:                   "extend NAME (--by=DURATION | --until=TIME | --never)",
		DisableFlagsInUseLine: true,
		Short:                 "Set when a batch expires",
		Long:                  long,
		Example:               examples,
		Args:                  cobra.ExactArgs(1),
		ValidArgsFunction:     f.OneBatch,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := given.parse(cmd)
			if err != nil {
				return err
			}
			return run(cmd.Context(), f, streams, args[0], c)
		},
	}
	cmd.Flags().DurationVar(&given.by, "by", 0, "How much longer the batch shall live.")
	cmd.Flags().StringVar(&given.until, "until", "", "When the batch shall expire, as 2026-12-24T18:00:00Z (RFC 3339).")
	cmd.Flags().BoolVar(&given.never, "never", false, "Take the expireTime away.")
	cmd.MarkFlagsMutuallyExclusive("by", "until", "never")
	cmd.MarkFlagsOneRequired("by", "until", "never")
	return cmd
}

// run changes the expireTime that it read: if somebody else changes the batch meanwhile it reads again, so that two who
// extend it by an hour give it two.
func run(ctx context.Context, f *cluster.Factory, streams genericiooptions.IOStreams, name string, c change) error {
	namespace, reader, err := f.NamespaceAndClient()
	if err != nil {
		return err
	}
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		sb, err := cluster.Batch(ctx, reader, namespace, name)
		if err != nil {
			return err
		}
		if sb.DeletionTimestamp != nil {
			return fmt.Errorf("batchsandbox %s is being deleted: it can't be kept any more", name)
		}
		expire, err := c.apply(sb.Spec.ExpireTime, f.Clock().Now())
		if err != nil {
			return fmt.Errorf("batchsandbox %s: %w", name, err)
		}
		before := sb.DeepCopy()
		sb.Spec.ExpireTime = expire
		if err := reader.Patch(ctx, sb, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return err
		}
		fmt.Fprintln(streams.Out, told(sb, f.Clock().Now()))
		return nil
	})
}

func told(sb *v1alpha1.BatchSandbox, now time.Time) string {
	object := fmt.Sprintf("batchsandbox.%s/%s", v1alpha1.GroupVersion.Group, sb.Name)
	if sb.Spec.ExpireTime == nil {
		return object + " never expires"
	}
	return fmt.Sprintf("%s expires at %s, in %s", object, sb.Spec.ExpireTime.UTC().Format(time.RFC3339), sb.Spec.ExpireTime.Sub(now).Round(time.Second))
}
