#!/usr/bin/env bash
# Promise: every Go file starts with the licence header alone, then an empty line. A generated file may have its build tag first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
header='// SPDX-License-Identifier: Apache-2.0'
ok=true
while read -r file; do
	mapfile -t -n 4 lines <"$file"
	at=0
	case $file in */zz_generated.*) [[ ${lines[0]:-} != //go:build* ]] || at=2 ;; esac
	if [ "${lines[at]:-}" != "$header" ] || [ -n "${lines[at + 1]-x}" ]; then
		echo "$file: fix: start it with the line \"$header\" and an empty line" >&2
		ok=false
	fi
done < <(hack/verify/go-files.sh)
$ok
