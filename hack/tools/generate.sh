#!/usr/bin/env bash
# Writes every generated file below OUT (default: this checkout): deep copies, clients, definitions with and without CEL
# rules, the reference of the API, and the controller's roles: one for all namespaces, and one for each of some. For chart, OUT is the
# chart's folder, and the rest of the chart is there.
#
#   hack/tools/generate.sh deepcopy|clients|manifests|chart [OUT]
set -euo pipefail

part=${1:?usage: hack/tools/generate.sh deepcopy|clients|manifests|chart [OUT]}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${2:-$PWD}
if [ "$part" = chart ]; then
	exec go run ./hack/tools/chart "$(hack/tools/tool.sh kustomize)" "${2:-charts/opensandbox-controller}"
fi
header=hack/tools/boilerplate.go.txt

case $part in
deepcopy)
	gen=$(hack/tools/tool.sh controller-gen)
	mkdir -p "$out/api/v1alpha1"
	"$gen" "object:headerFile=$header" paths=./api/v1alpha1 "output:object:dir=$out/api/v1alpha1"
	;;
clients)
	# Apply configurations are of the same family as the clientset that takes them, and not controller-gen's. There is no fake
	# clientset: it guesses plurals, and looks for "batchsandboxs".
	module=opensandbox.io/controller api=$module/api/v1alpha1 clients=$module/pkg/client to=$out/pkg/client
	rm -rf "$to"/{applyconfiguration,clientset,listers,informers}
	generate() { "$(hack/tools/tool.sh code-generator "$1")" --go-header-file="$header" --output-dir="$to/$2" --output-pkg="$clients/$2" "${@:3}"; }
	generate applyconfiguration-gen applyconfiguration "$api"
	generate client-gen clientset --clientset-name=versioned --fake-clientset=false --apply-configuration-package="$clients/applyconfiguration" \
		--input-base="$module" --input=api/v1alpha1
	generate lister-gen listers "$api"
	generate informer-gen informers --versioned-clientset-package="$clients/clientset/versioned" --listers-package="$clients/listers" "$api"
	;;
manifests)
	gen=$(hack/tools/tool.sh controller-gen)
	mkdir -p "$out/config/crd/bases" "$out/config/crd-no-cel/bases" "$out/config/rbac"
	rm -f "$out"/config/crd/bases/*.yaml
	"$gen" crd paths=./api/... "output:crd:artifacts:config=$out/config/crd/bases"
	go run ./hack/tools/crd-no-cel "$out/config/crd/bases" "$out/config/crd-no-cel/bases"
	mkdir -p "$out/docs"
	go run ./hack/tools/reference "$out/config/crd/bases" api/v1alpha1 >"$out/docs/reference.md"
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
	echo "generate.sh: unknown part $part: use deepcopy, clients, manifests or chart" >&2
	exit 1
	;;
esac
