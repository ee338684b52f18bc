#!/usr/bin/env bash
# Puts the binaries of bin/ as images into the cluster that hack/test/with-cluster.sh started, deploys the controller
# there, and runs the command against it.
#
#   hack/test/with-cluster.sh node e2e -- hack/test/e2e.sh COMMAND...
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
: "${KUBECONFIG:?run this through hack/test/with-cluster.sh}" "${OPENSANDBOX_CLUSTER_NAME:?run this through hack/test/with-cluster.sh}"

pushed=$(go -C hack/localcluster run . push --name="$OPENSANDBOX_CLUSTER_NAME" --bin="$PWD/bin")
# By digest the controller rolls out whenever its content changed. kind has no registry, hence no digest.
by_digest=$(sed -n 's/^IMG=//p' <<<"$pushed")
make --no-print-directory deploy KUBECTL=kubectl IMG="${by_digest:-opensandbox/controller:dev}" TASK_EXECUTOR_IMG=opensandbox/task-executor:dev
if ! kubectl -n opensandbox-system rollout status deployment/opensandbox-controller-manager --timeout=180s; then
	kubectl -n opensandbox-system describe pods >&2
	kubectl -n opensandbox-system logs deployment/opensandbox-controller-manager --tail=50 >&2 || true
	echo "e2e.sh: the controller didn't become ready: see its pod and log above" >&2
	exit 1
fi
"$@"
