#!/usr/bin/env bash
# Promise: paths named in docs and comments exist; every YAML block of the READMEs is a file under config/samples, and of
# docs/security.md one under config/network-policy-sandboxes; both READMEs show the same blocks; docs/security.md gives a reason
# for every right that a role under config/rbac grants, and for no other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
go run ./hack/verify/docs
