#!/usr/bin/env bash
# Prints the path of a Python that has the official Kubernetes client, for the example in examples/python. On Debian it installs
# the package as root. Ends with 3 and a reason where there is none.
set -euo pipefail

for python in python3 /usr/bin/python3; do
	if "$python" -c 'import kubernetes' 2>/dev/null; then
		command -v "$python"
		exit
	fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "no Python here has the module kubernetes: pip install kubernetes, or Debian's package python3-kubernetes" >&2
	exit 3
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -q && apt-get install -y -q --no-install-recommends python3-kubernetes; } >&2; then
	echo "Debian's package python3-kubernetes can't be installed" >&2
	exit 3
fi
echo /usr/bin/python3
