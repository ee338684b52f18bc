// SPDX-License-Identifier: Apache-2.0

package tasklog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"opensandbox.io/controller/api/v1alpha1"
	"opensandbox.io/controller/internal/kubectl/cluster"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
)

// errNotYet says that there is no log to read: the pod or its container has not begun, or is gone.
var errNotYet = errors.New("no log")

// Source gives logs of pods. It is there to be faked.
type Source interface {
	// PodOf returns the name of the pod of an index of a batch without a pool, "" for none.
	PodOf(ctx context.Context, sb *v1alpha1.BatchSandbox, index int) (string, error)
	// Open returns a log.
	Open(ctx context.Context, namespace, pod string, options *corev1.PodLogOptions) (io.ReadCloser, error)
}

// NewSource returns the source that is the cluster.
func NewSource(f *cluster.Factory) (Source, error) {
	c, err := f.Client()
	if err != nil {
		return nil, err
	}
	core, err := f.Core()
	return &source{client: c, core: core}, err
}

type source struct {
	client client.Reader
	core   corev1client.CoreV1Interface
}

func (s *source) PodOf(ctx context.Context, sb *v1alpha1.BatchSandbox, index int) (string, error) {
	pod, err := cluster.Pod(ctx, s.client, sb, index)
	if pod == nil || err != nil {
		return "", err
	}
	return pod.Name, nil
}

func (s *source) Open(ctx context.Context, namespace, pod string, options *corev1.PodLogOptions) (io.ReadCloser, error) {
	return s.core.Pods(namespace).GetLogs(pod, options).Stream(ctx)
}

// open opens the log of a pod's task-executor, with the time of each line. It returns errNotYet where there is none.
func open(ctx context.Context, s Source, namespace, pod string, options corev1.PodLogOptions) (io.ReadCloser, error) {
	options.Container, options.Timestamps = v1alpha1.TaskExecutorContainer, true
	stream, err := s.Open(ctx, namespace, pod, &options)
	if isRefusal(err, "is not valid for pod") { // an executor may be the pod's only container, under any name
		options.Container = ""
		stream, err = s.Open(ctx, namespace, pod, &options)
	}
	if apierrors.IsNotFound(err) || isRefusal(err, "is waiting to start") || isRefusal(err, "not found") || isRefusal(err, "is terminated") {
		return nil, errNotYet
	}
	return stream, err
}

// isRefusal finds what the API server and the kubelet say of logs with one and the same code.
func isRefusal(err error, text string) bool {
	return (apierrors.IsBadRequest(err) || apierrors.IsInternalError(err)) && strings.Contains(err.Error(), text)
}

// Line is a line of a task's output.
type Line struct {
	taskexecutor.LogLine
	At  time.Time
	Try int
}

// parse reads a line of a log with times. Lines of others are none.
func (s *State) parse(line []byte, index int) (Line, bool) {
	stamp, rest, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if !ok {
		return Line{}, false
	}
	l, ok := taskexecutor.ParseLogLine(rest)
	if !ok {
		return Line{}, false
	}
	try, ok := s.tryOf(l.Task, index)
	if !ok {
		return Line{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	return Line{LogLine: l, At: at, Try: try}, err == nil
}
