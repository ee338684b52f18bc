#!/bin/sh
# Takes many sandboxes of a pool in one batch, runs a different task in each, prints the results by index and gives the
# sandboxes back. Needs kubectl alone.
#
#   examples/kubectl/fanout.sh [-k KUBECONFIG] [-n NAMESPACE] [-c COUNT] [-t TIMEOUT] [-q] POOL [SCRIPT]
#
# Task i is the SCRIPT (one line) with i as its argument $1. TIMEOUT is in seconds, 600 unless set. With -q what the tasks wrote isn't read from the logs of their pods.
# The exit code is 1 if any task failed, or nothing could be run.
set -eu

usage='usage: fanout.sh [-k KUBECONFIG] [-n NAMESPACE] [-c COUNT] [-t TIMEOUT] [-q] POOL [SCRIPT]'
count=100 timeout=600 quiet=
while getopts k:n:c:t:q option; do
	case $option in
	k) export KUBECONFIG="$OPTARG" ;;
	n) namespace=$OPTARG ;;
	c) count=$OPTARG ;;
	t) timeout=$OPTARG ;;
	q) quiet=yes ;;
	*) echo "$usage" >&2 && exit 1 ;;
	esac
done
shift $((OPTIND - 1))
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
	echo "$usage" >&2
	exit 1
fi
pool=$1
script=${2:-'echo "$1 squared is $(($1 * $1))"'}

k() { kubectl ${namespace:+--namespace="$namespace"} "$@"; }
# field PATH is a field of the batch. Where there is none it is empty.
field() { k get "$batch" -o jsonpath="$1"; }
# expand INDEXES prints compressed indexes one a line: 0-3,7 are 0, 1, 2, 3 and 7.
expand() {
	echo "$1" | tr ',' '\n' | awk -F- 'NF { for (i = $1 + 0; i <= $NF + 0; i++) print i }'
}

# One task for all, and a patch for each index that makes it a different one.
manifest() {
	cat <<END
apiVersion: sandbox.opensandbox.io/v1alpha1
kind: BatchSandbox
metadata:
  generateName: fanout-
spec:
  replicas: $count
  poolRef: $pool
  taskTemplate:
    spec:
      process:
        command: ["sh", "-c", "$(printf %s "$script" | sed 's/[\\"]/\\&/g')", "task"]
  shardTaskPatches:
END
	expand "0-$((count - 1))" | sed 's/.*/  - spec: {process: {args: ["&"]}}/'
}

batch=$(manifest | k create -f - -o name)
work=$(mktemp -d)
clean_up() {
	trap - EXIT
	rm -rf "$work"
	k delete "$batch" --ignore-not-found --wait=false >/dev/null || echo "fanout.sh: delete $batch yourself" >&2
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# In slices, to see in between whether it can't be run at all.
slice=5
until k wait --for=condition=TasksCompleted "$batch" --timeout="${slice}s" >/dev/null 2>&1; do
	timeout=$((timeout - slice))
	phase=$(field '{.status.phase}')
	if [ "$phase" = Failed ] || [ "$timeout" -le 0 ]; then
		echo "fanout.sh: not all tasks of $batch have ended: $(field '{.status.conditions[?(@.status=="False")].message}')" >&2
		exit 1
	fi
done

# Which indexes succeeded, and why the others failed: a line each, "INDEX RESULT".
{
	expand "$(field '{.status.completedIndexes}')" | sed 's/$/ Succeeded/'
	field '{range .status.failedReasons[*]}{.reason}{" "}{.indexes}{"\n"}{end}' | while read -r reason indexes; do
		expand "$indexes" | sed "s/\$/ $reason/"
	done
} | sort -n >"$work/results"

# The batch names the pod of each index, and the log of its task-executor has each line of a task after its name and stream, stdout or stderr.
if [ -z "$quiet" ]; then
	uid=$(field '{.metadata.uid}')
	since=$(field '{.metadata.creationTimestamp}')
	i=0
	held=$(field '{.metadata.annotations.sandbox\.opensandbox\.io/alloc-status}') # {"pods":["pod-a",""]}
	for pod in $(echo "$held" | sed 's/.*"pods":\[//; s/\].*//; s/""/-/g' | tr -d '"' | tr ',' ' '); do
		if [ "$pod" != - ]; then
			k logs "$pod" -c task-executor --since-time="$since" | sed -n "s/^task=$uid-$i-[0-9]* stream=std[a-z]* | //p" | tail -n 1 >"$work/output-$i"
		fi
		i=$((i + 1))
	done
else # what the first ten that failed wrote last
	for i in $(field '{.status.failedTasks[*].index}'); do
		field "{.status.failedTasks[?(@.index==$i)].output}" | tail -n 1 >"$work/output-$i"
	done
fi

printf '%-5s  %-14s  %s\n' INDEX RESULT OUTPUT
failed=0
while read -r i what; do
	printf '%-5s  %-14s  %s\n' "$i" "$what" "$(cat "$work/output-$i" 2>/dev/null || true)"
	if [ "$what" != Succeeded ]; then failed=$((failed + 1)); fi
done <"$work/results"
if [ "$failed" -gt 0 ]; then
	echo "fanout.sh: $failed of $count tasks failed" >&2
	exit 1
fi
