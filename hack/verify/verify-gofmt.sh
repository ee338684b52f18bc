#!/usr/bin/env bash
# Promise: every Go file is formatted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mapfile -t files < <(hack/verify/go-files.sh)
unformatted=$(gofmt -l "${files[@]}")
if [ -n "$unformatted" ]; then
	printf 'not formatted:\n%s\nfix: make fmt\n' "$unformatted" >&2
	exit 1
fi
