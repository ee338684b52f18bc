#!/usr/bin/env bash
# Promise: the chart's templates and its table of values are what `make chart` writes now; helm finds nothing wrong with it; it makes the
# objects that kustomize makes of config/, every value does something, and those that it doesn't know are refused.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
chart=charts/opensandbox-controller
kustomize=$(hack/tools/tool.sh kustomize)
helm=$(hack/tools/tool.sh helm)

want=$(mktemp -d)
trap 'rm -rf "$want"' EXIT
cp -r "$chart" "$want/chart"
hack/tools/generate.sh chart "$want/chart"
if ! diff -ruN --label "$chart" --label "$chart (generated)" "$chart" "$want/chart" >&2; then
	echo "the chart is out of date. fix: make chart" >&2
	exit 1
fi
if ! problems=$("$helm" lint --strict "$chart" 2>&1); then
	echo "$problems" >&2
	echo "fix: the chart, so that this succeeds: \$(hack/tools/tool.sh helm) lint --strict $chart" >&2
	exit 1
fi
go run ./hack/verify/chart "$kustomize" "$helm" "$chart"
