#!/usr/bin/env bash
# Deletes every batch, then every pool, while the controller still runs (it removes their finalizers once tasks are stopped and
# sandboxes given back); then the definitions (uninstall), or the controller too (undeploy). Of an overlay without definitions, as
# config/namespaced, only the batches and pools in its namespaces and the controller go.
#
#   hack/deploy/undeploy.sh uninstall|undeploy
#
# Environment: KUBECTL, OVERLAY (for undeploy: the kustomization that was deployed, default config/default), DELETE_TIMEOUT (default
# 3m, for each kind). Running it again, or on a cluster without any of it, is fine.
set -euo pipefail
shopt -s inherit_errexit

what=${1:?usage: hack/deploy/undeploy.sh uninstall|undeploy}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
kubectl=${KUBECTL:-kubectl}
timeout=${DELETE_TIMEOUT:-3m}
overlay=${OVERLAY:-config/default}
kustomize=$(hack/tools/tool.sh kustomize)

mkdir -p bin/deploy
"$kustomize" build "$overlay" >bin/deploy/remove.yaml
# deployment prints what follows a text in the lines of the overlay's Deployment, has looks for a kind in the overlay.
deployment() { sed -n '/^kind: Deployment$/,/^---$/p' bin/deploy/remove.yaml | sed -n "s/^ *$1//p"; }
has() { grep "^kind: $1\$" bin/deploy/remove.yaml >/dev/null; }

system=$(deployment 'namespace: ' | head -n 1)
scopes=(--all-namespaces)
if [ "$what" = undeploy ] && ! has CustomResourceDefinition; then
	mapfile -t scopes < <(deployment '- --watch-namespaces=' | tr ',' '\n' | sed 's/^/--namespace=/')
	if [ ${#scopes[@]} = 0 ]; then
		echo "$overlay has no definitions, and its controller no --watch-namespaces: nobody can tell which batches and pools are its own" >&2
		exit 1
	fi
fi

# delete_all deletes the objects of one kind and waits until they are gone.
delete_all() {
	local kind=$1.sandbox.opensandbox.io scope count
	if ! "$kubectl" api-resources --api-group=sandbox.opensandbox.io --cached=false -o name | grep -x "$kind" >/dev/null; then
		return
	fi
	for scope in "${scopes[@]}"; do
		count=$("$kubectl" get "$kind" "$scope" -o name | wc -l)
		if [ "$count" = 0 ]; then
			continue
		fi
		echo "deleting $count $1 ($scope) and waiting until the controller has let them go (at most $timeout each)"
		if ! "$kubectl" delete "$kind" --all "$scope" --timeout="$timeout"; then
			{
				echo "these $1 are not gone after $timeout:"
				"$kubectl" get "$kind" "$scope"
				"$kubectl" -n "$system" get deployment,pods --ignore-not-found || true
				echo "The controller must run to remove their finalizers: deploy it again (make deploy), or give it more time"
				echo "(DELETE_TIMEOUT=10m make $what). Nothing else was removed."
			} >&2
			exit 1
		fi
	done
}

# pods_gone waits until the sandboxes' pods are gone. The garbage collector deletes them by their owner, and can't any more
# once the owner's definition is gone.
pods_gone() {
	local label scope left deadline=$((SECONDS + 180))
	for label in batch-sandbox.sandbox.opensandbox.io/name sandbox.opensandbox.io/pool-name; do
		for scope in "${scopes[@]}"; do
			while left=$("$kubectl" get pods "$scope" -l "$label" -o name) || exit 1; [ -n "$left" ]; do
				if [ $SECONDS -ge $deadline ]; then
					"$kubectl" get pods "$scope" -l "$label" >&2
					echo "these pods of sandboxes are not gone after 3m: look why they don't end, then run make $what again" >&2
					exit 1
				fi
				sleep 1
			done
		done
	done
}

delete_all batchsandboxes # before the pools: they hold the pools' sandboxes
delete_all pools
pods_gone

if [ "$what" = uninstall ]; then
	"$kustomize" build config/crd >bin/deploy/remove.yaml
fi
"$kubectl" delete --ignore-not-found --timeout="$timeout" -f bin/deploy/remove.yaml
if [ "$what" = undeploy ] && ! has Namespace; then
	# What the controller made for itself would else stay in a namespace that stays. It ends first, or it makes them anew.
	"$kubectl" -n "$system" wait pod -l control-plane=controller-manager,app.kubernetes.io/name=opensandbox-controller --for=delete --timeout=60s
	"$kubectl" -n "$system" delete --ignore-not-found lease/2fa1c467.opensandbox.io secret/opensandbox-controller-root
fi
