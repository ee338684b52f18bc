#!/usr/bin/env bash
# Writes every generated file below OUT (default: this checkout): deep copies, definitions with and without CEL rules,
# and the controller's roles: one for all namespaces, and one for each of some. For chart, OUT is the chart's folder, and the rest of
# the chart is there.
#
#   hack/tools/generate.sh deepcopy|manifests|chart [OUT]
set -euo pipefail

part=${1:?usage: hack/tools/generate.sh deepcopy|manifests|chart [OUT]}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${2:-$PWD}
if [ "$part" = chart ]; then
	exec go run ./hack/tools/chart "$(hack/tools/tool.sh kustomize)" "${2:-charts/opensandbox-controller}"
fi
gen=$(hack/tools/tool.sh controller-gen)

case $part in
deepcopy)
	mkdir -p "$out/api/v1alpha1"
	"$gen" object:headerFile=hack/tools/boilerplate.go.txt paths=./api/v1alpha1 "output:object:dir=$out/api/v1alpha1"
	;;
manifests)
	mkdir -p "$out/config/crd/bases" "$out/config/crd-no-cel/bases" "$out/config/rbac"
	rm -f "$out"/config/crd/bases/*.yaml
	"$gen" crd paths=./api/... "output:crd:artifacts:config=$out/config/crd/bases"
	go run ./hack/tools/crd-no-cel "$out/config/crd/bases" "$out/config/crd-no-cel/bases"
	"$gen" rbac:roleName=opensandbox-controller-manager paths=./internal/controller/... "output:rbac:artifacts:config=$out/config/rbac"
	# A Role grants nothing outside of its namespace, so the controller of nodes does without.
	namespaced=$out/config/namespaced/namespace
	mkdir -p "$namespaced"
	packages=()
	for dir in internal/controller/*/; do
		[ "$dir" = internal/controller/node/ ] || packages+=("paths=./$dir...")
	done
	role=$("$gen" rbac:roleName=opensandbox-controller-manager "${packages[@]}" output:rbac:stdout)
	sed 's/^kind: ClusterRole$/kind: Role/' <<<"$role" >"$namespaced/role.yaml"
	;;
*)
	echo "generate.sh: unknown part $part: use deepcopy, manifests or chart" >&2
	exit 1
	;;
esac
