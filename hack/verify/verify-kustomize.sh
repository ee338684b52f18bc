#!/usr/bin/env bash
# Promise: every kustomization under config/ builds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
kustomize=$(hack/tools/tool.sh kustomize)
ok=true
for file in config/*/kustomization.yaml; do
	dir=${file%/*}
	if ! "$kustomize" build "$dir" >/dev/null; then
		echo "fix: $dir so that this works: \$(hack/tools/tool.sh kustomize) build $dir" >&2
		ok=false
	fi
done
$ok
