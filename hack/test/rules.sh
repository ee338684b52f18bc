#!/usr/bin/env bash
# Runs the tests of rules, alerts and dashboard with promtool: `hack/test/rules.sh go test`. Without one it says why, and ends well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if ! PROMTOOL=$(hack/test/prometheus.sh promtool); then
	echo "SKIP test-rules: see above"
	exit 0
fi
export PROMTOOL
"$@" ./test/prometheus/...
