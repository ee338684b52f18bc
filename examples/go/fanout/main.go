// SPDX-License-Identifier: Apache-2.0

// Command fanout takes many sandboxes of a pool in one batch, runs a different task in each, prints the results by index and
// gives the sandboxes back.
//
//	go run ./examples/go/fanout -pool POOL [-n 100] [-script 'echo "$1 squared is $(($1 * $1))"']
//
// Task i is the script with i as its argument. The exit code is 1 if any task failed, or nothing could be run.
//
// It may create, list, watch and delete batchsandboxes, and get the logs of pods.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/pkg/client/clientset/versioned"
	sandboxclient "opensandbox.io/controller/pkg/client/clientset/versioned/typed/api/v1alpha1"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

const defaultScript = `echo "$1 squared is $(($1 * $1))"`

// givingBack bounds how long the deletion of the batch may take, after an interrupt too.
const givingBack = 30 * time.Second

type options struct {
	kubeconfig, namespace, pool, script string
	n                                   int
	timeout                             time.Duration
	logs                                bool
}

// fanout is one run.
type fanout struct {
	options
	batches sandboxclient.BatchSandboxInterface
	core    kubernetes.Interface
	out     io.Writer
}

// result is what became of the task of one index.
type result struct {
	succeeded bool
	what      string // Succeeded, or the reason of the failure
	output    string // its last line
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, parse(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fanout:", err)
		os.Exit(1)
	}
}

func parse() options {
	var o options
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "the kubeconfig; unset means as kubectl does")
	flag.StringVar(&o.namespace, "namespace", "", "the namespace of the pool; unset means that of the kubeconfig's context")
	flag.StringVar(&o.pool, "pool", "", "the pool that the sandboxes come from")
	flag.IntVar(&o.n, "n", 100, "the number of sandboxes")
	flag.StringVar(&o.script, "script", defaultScript, "the shell script of each task; $1 is its index")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long all of it may take")
	flag.BoolVar(&o.logs, "logs", true, "read what the tasks wrote from the logs of their pods; otherwise only ten failed tasks show it")
	flag.Parse()
	return o
}

func run(ctx context.Context, o options, out io.Writer) error {
	if o.pool == "" || o.n < 1 {
		return errors.New("want a pool and at least one sandbox: -pool POOL -n 100")
	}
	f, err := connect(o, out)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	created, err := f.batches.Create(ctx, f.wanted(), metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create the batch: %w", err)
	}
	defer f.giveBack(context.WithoutCancel(ctx), created.Name)
	ended, err := f.wait(ctx, created.Name)
	if err != nil {
		return fmt.Errorf("wait for batch %s: %w", created.Name, err)
	}
	return f.print(ctx, ended)
}

// connect makes the clients: one for batches and pools, one for pods.
func connect(o options, out io.Writer) (*fanout, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	kubeconfig := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil)
	config, err := kubeconfig.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 50, 100 // a call for each log
	if o.namespace == "" {
		if o.namespace, _, err = kubeconfig.Namespace(); err != nil {
			return nil, fmt.Errorf("read the kubeconfig: %w", err)
		}
	}
	sandboxes, err := versioned.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &fanout{options: o, batches: sandboxes.SandboxV1alpha1().BatchSandboxes(o.namespace), core: core, out: out}, nil
}

// wanted is the batch: one task for all, and a patch for each index that makes it a different one.
func (f *fanout) wanted() *v1alpha1.BatchSandbox {
	replicas := int32(f.n) //nolint:gosec // a number of sandboxes
	batch := &v1alpha1.BatchSandbox{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "fanout-"},
		Spec: v1alpha1.BatchSandboxSpec{
			Replicas: &replicas,
			PoolRef:  f.pool,
			TaskTemplate: &v1alpha1.TaskTemplate{Spec: v1alpha1.TaskSpec{
				Process: v1alpha1.Process{Command: []string{"sh", "-c", f.script, "task"}},
			}},
		},
	}
	for i := range f.n {
		patch := fmt.Appendf(nil, `{"spec":{"process":{"args":["%d"]}}}`, i)
		batch.Spec.ShardTaskPatches = append(batch.Spec.ShardTaskPatches, v1alpha1.RawObject{RawExtension: runtime.RawExtension{Raw: patch}})
	}
	return batch
}

// wait watches the batch until all its tasks have ended. Watches that break are begun anew.
func (f *fanout) wait(ctx context.Context, name string) (*v1alpha1.BatchSandbox, error) {
	onlyIt := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = onlyIt
			return f.batches.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = onlyIt
			return f.batches.Watch(ctx, o)
		},
	}
	var seen *v1alpha1.BatchSandbox
	_, err := watchtools.UntilWithSync(ctx, lw, &v1alpha1.BatchSandbox{}, nil, func(e watch.Event) (bool, error) {
		batch, ok := e.Object.(*v1alpha1.BatchSandbox)
		if !ok || e.Type == watch.Deleted {
			return false, errors.New("somebody deleted it")
		}
		seen = batch
		if batch.Status.Phase == v1alpha1.PhaseFailed {
			return false, fmt.Errorf("it can't be run: %s", complaint(batch))
		}
		return meta.IsStatusConditionTrue(batch.Status.Conditions, v1alpha1.ConditionTasksCompleted), nil
	})
	if err != nil && ctx.Err() != nil && seen != nil {
		err = fmt.Errorf("%w: %s", context.Cause(ctx), complaint(seen))
	}
	return seen, err
}

// complaint is what keeps a batch from being ready or completed, in the words of its conditions.
func complaint(batch *v1alpha1.BatchSandbox) string {
	for _, c := range batch.Status.Conditions {
		if c.Status == metav1.ConditionFalse {
			return c.Reason + ": " + c.Message
		}
	}
	return "it has no sandboxes yet"
}

// print writes a line for each index, in order. It returns an error if a task failed.
func (f *fanout) print(ctx context.Context, batch *v1alpha1.BatchSandbox) error {
	results, err := resultsOf(batch, f.n)
	if err != nil {
		return err
	}
	if f.logs {
		if err := f.readOutput(ctx, batch, results); err != nil {
			return err
		}
	}
	failed := 0
	fmt.Fprintf(f.out, "%-5s  %-14s  %s\n", "INDEX", "RESULT", "OUTPUT")
	for i, r := range results {
		fmt.Fprintf(f.out, "%-5d  %-14s  %s\n", i, r.what, r.output)
		if !r.succeeded {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d tasks failed", failed, f.n)
	}
	return nil
}

// resultsOf reads the status: which indexes succeeded, why the others failed, and what the first of these wrote last.
func resultsOf(batch *v1alpha1.BatchSandbox, n int) ([]result, error) {
	results := make([]result, n)
	set := func(indexes string, succeeded bool, what string) error {
		list, err := expand(indexes, n)
		for _, i := range list {
			results[i] = result{succeeded: succeeded, what: what}
		}
		return err
	}
	if err := set(batch.Status.CompletedIndexes, true, "Succeeded"); err != nil {
		return nil, err
	}
	for _, failure := range batch.Status.FailedReasons {
		if err := set(failure.Indexes, false, failure.Reason); err != nil {
			return nil, err
		}
	}
	for _, failed := range batch.Status.FailedTasks {
		if int(failed.Index) < n {
			results[failed.Index].output = lastLine(failed.Output)
		}
	}
	return results, nil
}

// expand is the list of compressed indexes: 0-3,7 are 0, 1, 2, 3 and 7.
func expand(indexes string, n int) ([]int, error) {
	var list []int
	for part := range strings.SplitSeq(indexes, ",") {
		if part == "" {
			continue
		}
		from, to, many := strings.Cut(part, "-")
		if !many {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || last >= n {
			return nil, fmt.Errorf("the status has indexes %q, want some below %d, like 0-3,7", indexes, n)
		}
		for i := first; i <= last; i++ {
			list = append(list, i)
		}
	}
	return list, nil
}

// readOutput reads the last line that each task wrote from the log of its pod. The batch names the pod of each index.
func (f *fanout) readOutput(ctx context.Context, batch *v1alpha1.BatchSandbox, results []result) error {
	var held struct{ Pods []string }
	if err := json.Unmarshal([]byte(batch.Annotations[v1alpha1.AllocStatusAnnotation]), &held); err != nil {
		return fmt.Errorf("read which pods are held: %w", err)
	}
	for i, pod := range held.Pods {
		if pod == "" || i >= len(results) {
			continue
		}
		log, err := f.core.CoreV1().Pods(f.namespace).GetLogs(pod, &corev1.PodLogOptions{
			Container: v1alpha1.TaskExecutorContainer, SinceTime: &batch.CreationTimestamp,
		}).DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("read the log of pod %s: %w", pod, err)
		}
		if line := lastLine(taskOutput(log, fmt.Sprintf("%s-%d-", batch.UID, i))); line != "" {
			results[i].output = line
		}
	}
	return nil
}

// taskOutput is what the runs wrote whose names begin so.
func taskOutput(log []byte, task string) string {
	var out strings.Builder
	for line := range bytes.Lines(log) {
		l, ok := taskexecutor.ParseLogLine(bytes.TrimSuffix(line, []byte("\n")))
		if ok && strings.HasPrefix(l.Task, task) && l.Stream != taskexecutor.EndStream {
			out.Write(l.Text)
			out.WriteByte('\n')
		}
	}
	return out.String()
}

func lastLine(text string) string {
	text = strings.TrimRight(text, "\n")
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// giveBack deletes the batch: its tasks are stopped, and its pods return to the pool.
func (f *fanout) giveBack(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, givingBack)
	defer cancel()
	if err := f.batches.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		fmt.Fprintf(os.Stderr, "fanout: delete batch %s yourself: %v\n", name, err)
	}
}
