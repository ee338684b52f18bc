#!/usr/bin/env bash
# Runs golangci-lint with the settings of .golangci.yml over every module with code of its own.
# Where another one runs, in whatever checkout, it waits for its turn.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
lint=$(hack/tools/tool.sh golangci-lint)
config=$PWD/.golangci.yml
ok=true
for module in . hack/localcluster hack/licenses test/browser; do
	[ -f "$module/go.mod" ] || continue
	echo "lint: $module"
	(cd "$module" && nice "$lint" run --allow-serial-runners --config="$config" ./...) || ok=false
done
if ! $ok; then
	echo "lint: FAILED. Some findings fix themselves: \$(hack/tools/tool.sh golangci-lint) run --fix" >&2
	exit 1
fi
