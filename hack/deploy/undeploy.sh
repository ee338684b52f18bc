#!/usr/bin/env bash
# Deletes every batch, then every pool, in all namespaces, while the controller still runs (it removes their finalizers
# once tasks are stopped and sandboxes given back); then the definitions (uninstall), or the controller too (undeploy).
#
#   hack/deploy/undeploy.sh uninstall|undeploy
#
# Environment: KUBECTL, DELETE_TIMEOUT (default 3m, for each kind). Running it again, or on a cluster without any of it, is fine.
set -euo pipefail

what=${1:?usage: hack/deploy/undeploy.sh uninstall|undeploy}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
kubectl=${KUBECTL:-kubectl}
timeout=${DELETE_TIMEOUT:-3m}
kustomize=$(hack/tools/tool.sh kustomize)

# delete_all deletes the objects of one kind and waits until they are gone.
delete_all() {
	local kind=$1.sandbox.opensandbox.io
	if [ -z "$("$kubectl" get crd "$kind" --ignore-not-found -o name)" ]; then
		return
	fi
	local count
	count=$("$kubectl" get "$kind" --all-namespaces -o name | wc -l)
	if [ "$count" = 0 ]; then
		return
	fi
	echo "deleting $count $1 and waiting until the controller has let them go (at most $timeout each)"
	if ! "$kubectl" delete "$kind" --all --all-namespaces --timeout="$timeout"; then
		{
			echo "these $1 are not gone after $timeout:"
			"$kubectl" get "$kind" --all-namespaces
			"$kubectl" -n opensandbox-system get deployment,pods --ignore-not-found || true
			echo "The controller must run to remove their finalizers: deploy it again (make deploy), or give it more time"
			echo "(DELETE_TIMEOUT=10m make $what). Nothing else was removed."
		} >&2
		exit 1
	fi
}

# pods_gone waits until the sandboxes' pods are gone. The garbage collector deletes them by their owner, and can't any more
# once the owner's definition is gone.
pods_gone() {
	local label left deadline=$((SECONDS + 180))
	for label in batch-sandbox.sandbox.opensandbox.io/name sandbox.opensandbox.io/pool-name; do
		while left=$("$kubectl" get pods --all-namespaces -l "$label" -o name) || exit 1; [ -n "$left" ]; do
			if [ $SECONDS -ge $deadline ]; then
				"$kubectl" get pods --all-namespaces -l "$label" >&2
				echo "these pods of sandboxes are not gone after 3m: look why they don't end, then run make $what again" >&2
				exit 1
			fi
			sleep 1
		done
	done
}

delete_all batchsandboxes # before the pools: they hold the pools' sandboxes
delete_all pools
pods_gone

remove() {
	mkdir -p bin/deploy
	"$kustomize" build "$1" >bin/deploy/remove.yaml
	"$kubectl" delete --ignore-not-found --timeout="$timeout" -f bin/deploy/remove.yaml
}
if [ "$what" = undeploy ]; then
	remove config/manager
	remove config/rbac
fi
remove config/crd
