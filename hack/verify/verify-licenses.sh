#!/usr/bin/env bash
# Promise: everything that is linked into the binaries has a licence that is allowed, and THIRD_PARTY_NOTICES has their texts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
go -C hack/licenses run . -check
