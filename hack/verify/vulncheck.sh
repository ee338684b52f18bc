#!/usr/bin/env bash
# Promise: the programs under DIR/cmd can call no function that is known to be vulnerable. It asks a database of its time, so it is
# no part of make verify: what was good yesterday may fail today, and where the database can't be read, nothing is known.
# VULNDB is the database, https://vuln.go.dev unless it is set; file:// and a folder will do too.
#
#   hack/verify/vulncheck.sh [DIR]
#
# Ends with 1 for a vulnerability, and with 2 where nothing could be checked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

govulncheck=$(hack/tools/tool.sh govulncheck) || {
	echo "vulncheck: NOTHING WAS CHECKED: the tool can't be built. fix: let Go reach its module proxy" >&2
	exit 2
}
database=${VULNDB:-https://vuln.go.dev}
status=0
GOOS=linux CGO_ENABLED=0 "$govulncheck" -C "${1:-.}" -db "$database" ./cmd/... || status=$?
case $status in
0) ;;
3)
	echo "vulncheck: FAILED. fix: update the modules, or the Go, that the findings name" >&2
	exit 1
	;;
*)
	echo "vulncheck: NOTHING WAS CHECKED (govulncheck ended with $status). fix: make $database readable, or set VULNDB to a copy of it" >&2
	exit 2
	;;
esac
