// SPDX-License-Identifier: Apache-2.0

package taskexecutor_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"k8s.io/utils/clock"

	"opensandbox.io/controller/internal/task-executor/server"
	taskexecutor "opensandbox.io/controller/pkg/task-executor"
	"opensandbox.io/controller/pkg/task-executor/token"
)

// Run a task and wait for its end. Setting the same tasks again, as after an error, runs nothing twice.
func Example() {
	url, stop := startExecutor(nil) // in a cluster: taskexecutor.BaseURL(podIP)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := taskexecutor.New(url)
	defer client.CloseIdleConnections()

	tasks := []taskexecutor.Task{{Name: "greet-1", Process: taskexecutor.Process{
		Command: []string{"echo"}, Args: []string{"hello"}, TimeoutSeconds: 30,
	}}}
	if _, err := client.Set(ctx, tasks); err != nil {
		fmt.Println(err)
		return
	}
	for revision := ""; ; {
		list, next, err := client.Wait(ctx, revision, 20*time.Second)
		if err != nil {
			fmt.Println(err)
			return
		}
		if end := list[0].ProcessStatus.Terminated; end != nil {
			fmt.Printf("%s: %s, exit code %d, output %q\n", list[0].Name, end.Reason, end.ExitCode, end.Output)
			return
		}
		revision = next
	}
	// Output: greet-1: Completed, exit code 0, output "hello"
}

// A long poll answers as soon as something has changed after the revision it is given, and at once without one.
func ExampleClient_Wait() {
	url, stop := startExecutor(nil)
	defer stop()
	ctx := context.Background()
	client := taskexecutor.New(url)
	defer client.CloseIdleConnections()

	if _, err := client.Create(ctx, taskexecutor.Task{Name: "a", Process: taskexecutor.Process{Command: []string{"false"}}}); err != nil {
		fmt.Println(err)
	}
	revision := ""
	for range 2 {
		list, next, err := client.Wait(ctx, revision, taskexecutor.MaxWait)
		if err != nil {
			fmt.Println(err)
			return
		}
		status := list[0].ProcessStatus
		fmt.Println("running:", status.Running != nil, "ended:", status.Terminated != nil, "news:", next != revision)
		revision = next
	}
	// Output:
	// running: true ended: false news: true
	// running: false ended: true news: true
}

// Tasks that are missing from a set are stopped: their processes are gone when they are listed no more.
func ExampleClient_Set_stop() {
	url, stop := startExecutor(nil)
	defer stop()
	ctx := context.Background()
	client := taskexecutor.New(url)
	defer client.CloseIdleConnections()

	sleep := taskexecutor.Process{Command: []string{"sleep", "1000"}}
	list, err := client.Set(ctx, []taskexecutor.Task{{Name: "a", Process: sleep}, {Name: "b", Process: sleep}})
	fmt.Println(len(list), err)
	list, err = client.Set(ctx, nil)
	for err == nil && len(list) > 0 {
		list, _, err = client.Wait(ctx, "", 0)
	}
	fmt.Println(len(list), err)
	_, err = client.GetTask(ctx, "a")
	fmt.Println("known:", !taskexecutor.IsNotFound(err))
	// Output:
	// 2 <nil>
	// 0 <nil>
	// known: false
}

// A name stands for one run: setting the same task again changes nothing, and another process under a known name is refused.
func ExampleIsConflict() {
	url, stop := startExecutor(nil)
	defer stop()
	ctx := context.Background()
	client := taskexecutor.New(url)
	defer client.CloseIdleConnections()

	try := func(greeting string) taskexecutor.Task {
		return taskexecutor.Task{Name: "greet-1", Process: taskexecutor.Process{Command: []string{"echo"}, Args: []string{greeting}}}
	}
	for _, greeting := range []string{"hello", "hello", "good evening"} {
		_, err := client.Set(ctx, []taskexecutor.Task{try(greeting)})
		fmt.Println("taken:", err == nil, "conflict:", taskexecutor.IsConflict(err))
	}
	known, err := client.GetTask(ctx, "greet-1")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("it runs with:", known.Process.Args[0])
	// Output:
	// taken: true conflict: false
	// taken: true conflict: false
	// taken: false conflict: true
	// it runs with: hello
}

// Errors say whether the executor answered, and what: a task that is wrong is never taken, however often it is sent.
func ExampleStatusError() {
	url, stop := startExecutor(nil)
	defer stop()
	client := taskexecutor.New(url)
	defer client.CloseIdleConnections()

	_, err := client.Set(context.Background(), []taskexecutor.Task{{Name: "empty"}})
	var refused *taskexecutor.StatusError
	if errors.As(err, &refused) {
		fmt.Println(refused.Status, refused.Message)
	}
	// Output: 400 invalid: task 0: "empty": process.command must name a program
}

// An executor that knows the controller's root takes calls with its tokens only.
func ExampleWithTokens() {
	const podUID = "11111111-2222-3333-4444-555555555555"
	root, err := token.NewRoot(time.Now())
	if err != nil {
		fmt.Println(err)
		return
	}
	url, stop := startExecutor(guardOf(root.Certificate, podUID))
	defer stop()
	signer, err := token.NewSigner(root, clock.RealClock{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	client := taskexecutor.New(url, taskexecutor.WithTokens(func(method, path string, body []byte) (string, error) {
		return signer.Sign(token.Call{PodUID: podUID, Method: method, Path: path, Body: body})
	}))
	defer client.CloseIdleConnections()
	list, err := client.Get(ctx)
	fmt.Println(len(list), err)

	stranger := taskexecutor.New(url)
	defer stranger.CloseIdleConnections()
	_, err = stranger.Get(ctx)
	var refused *taskexecutor.StatusError
	fmt.Println(errors.As(err, &refused), err)
	// Output:
	// 0 <nil>
	// true get tasks: executor answered 401 Unauthorized: the call carries no valid token of the controller
}

// guardOf is the executor's own check of its calls.
func guardOf(root *x509.Certificate, podUID string) func(http.Handler) http.Handler {
	return func(handler http.Handler) http.Handler {
		return server.Guard(handler, token.NewVerifier(root, podUID, clock.RealClock{}), slog.New(slog.DiscardHandler))
	}
}
