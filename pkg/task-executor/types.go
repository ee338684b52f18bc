// SPDX-License-Identifier: Apache-2.0

package taskexecutor

import "time"

// DefaultPort is the TCP port the daemon serves.
const DefaultPort = 5758

// RevisionHeader is the response header of GET /getTasks that holds the revision of the list it came with. A revision is
// opaque: it is only ever sent back as "since". It changes with every change of the list and with every start of the daemon.
const RevisionHeader = "Task-Revision"

// The environment of an executor that takes calls from the controller alone. The controller sets it in the pods it makes.
const (
	// RootCertificateEnv has the certificate of the controller's root: base64 of its DER form. Nothing in it is secret.
	RootCertificateEnv = "SANDBOX_CONTROLLER_ROOT"
	// PodUIDEnv has the UID of the executor's pod.
	PodUIDEnv = "SANDBOX_POD_UID"
	// SidecarModeEnv is "true" where the executor is a container beside the sandbox's, so that it never runs tasks in its own.
	SidecarModeEnv = "SANDBOX_SIDECAR_MODE"
)

// Bounds of the API, in bytes unless a duration.
const (
	// MaxBodyBytes bounds a request's and a response's body.
	MaxBodyBytes = 1 << 20
	// MaxWait bounds how long one GET /getTasks is held open; a longer wait is cut to it.
	MaxWait = 5 * time.Minute
	// MaxNameBytes bounds the name of a task.
	MaxNameBytes = 253
	// MaxTasks bounds the number of tasks in one set.
	MaxTasks = 64
	// MaxOutputBytes bounds Terminated.Output.
	MaxOutputBytes = 1 << 10
)

// Task is one run of a process, and where it stands.
type Task struct {
	// name identifies the run. At most 253 bytes, usable as a file name. Chosen by the caller, never run twice while known.
	Name string `json:"name"`
	// process says what to run. It can't be changed under a known name.
	Process Process `json:"process"`
	// processStatus says where the run stands. Ignored in requests, always set in answers.
	ProcessStatus *ProcessStatus `json:"processStatus,omitempty"`
}

// Process says what to run.
type Process struct {
	// command is the program and its first arguments. Required. A program without a slash is looked up in the sandbox's PATH.
	Command []string `json:"command"`
	// args are appended to command.
	Args []string `json:"args,omitempty"`
	// env is laid over the environment of the sandbox's main process, by name; of two entries of one name the later wins.
	Env []EnvVar `json:"env,omitempty"`
	// workingDir is a directory in the sandbox. Unset means the working directory of the sandbox's main process.
	WorkingDir string `json:"workingDir,omitempty"`
	// timeoutSeconds ends the whole process tree this long after the start. 0, the default, means no limit.
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty"`
}

// EnvVar is one environment variable.
type EnvVar struct {
	// name is not empty and holds neither "=" nor a zero byte.
	Name string `json:"name"`
	// value is taken as it is: nothing is expanded.
	Value string `json:"value,omitempty"`
}

// ProcessStatus says where a run stands. Exactly one member is set.
type ProcessStatus struct {
	// waiting: the process has not been started yet.
	Waiting *Waiting `json:"waiting,omitempty"`
	// running: the main process runs, or its tree is being stopped.
	Running *Running `json:"running,omitempty"`
	// terminated: the run has ended. Final once set.
	Terminated *Terminated `json:"terminated,omitempty"`
}

// Waiting is the state before the start.
type Waiting struct {
	// reason is a word in CamelCase.
	Reason string `json:"reason,omitempty"`
	// message is one sentence for people.
	Message string `json:"message,omitempty"`
}

// Running is the state between start and end.
type Running struct {
	// startedAt is when the command was executed.
	StartedAt time.Time `json:"startedAt,omitzero"`
}

// Terminated is the end of a run.
type Terminated struct {
	// exitCode is that of the main process; 128 plus the signal when a signal ended it, 128 when it never started, -1 when
	// nobody saw its end.
	ExitCode int32 `json:"exitCode"`
	// signal is the number of the signal that ended the main process, 0 for none.
	Signal int32 `json:"signal,omitempty"`
	// reason is one of the Reason constants.
	Reason string `json:"reason,omitempty"`
	// message is one sentence for people.
	Message string `json:"message,omitempty"`
	// output is the end of what the task wrote to stdout and stderr, at most 1 KiB, whole lines where they fit.
	Output string `json:"output,omitempty"`
	// startedAt is when the command was executed; unset when it never was.
	StartedAt time.Time `json:"startedAt,omitzero"`
	// finishedAt is when the run ended.
	FinishedAt time.Time `json:"finishedAt,omitzero"`
}

// Reasons of a terminated task. The first four are the user's own doing, the others the infrastructure's.
const (
	// ReasonCompleted surfaces when the main process exited with 0. Its background children may live on.
	ReasonCompleted = "Completed"
	// ReasonNonZeroExit surfaces when the main process exited with another code or was ended by a signal of somebody else.
	ReasonNonZeroExit = "NonZeroExit"
	// ReasonTimedOut surfaces when the task ran longer than its timeoutSeconds and its tree has been ended.
	ReasonTimedOut = "TimedOut"
	// ReasonCancelled surfaces when the task was taken out of the desired set before it ended by itself.
	ReasonCancelled = "Cancelled"
	// ReasonStartError surfaces when the command could not be started in the sandbox; the message names the refusal.
	ReasonStartError = "StartError"
	// ReasonSandboxLost surfaces when the sandbox's main process ended under the task.
	ReasonSandboxLost = "SandboxLost"
	// ReasonExecutorLost surfaces when the daemon ended, or was replaced, under the task.
	ReasonExecutorLost = "ExecutorLost"
)

// Reasons of a waiting task.
const (
	// ReasonStarting surfaces between the acceptance of a task and its start.
	ReasonStarting = "Starting"
)

// IsInfrastructureReason reports whether a task ended through no fault of its own, so that another try makes sense
// without counting against its own retries.
func IsInfrastructureReason(reason string) bool {
	switch reason {
	case ReasonStartError, ReasonSandboxLost, ReasonExecutorLost:
		return true
	default:
		return false
	}
}

// Health is the answer of GET /health.
type Health struct {
	// status is "healthy".
	Status string `json:"status"`
}

// StatusHealthy is the only status a daemon answers with: one that isn't healthy doesn't answer.
const StatusHealthy = "healthy"

// ErrorBody is the JSON of every answer that isn't a success.
type ErrorBody struct {
	// code is the text of the HTTP status, such as "Bad Request".
	Code string `json:"code"`
	// message says what to change.
	Message string `json:"message"`
}
