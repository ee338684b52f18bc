#!/usr/bin/env bash
# Runs the command, which tests the dashboard, with a browser and a cluster of its own: a real node with the controller deployed.
# Where there is no browser, root on Debian gets one; elsewhere the test is skipped.
#
#   hack/test/browser.sh COMMAND...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

skip() {
	echo "SKIP test-browser: $1"
	exit 0
}
if [ "$(uname -s)" != Linux ] || [ "$(id -u)" != 0 ]; then
	skip "a real node needs Linux and root; this is $(uname -s) as $(id -un)"
fi
if ! command -v chromium >/dev/null; then
	command -v apt-get >/dev/null || skip "there is no chromium; install it, and run again"
	apt-get update -q >&2
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core >&2 ||
		skip "there is no chromium, and apt-get can't install it"
fi
exec hack/test/with-cluster.sh node browser -- hack/test/deployed.sh "$@"
