#!/usr/bin/env bash
# Prints the Go files of the checkout, one a line, untracked ones too; what Git ignores is left out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
git ls-files --cached --others --exclude-standard -- '*.go' | sort -u | while read -r file; do
	if [ -f "$file" ]; then echo "$file"; fi # deleted, but not yet committed
done
