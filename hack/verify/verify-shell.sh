#!/usr/bin/env bash
# Promise: every shell script parses, is executable, and stops at the first error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
ok=true
while read -r file; do
	[ -f "$file" ] || continue
	bash -n "$file" || ok=false
	if [ ! -x "$file" ]; then
		echo "$file is not executable. fix: chmod +x $file" >&2
		ok=false
	fi
	if ! grep -q '^set -euo pipefail$' "$file"; then
		echo "$file: fix: add the line \"set -euo pipefail\"" >&2
		ok=false
	fi
done < <(git ls-files --cached --others --exclude-standard -- '*.sh' .ci/run | sort -u)
$ok
