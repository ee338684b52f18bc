#!/usr/bin/env bash
# Promise: generated files are what the generators write now, none is missing, stale or left out of Git.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

want=$(mktemp -d)
trap 'rm -rf "$want"' EXIT
hack/tools/generate.sh deepcopy "$want"
hack/tools/generate.sh clients "$want"
hack/tools/generate.sh manifests "$want"

ok=true
for dir in config/crd/bases config/crd-no-cel/bases pkg/client/{applyconfiguration,clientset,listers,informers}; do
	diff -ruN --label "$dir" --label "$dir (generated)" "$dir" "$want/$dir" >&2 || ok=false
done
for file in api/v1alpha1/zz_generated.deepcopy.go docs/reference.md config/rbac/role.yaml config/namespaced/namespace/role.yaml; do
	diff -uN "$file" "$want/$file" >&2 || ok=false
done
if ! $ok; then
	echo "generated files are out of date. fix: make generate manifests" >&2
	exit 1
fi

# gofmt turns '' in a doc comment into a curly quote, markers included; the API server would refuse such a rule.
if grep -n '[“”‘’]' config/crd/bases/*.yaml >&2; then
	echo "curly quotes in a definition: gofmt changed the marker. fix: write \\\"\\\" instead of '' in it, then make manifests" >&2
	exit 1
fi

if git rev-parse --git-dir >/dev/null 2>&1; then
	untracked=$(git ls-files --others -- config/crd config/crd-no-cel config/rbac config/namespaced docs/reference.md pkg/client 'api/**/zz_generated*')
	if [ -n "$untracked" ]; then
		printf 'generated, but not in Git:\n%s\nfix: git add %s\n' "$untracked" "$(echo "$untracked" | tr '\n' ' ')" >&2
		exit 1
	fi
fi
