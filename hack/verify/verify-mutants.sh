#!/usr/bin/env bash
# Promise: every patch of test/faults/mutants applies, says which fault it is for, what it breaks and what must be found, and stands
# in docs/testing.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
ok=true
for patch in test/faults/mutants/*.patch; do
	if ! git apply --check "$patch"; then
		echo "$patch: fix: make its edit again by hand, write \`git diff\` below its header, and try make mutants MUTANTS=$(basename "$patch" .patch)" >&2
		ok=false
	fi
	for field in Fault Defence Finding For; do
		if ! sed '/^diff /q' "$patch" | grep -q "^$field: ."; then
			echo "$patch: fix: add a line \"$field: ...\" above its diff" >&2
			ok=false
		fi
	done
	if ! grep -q "^| \`$(basename "$patch" .patch)\` |" docs/testing.md; then
		echo "$patch: fix: add a row for it to the table in docs/testing.md" >&2
		ok=false
	fi
	if git apply --numstat "$patch" | grep -qvP '\t(cmd|internal|pkg)/'; then
		echo "$patch: fix: break the controller or what it talks with alone: cmd, internal, pkg" >&2
		ok=false
	fi
done
$ok
