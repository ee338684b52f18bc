#!/usr/bin/env bash
# Runs every fuzz target for a while, one after the other. A crash leaves its input under testdata/fuzz: commit it with the fix.
#
#   hack/test/fuzz.sh [TIME]
set -euo pipefail

time=${1:-10s}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
targets=$(grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' api cmd internal pkg test 2>/dev/null | sort || true)
if [ -z "$targets" ]; then
	echo "fuzz.sh: no fuzz target found" >&2
	exit 1
fi
while IFS=: read -r file func; do
	name=${func#func }
	echo "== $name in ${file%/*} for $time"
	go test -run='^$' -fuzz="^$name\$" -fuzztime="$time" "./${file%/*}"
done <<<"$targets"
