#!/usr/bin/env bash
# Prints the path of prometheus or promtool: that of the machine, else that of Debian's package, which is unpacked into
# ${XDG_CACHE_HOME:-$HOME/.cache}/opensandbox/prometheus and not installed, for its service would begin to run. Where there is none, it says why
# and ends with 3.
#
#   hack/test/prometheus.sh prometheus|promtool
set -euo pipefail

name=${1:?usage: hack/test/prometheus.sh prometheus|promtool}
if command -v "$name"; then
	exit
fi
none() {
	echo "no $name on this machine, and $1: install it (Debian's package prometheus has it)" >&2
	exit 3
}
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || none "no apt-get to get it with"

dir=${XDG_CACHE_HOME:-$HOME/.cache}/opensandbox/prometheus
mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9 # a second caller waits for the first one's download instead of repeating it
if [ ! -x "$dir/usr/bin/$name" ]; then
	tmp=$(mktemp -d "$dir/tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	download() { (cd "$tmp" && apt-get download -q -o APT::Sandbox::User= prometheus) >&2; }
	if ! download; then # fresh machines have no lists of packages
		if [ "$(id -u)" = 0 ]; then apt-get update -q >&2; fi
		download || none "apt-get could not download it"
	fi
	dpkg-deb -x "$tmp"/prometheus_*.deb "$tmp/root"
	rm -rf "$dir/usr"
	mv "$tmp/root/usr" "$dir/usr"
fi
"$dir/usr/bin/$name" --version >/dev/null || none "the one of Debian's package does not run here"
echo "$dir/usr/bin/$name"
