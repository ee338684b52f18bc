#!/usr/bin/env bash
# Prints the path of a pinned tool, building it first where it is missing.
#
#   hack/tools/tool.sh controller-gen|kustomize|helm|golangci-lint
#
# Each tool is pinned by a Go module of its own in this folder, so that its dependencies stay out of the product's module
# graph. The binary is kept in ${XDG_CACHE_HOME:-$HOME/.cache}/opensandbox/tools, keyed by the module's files and the Go
# version, so a repeated call costs nothing and all checkouts share one build.
set -euo pipefail

name=${1:?usage: hack/tools/tool.sh NAME}
module=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$name
if [ ! -f "$module/go.mod" ]; then
	echo "tool.sh: no tool named $name: use one of the folders of hack/tools" >&2
	exit 1
fi

key=$({ go env GOVERSION GOOS GOARCH; cat "$module/go.mod" "$module/go.sum"; } | sha256sum | cut -c1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/opensandbox/tools/$name-$key
if [ ! -x "$dir/$name" ]; then
	package=$(sed -n 's/^tool //p' "$module/go.mod")
	mkdir -p "$dir"
	exec 9>"$dir/lock"
	flock 9 # a second caller waits for the first one's build instead of repeating it
	if [ ! -x "$dir/$name" ]; then
		echo "building $name (once; kept in $dir)" >&2
		tmp=$dir/$name.tmp.$$
		trap 'rm -f "$tmp"' EXIT
		CGO_ENABLED=0 nice -n 10 go -C "$module" build -mod=readonly -buildvcs=false -trimpath -ldflags '-s -w' -o "$tmp" "$package"
		mv "$tmp" "$dir/$name"
	fi
fi
echo "$dir/$name"
