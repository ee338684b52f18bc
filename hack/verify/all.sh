#!/usr/bin/env bash
# Runs every check of this folder (verify-*.sh) and lists the failures at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

failed=()
for check in hack/verify/verify-*.sh; do
	name=${check##*/verify-}
	name=${name%.sh}
	start=$SECONDS
	if "$check"; then
		echo "verify: $name ok ($((SECONDS - start)) s)"
	else
		echo "verify: $name FAILED ($((SECONDS - start)) s)"
		failed+=("$name")
	fi
done
if [ ${#failed[@]} -gt 0 ]; then
	echo "verify: FAILED: ${failed[*]} (run one alone with hack/verify/verify-NAME.sh)" >&2
	exit 1
fi
echo "verify: ok"
