#!/usr/bin/env bash
# Tests the chart with real helm, on the cluster that hack/test/with-cluster.sh started: an install of a former version, an upgrade
# under a sandbox in use, the command (tests that use the controller), an uninstall that is refused, one that keeps the sandbox for the
# next install, one that leaves nothing behind, and a release for chosen namespaces whose admin has no right elsewhere.
#
#   hack/test/with-cluster.sh node helm -- hack/test/helm.sh COMMAND...
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
: "${KUBECONFIG:?run this through hack/test/with-cluster.sh}" "${OPENSANDBOX_CLUSTER_NAME:?run this through hack/test/with-cluster.sh}"
helm=$(hack/tools/tool.sh helm)
chart=charts/opensandbox-controller
release=opensandbox
system=opensandbox-system
users=helm-e2e
work=$(mktemp -d)
export HELM_CACHE_HOME=$work/cache HELM_CONFIG_HOME=$work/config HELM_DATA_HOME=$work/data
trap 'rm -rf "$work"' EXIT

begin() { echo "=== $1 ($SECONDS s since start)"; }
fail() {
	{
		kubectl get pods --all-namespaces -o wide || true
		kubectl -n "$system" get events --sort-by=.lastTimestamp | tail -n 20 || true
		kubectl -n "$system" logs -l control-plane=controller-manager --prefix --tail=30 || true
	} >&2
	echo "helm.sh: FAILED: $1" >&2
	exit 1
}
# is WHAT GOT WANT
is() { [ "$2" = "$3" ] || fail "$1 is \"$2\", not \"$3\""; }

# objects lists every object of the cluster but events, what the API server warns of, and the leases of kubelets, which come when they like.
objects() {
	local kinds
	kinds=$(kubectl api-resources --verbs=list -o name | grep -v -e '^events' -e '^componentstatuses$' -e '^endpoints$' | paste -sd,)
	kubectl get "$kinds" --all-namespaces --ignore-not-found \
		-o 'jsonpath={range .items[*]}{.apiVersion} {.kind} {.metadata.namespace}/{.metadata.name}{"\n"}{end}' | grep -v ' kube-node-lease/' | sort
}
# nothing_left compares with the objects that there were before; what is on its way out gets two minutes.
nothing_left() {
	local deadline=$((SECONDS + 120))
	until objects >"$work/after" && diff "$work/before" "$work/after" >"$work/left"; do
		[ $SECONDS -lt $deadline ] || fail "$1 left behind (>), or took with it (<): $(cat "$work/left")"
		sleep 1
	done
}
# busy prints what must not change while a sandbox is in use: its pod, its containers, and that its task runs and was begun once.
busy() {
	local pod
	kubectl -n "$1" wait batchsandbox/busy --for=jsonpath='{.status.taskRunning}'=1 --timeout=120s # a new leader asks the executor first
	pod=$(kubectl -n "$1" get pods -l batch-sandbox.sandbox.opensandbox.io/name=busy -o name)
	kubectl -n "$1" get "$pod" -o 'jsonpath={.metadata.uid} {.status.containerStatuses[*].containerID}{"\n"}'
	kubectl -n "$1" exec "$pod" -c sandbox-container -- cat /tmp/begun
}
# use makes a pool in a namespace, and a batch whose task runs in a sandbox of it.
use() {
	kubectl -n "$1" apply -f config/samples/task-pool.yaml -f - <<-'END'
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
		        command: ["sh", "-c", "echo begun >> /tmp/begun; exec sleep 1000"]
	END
	kubectl -n "$1" wait pod -l batch-sandbox.sandbox.opensandbox.io/name=busy --for=create --timeout=90s # labels come after delivery
}
field_of_definition() {
	kubectl get crd batchsandboxes.sandbox.opensandbox.io \
		-o 'jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.ttlSecondsAfterFinished.type}'
}

begin "build, and put the images into the cluster"
make --no-print-directory build >&2
pushed=$(go -C hack/localcluster run . push --name="$OPENSANDBOX_CLUSTER_NAME" --bin="$PWD/bin")
image=$(sed -n 's/^IMG=//p' <<<"$pushed")
case $image in
*@*) settings=(--set "image.repository=${image%@*}" --set "image.digest=${image#*@}") ;;
*) settings=(--set "image.repository=opensandbox/controller" --set "image.tag=dev") ;; # kind has no registry, hence no digest
esac
export TASK_EXECUTOR_IMG=opensandbox/task-executor:dev

kubectl create namespace "$system"
kubectl label namespace "$system" pod-security.kubernetes.io/enforce=restricted
kubectl create namespace "$users"
kubectl -n "$users" wait serviceaccount/default --for=create --timeout=30s
kubectl -n "$system" wait serviceaccount/default --for=create --timeout=30s
objects >"$work/before"

begin "install a former version, whose definition lacks a field"
cp -r "$chart" "$work/former"
sed -i 's/^version: .*/version: 0.0.1/' "$work/former/Chart.yaml"
awk '/^ *ttlSecondsAfterFinished:$/ {skip = match($0, /[^ ]/); next} skip && match($0, /[^ ]/) > skip {next} {skip = 0; print}' \
	"$chart/templates/crds.yaml" >"$work/former/templates/crds.yaml"
"$helm" install "$release" "$work/former" -n "$system" --wait --timeout=180s "${settings[@]}" || fail "helm install"
is "the field's type in the former definition" "$(field_of_definition)" ""
use "$users"
before=$(busy "$users")
is "the number of times that the task was begun" "$(grep -c '^begun$' <<<"$before")" 1

begin "upgrade, with other values"
"$helm" upgrade "$release" "$chart" -n "$system" --wait --timeout=180s "${settings[@]}" --set replicas=1,concurrency=8,logLevel=1 || fail "helm upgrade"
is "the field's type in the definition" "$(field_of_definition)" integer
is "the sandbox in use" "$(busy "$users")" "$before"
is "the number of controllers" "$(kubectl -n "$system" get deployment opensandbox-controller-manager -o 'jsonpath={.spec.replicas}')" 1
kubectl -n "$system" get deployment opensandbox-controller-manager -o 'jsonpath={.spec.template.spec.containers[0].args}' | grep -q -e '"--concurrency=8"' ||
	fail "the controller doesn't have --concurrency=8"

begin "use it: $*"
"$@" || fail "$*"

begin "an uninstall under a sandbox in use is refused"
if "$helm" uninstall "$release" -n "$system" --timeout=180s >"$work/refused" 2>&1; then fail "helm uninstall succeeded: $(cat "$work/refused")"; fi
cat "$work/refused"
grep -q "still there: batchsandboxes $users/busy; pools $users/task-example-pool. Nothing was removed" "$work/refused" ||
	fail "the refusal doesn't name what is in the way"
is "the sandbox in use" "$(busy "$users")" "$before"
"$helm" rollback "$release" -n "$system" --wait --timeout=180s || fail "helm rollback after a refused uninstall"
"$helm" upgrade "$release" "$chart" -n "$system" --reset-then-reuse-values --set uninstall.policy=Keep --wait --timeout=180s ||
	fail "helm upgrade after a refused uninstall"

begin "an uninstall that keeps the sandbox in use, and an install that takes it over"
"$helm" uninstall "$release" -n "$system" --timeout=300s || fail "helm uninstall that keeps"
kubectl -n "$system" wait pod -l control-plane=controller-manager --for=delete --timeout=120s
"$helm" install "$release" "$chart" -n "$system" --wait --timeout=180s "${settings[@]}" || fail "helm install after an uninstall that kept"
is "the sandbox in use" "$(busy "$users")" "$before"

begin "uninstall"
kubectl -n "$users" delete batchsandboxes --all --timeout=120s
kubectl -n "$users" delete pools --all --timeout=120s
"$helm" uninstall "$release" -n "$system" --timeout=300s || fail "helm uninstall"
nothing_left "helm uninstall"

begin "a release for chosen namespaces, by an admin of these alone"
kubectl apply --server-side -k config/crd
kubectl wait --for=condition=Established --timeout=60s -f config/crd/bases >/dev/null
kubectl create namespace "$users-other"
for namespace in "$system" "$users"; do
	kubectl -n "$namespace" create rolebinding tenant --clusterrole=cluster-admin --user=tenant
done
kubectl -n "$users-other" wait serviceaccount/default --for=create --timeout=30s
objects >"$work/before"
tenant=(--kube-as-user=tenant -n "$system")
"$helm" install "$release" "$chart" "${tenant[@]}" --wait --timeout=180s "${settings[@]}" \
	--set crds.install=false,uninstall.policy=Delete --set "watchNamespaces={$users}" || fail "helm install for chosen namespaces"
kubectl -n "$users-other" apply -f config/samples/basic-batch.yaml
use "$users"
is "the status of a batch in another namespace" "$(kubectl -n "$users-other" get batchsandboxes -o 'jsonpath={.items[*].status}')" ""
busy "$users" # a sandbox in use, which this release deletes
"$helm" uninstall "$release" "${tenant[@]}" --timeout=300s || fail "helm uninstall for chosen namespaces"
kubectl -n "$users-other" get batchsandbox basic-batch-sandbox -o name || fail "the uninstall of one namespace took a batch of another one"
kubectl -n "$users-other" delete -f config/samples/basic-batch.yaml
nothing_left "helm uninstall for chosen namespaces"
echo "helm.sh: ok ($SECONDS s)"
