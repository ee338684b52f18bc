#!/usr/bin/env bash
# Builds the binaries, puts them as images into the cluster that hack/test/with-cluster.sh started, deploys the controller there,
# and runs the command against it. The controller stays.
#
#   hack/test/with-cluster.sh node NAME -- hack/test/deployed.sh COMMAND...
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
: "${KUBECONFIG:?run this through hack/test/with-cluster.sh}" "${OPENSANDBOX_CLUSTER_NAME:?run this through hack/test/with-cluster.sh}"

make --no-print-directory build >&2 # what is in bin/ may be older than the checkout
pushed=$(go -C hack/localcluster run . push --name="$OPENSANDBOX_CLUSTER_NAME" --bin="$PWD/bin")
# By digest the controller rolls out whenever its content changed. kind has no registry, hence no digest.
by_digest=$(sed -n 's/^IMG=//p' <<<"$pushed")
export TASK_EXECUTOR_IMG=opensandbox/task-executor:dev
make --no-print-directory deploy KUBECTL=kubectl IMG="${by_digest:-opensandbox/controller:dev}" TASK_EXECUTOR_IMG="$TASK_EXECUTOR_IMG"
if ! kubectl -n opensandbox-system rollout status deployment/opensandbox-controller-manager --timeout=180s; then
	kubectl -n opensandbox-system describe pods >&2
	kubectl -n opensandbox-system logs -l control-plane=controller-manager --prefix --tail=50 >&2 || true
	echo "deployed.sh: the controller didn't become ready: see its pod and log above" >&2
	exit 1
fi
"$@"
