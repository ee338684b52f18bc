#!/usr/bin/env bash
# Runs a command with a local cluster beside it, and takes the cluster down afterwards, whatever happened. A cluster of that
# name that was up before is used and stays up, which makes repeated runs fast: make cluster-up CLUSTER=kwok CLUSTER_NAME=integration
#
#   hack/test/with-cluster.sh node|kwok|kind NAME -- COMMAND...
#
# The command sees KUBECONFIG, KUBEBUILDER_ASSETS (etcd, kube-apiserver, kubectl), OPENSANDBOX_CLUSTER (the kind),
# OPENSANDBOX_CLUSTER_NAME and OPENSANDBOX_AUDIT_LOG (the API server's, where it keeps one).
set -euo pipefail

if [ $# -lt 4 ] || [ "$3" != -- ]; then
	echo "usage: hack/test/with-cluster.sh node|kwok|kind NAME -- COMMAND..." >&2
	exit 2
fi
cluster=$1 name=$2
shift 3
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
localcluster() { go -C hack/localcluster run . "$@"; }

assets=$(localcluster assets --cluster="$cluster")
if ! localcluster kubeconfig --name="$name" >/dev/null 2>&1; then
	trap 'localcluster down --name="$name"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	# Simulated pods live on loopback, so that a test can serve a pod's port; a random range keeps two runs apart.
	addresses=()
	if [ "$cluster" = kwok ]; then addresses=(--pod-cidr="127.$((RANDOM % 200 + 20)).0.0/16"); fi
	localcluster up --cluster="$cluster" --name="$name" "${addresses[@]}"
fi
KUBECONFIG=$(localcluster kubeconfig --name="$name")
export KUBECONFIG
export KUBEBUILDER_ASSETS=${KUBEBUILDER_ASSETS:-$assets}
export OPENSANDBOX_CLUSTER=$cluster OPENSANDBOX_CLUSTER_NAME=$name
export OPENSANDBOX_AUDIT_LOG=${KUBECONFIG%/*}/audit.log
export PATH=$assets:$PATH
"$@"
