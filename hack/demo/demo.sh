#!/usr/bin/env bash
# Shows the project on a local cluster, from nothing: warm pools, batches of sandboxes, and tasks inside them. Run: make demo
#
# The cluster stays up for a look around; `make cluster-down` removes it. Running the demo again is fine.
# Environment: CLUSTER (node or kind), CLUSTER_NAME, MAKE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cluster=${CLUSTER:-node}
name=${CLUSTER_NAME:-default}
make=${MAKE:-make}
controller_image=opensandbox/controller:dev
executor_image=opensandbox/task-executor:dev
patience=180 # seconds a step may take before it counts as failed
step="start"
namespaced=(-n default)

localcluster() { go -C hack/localcluster run . "$@"; }

# begin names the step that follows, in the output and in the message of a failure.
begin() {
	step=$1
	printf '\n=== %s (%d s since start)\n' "$step" "$SECONDS"
}

# fail ends the demo: the reason last, after what helps to find the cause.
fail() {
	trap - ERR
	{
		if [ -n "${KUBECONFIG:-}" ] && kubectl version --request-timeout=5s >/dev/null 2>&1; then
			echo "--- objects"
			kubectl get pools,batchsandboxes,pods -A -o wide || true
			echo "--- batches and pools in detail"
			kubectl "${namespaced[@]}" describe pools,batchsandboxes || true
			echo "--- events"
			kubectl get events -A --sort-by=.lastTimestamp | tail -n 30 || true
			echo "--- logs of pods that are not ready"
			kubectl "${namespaced[@]}" get pods --no-headers | awk '{split($2, n, "/"); if (n[1] != n[2]) print $1}' | head -n 3 |
				while read -r pod; do
					kubectl "${namespaced[@]}" logs "$pod" --all-containers --prefix --tail=20 || true
				done
			echo "--- controller"
			kubectl -n opensandbox-system describe pods | tail -n 30 || true
			kubectl -n opensandbox-system logs -l control-plane=controller-manager --prefix --tail=60 || true
		fi
	} >&2
	echo "demo: FAILED at $step: $1"
	exit 1
}
# Functions inherit the trap; a subshell leaves the report to its parent.
set -E
trap 'code=$?; if [ "$BASH_SUBSHELL" = 0 ]; then fail "\"$BASH_COMMAND\" ended with code $code"; fi' ERR

show() {
	printf '$ %s\n' "$*"
	"$@"
}

# wait_for DESCRIPTION COMMAND... repeats the command until it succeeds, with a line of progress every 10 s.
wait_for() {
	local what=$1 start=$SECONDS next=10
	shift
	until "$@" >/dev/null 2>&1; do
		if [ $((SECONDS - start)) -ge $patience ]; then
			fail "$what: not seen within $patience s"
		fi
		if [ $((SECONDS - start)) -ge $next ]; then
			echo "... waiting for $what ($((SECONDS - start)) s)"
			next=$((next + 10))
		fi
		sleep 1
	done
	echo "$what: after $((SECONDS - start)) s"
}

# field prints one field of an object: field KIND/NAME .status.ready
field() { kubectl "${namespaced[@]}" get "$1" -o "jsonpath={$2}"; }

# is KIND/NAME PATH WANT compares a field; an absent number counts as 0.
is() {
	local got
	got=$(field "$1" "$2") && [ "${got:-0}" = "$3" ]
}
at_least() {
	local got
	got=$(field "$1" "$2") && [ "${got:-0}" -ge "$3" ]
}

# holders prints the pods of a batch in the order of its indexes, separated by spaces.
holders() {
	field "batchsandbox/$1" '.metadata.annotations.sandbox\.opensandbox\.io/alloc-status' |
		sed -n 's/.*"pods" *: *\[\([^]]*\)\].*/\1/p' | tr -d '" ' | tr ',' ' '
}

case $cluster in
node | kind) ;;
*)
	echo "demo: FAILED at $step: CLUSTER=$cluster runs no containers: use CLUSTER=node or CLUSTER=kind"
	exit 1
	;;
esac

begin "start the local cluster (the first time builds Kubernetes, which takes minutes)"
localcluster up --cluster="$cluster" --name="$name"
KUBECONFIG=$(localcluster kubeconfig --name="$name")
export KUBECONFIG
PATH=$(localcluster assets --cluster=kwok):$PATH # kubectl of the cluster's version

begin "build the controller and the task-executor"
"$make" --no-print-directory build

begin "put their images into the cluster's registry"
pushed=$(localcluster push --name="$name" --bin="$PWD/bin" --controller-image="$controller_image" --task-executor-image="$executor_image")
# By digest the controller rolls out whenever its content changed. kind has no registry, hence no digest.
by_digest=$(sed -n 's/^IMG=//p' <<<"$pushed")

begin "install the definitions and deploy the controller"
"$make" --no-print-directory install deploy KUBECTL=kubectl IMG="${by_digest:-$controller_image}" TASK_EXECUTOR_IMG="$executor_image"
show kubectl -n opensandbox-system rollout status deployment/opensandbox-controller-manager --timeout="${patience}s"
kubectl "${namespaced[@]}" delete --ignore-not-found --timeout="${patience}s" \
	-f config/samples/basic-batch.yaml -f config/samples/pooled-batch.yaml -f config/samples/task-batch.yaml
kubectl "${namespaced[@]}" delete --ignore-not-found --timeout="${patience}s" \
	-f config/samples/pool.yaml -f config/samples/task-pool.yaml

begin "a batch of two sandboxes, made from a template"
show kubectl "${namespaced[@]}" apply -f config/samples/basic-batch.yaml
wait_for "2 sandboxes ready" is batchsandbox/basic-batch-sandbox .status.ready 2
show kubectl "${namespaced[@]}" get batchsandbox basic-batch-sandbox -o wide
echo "endpoints: $(field batchsandbox/basic-batch-sandbox '.metadata.annotations.sandbox\.opensandbox\.io/endpoints')"

begin "a pool of warm sandboxes"
show kubectl "${namespaced[@]}" apply -f config/samples/pool.yaml
wait_for "5 sandboxes available" at_least pool/example-pool .status.available 5
show kubectl "${namespaced[@]}" get pool example-pool -o wide

begin "a batch of three from the pool"
show kubectl "${namespaced[@]}" apply -f config/samples/pooled-batch.yaml
wait_for "3 sandboxes ready" is batchsandbox/pooled-batch-sandbox .status.ready 3
show kubectl "${namespaced[@]}" get batchsandbox pooled-batch-sandbox -o wide
echo "endpoints: $(field batchsandbox/pooled-batch-sandbox '.metadata.annotations.sandbox\.opensandbox\.io/endpoints')"
wait_for "3 allocated in the pool's status" is pool/example-pool .status.allocated 3
show kubectl "${namespaced[@]}" get pool example-pool -o wide

begin "a pool whose sandboxes run tasks"
show kubectl "${namespaced[@]}" apply -f bin/deploy/samples/task-pool.yaml
wait_for "2 sandboxes available" at_least pool/task-example-pool .status.available 2
show kubectl "${namespaced[@]}" get pool task-example-pool -o wide

begin "a batch with two different tasks"
show kubectl "${namespaced[@]}" apply -f bin/deploy/samples/task-batch.yaml
wait_for "2 tasks succeeded" is batchsandbox/task-batch-sandbox .status.taskSucceed 2
show kubectl "${namespaced[@]}" get batchsandbox task-batch-sandbox -o wide

begin "the first task's file is in the sandbox and not in the executor"
read -r first second <<<"$(holders task-batch-sandbox)"
[ -n "${first:-}" ] || fail "the batch's alloc-status annotation names no pods"
got=$(kubectl "${namespaced[@]}" exec "$first" -c sandbox-container -- cat /tmp/result)
[ "$got" = "hello from 0" ] || fail "/tmp/result in $first has \"$got\", not \"hello from 0\""
echo "$first, sandbox-container: /tmp/result says \"$got\""
where=$(kubectl "${namespaced[@]}" exec "$first" -c task-executor -- sh -c 'if [ -e /tmp/result ]; then echo present; else echo absent; fi')
[ "$where" = absent ] || fail "/tmp/result is in the task-executor's container of $first: the task ran outside the sandbox"
echo "$first, task-executor: /tmp/result is $where"
echo "output of the second task, from the log of $second:"
kubectl "${namespaced[@]}" logs "$second" -c task-executor | grep 'Custom task for sandbox 1 with additional arguments' ||
	fail "the log of $second has no line of its task"

begin "delete the batches: the sandboxes go back to their pools"
show kubectl "${namespaced[@]}" delete batchsandbox basic-batch-sandbox pooled-batch-sandbox task-batch-sandbox --timeout="${patience}s"
for pool in example-pool task-example-pool; do
	wait_for "$pool: nothing allocated" is "pool/$pool" .status.allocated 0
	minimum=$(field "pool/$pool" .spec.capacitySpec.poolMin)
	wait_for "$pool: $minimum or more available again" at_least "pool/$pool" .status.available "$minimum"
done
show kubectl "${namespaced[@]}" get pools -o wide

printf '\nThe cluster is still up. Look around: export KUBECONFIG=$(make -s kubeconfig); remove it: make cluster-down\n'
echo "demo: ok"
