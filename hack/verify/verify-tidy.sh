#!/usr/bin/env bash
# Promise: go.mod and go.sum of every module are tidy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
ok=true
while read -r mod; do
	dir=$(dirname "$mod")
	if ! go -C "$dir" mod tidy -diff >&2; then
		echo "fix: go -C $dir mod tidy" >&2
		ok=false
	fi
done < <(git ls-files --cached --others --exclude-standard -- go.mod '**/go.mod' | sort -u)
$ok
