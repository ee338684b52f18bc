#!/usr/bin/env bash
# Promise: every shell script parses, is executable, and stops at the first error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
ok=true
while read -r file; do
	[ -f "$file" ] || continue
	shell=bash stops='set -euo pipefail'
	if [ "$(head -n 1 "$file")" = '#!/bin/sh' ]; then shell=sh stops='set -eu'; fi
	"$shell" -n "$file" || ok=false
	if [ ! -x "$file" ]; then
		echo "$file is not executable. fix: chmod +x $file" >&2
		ok=false
	fi
	if ! grep -qx "$stops" "$file"; then
		echo "$file: fix: add the line \"$stops\"" >&2
		ok=false
	fi
done < <(git ls-files --cached --others --exclude-standard -- '*.sh' .ci/run | sort -u)
$ok
