#!/usr/bin/env bash
# Runs the command with the controller deployed to the cluster that hack/test/with-cluster.sh started, and then tests that undeploying
# leaves nothing behind.
#
#   hack/test/with-cluster.sh node e2e -- hack/test/e2e.sh COMMAND...
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
hack/test/deployed.sh "$@"

# Undeploying a controller whose sandboxes are in use: the pool's own, a batch's own, and one in which a task runs.
namespace=undeploy-e2e
fail() {
	echo "e2e.sh: FAILED: $1" >&2
	exit 1
}
echo "=== undeploy"
kubectl delete namespace "$namespace" --ignore-not-found --timeout=120s # of a run that was broken off
kubectl create namespace "$namespace"
kubectl -n "$namespace" apply -f config/samples/basic-batch.yaml -f bin/deploy/samples/task-pool.yaml
kubectl -n "$namespace" apply -f - <<'END'
apiVersion: sandbox.opensandbox.io/v1alpha1
kind: BatchSandbox
metadata:
  name: busy
spec:
  replicas: 1
  poolRef: task-example-pool
  taskTemplate:
    spec:
      process:
        command: ["sleep", "1000"]
END
kubectl -n "$namespace" wait batchsandbox --all --for=condition=Ready --timeout=120s
kubectl -n "$namespace" wait batchsandbox/busy --for=jsonpath='{.status.taskRunning}'=1 --timeout=60s

for run in first second; do # the second finds nothing, and is fine
	make --no-print-directory undeploy KUBECTL=kubectl || fail "make undeploy, the $run time"
done
left=$(
	kubectl get crd,clusterrole,clusterrolebinding -o name | grep -i opensandbox || true
	kubectl get namespace opensandbox-system --ignore-not-found -o name
	kubectl get pods --all-namespaces -l sandbox.opensandbox.io/pool-name -o name
	kubectl get pods --all-namespaces -l batch-sandbox.sandbox.opensandbox.io/name -o name
	kubectl -n "$namespace" get pods -o name
)
[ -z "$left" ] || fail "make undeploy left behind: $left"
kubectl delete namespace "$namespace" --timeout=120s
echo "e2e.sh: undeploying left nothing behind"

echo "=== deploy and undeploy for some namespaces"
make --no-print-directory install KUBECTL=kubectl
for namespace in opensandbox-system team-a team-b; do
	kubectl create namespace "$namespace"
done
kubectl label namespace opensandbox-system pod-security.kubernetes.io/enforce=restricted
make --no-print-directory deploy OVERLAY=config/namespaced KUBECTL=kubectl IMG="${by_digest:-opensandbox/controller:dev}"
kubectl -n opensandbox-system rollout status deployment/opensandbox-controller-manager --timeout=180s
kubectl -n team-a wait serviceaccount/default --for=create --timeout=30s
kubectl -n team-a apply -f config/samples/basic-batch.yaml
kubectl -n team-a wait batchsandbox --all --for=condition=Ready --timeout=120s
make --no-print-directory undeploy OVERLAY=config/namespaced KUBECTL=kubectl || fail "make undeploy OVERLAY=config/namespaced"
left=$(
	for namespace in opensandbox-system team-a team-b; do
		kubectl -n "$namespace" get deployments,pods,roles,rolebindings,leases,secrets,poddisruptionbudgets,batchsandboxes -o name
	done
)
[ -z "$left" ] || fail "make undeploy OVERLAY=config/namespaced left behind: $left"
kubectl get crd batchsandboxes.sandbox.opensandbox.io pools.sandbox.opensandbox.io -o name || fail "make undeploy OVERLAY=config/namespaced took the definitions of others"
make --no-print-directory uninstall KUBECTL=kubectl || fail "make uninstall"
kubectl delete namespace opensandbox-system team-a team-b --timeout=120s
