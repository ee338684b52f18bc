#!/usr/bin/env bash
# Promise: two builds of the same sources by the same Go give the same binaries. The second one is made from nothing, in another
# folder, with other times of the files, modules in another place, another umask, time zone and language. Takes minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
first=$work/first second=$work/second/in/another/folder
for copy in "$first" "$second"; do
	mkdir -p "$copy"
	git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
		if [ -e "$file" ]; then printf '%s\0' "$file"; fi # deleted, but not yet committed
	done | tar --null --files-from=- --create | tar --extract --directory="$copy"
done
find "$second" -type f -exec touch --date=2001-02-03T04:05:06Z {} +
ln -s "$(go env GOMODCACHE)" "$work/modules"

# Without a repository there is no version to derive: it is an input of the build, as the sources are.
build() { make --no-print-directory -C "$1" build VERSION=v0.0.0-reproducible; }
build "$first"
(
	export GOCACHE=$work/cache GOMODCACHE=$work/modules TZ=Asia/Tokyo LC_ALL=C
	umask 077
	build "$second"
)

ok=true
for binary in controller task-executor kubectl-sandbox; do
	sums=$(sha256sum <"$first/bin/$binary"; sha256sum <"$second/bin/$binary")
	if [ "$(sort -u <<<"$sums" | wc -l)" -ne 1 ]; then
		printf '%s differs between two builds:\n%s\nfix: let nothing of the folder, the time or the machine into it (GOBUILD in the Makefile), and compare: go tool nm, go version -m\n' \
			"$binary" "$sums" >&2
		ok=false
	else
		echo "$binary: ${sums%% *}"
	fi
done
$ok
