#!/usr/bin/env bash
# Breaks the controller in one place after the other, by test/faults/mutants/NAME.patch, and runs each broken build with faults
# until the auditor finds what the patch says that it must. A mutant that is not caught fails the run.
#
#   hack/test/mutants.sh [NAME...]
#
# FOR (default 2m) is how long things are broken in each run, SEEDS (default "1 2 3") are the runs that a mutant gets until it is
# caught, FAULTSFLAGS go to each run. MUTANTS_CLUSTER and MUTANTS_POD_CIDR tell two at once apart. Logs, and histories of runs with
# findings, are in bin/mutants.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
patches=test/faults/mutants
results=$PWD/bin/mutants
if [ $# -eq 0 ]; then
	for patch in "$patches"/*.patch; do
		name=${patch##*/}
		set -- "$@" "${name%.patch}"
	done
fi
cluster=${MUTANTS_CLUSTER:-mutants} addresses=${MUTANTS_POD_CIDR:-127.32.0.0/16}
scratch=$(mktemp -d)
localcluster() { go -C hack/localcluster run . "$@"; }
trap 'localcluster down --name="$cluster"; rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$results"

# header NAME FIELD prints what a patch says above its diff.
header() { sed -n "/^diff /q; s/^$2: //p" "$patches/$1.patch"; }

# build NAME makes a controller with the patch, beside the checkout.
build() {
	rm -rf "$scratch/tree"
	mkdir "$scratch/tree"
	cp -r go.mod go.sum api cmd internal pkg "$scratch/tree"
	if ! (cd "$scratch/tree" && git apply -) <"$patches/$1.patch"; then
		echo "$patches/$1.patch doesn't apply any more: make its edit again by hand, and write \`git diff\` below its header" >&2
		return 1
	fi
	(cd "$scratch/tree" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$scratch/controller" ./cmd/controller)
}

# run NAME SEED runs a mutant and prints the kinds of what was found, and the seconds that it took.
run() {
	local log=$results/$1-seed-$2
	local flags=(-controller="$scratch/controller" -until-found -for="${FOR:-$(header "$1" For)}" -seed="$2" -results="$results/$1" -cluster="$cluster" -pod-cidr="$addresses")
	bin/faults "${flags[@]}" $(header "$1" Flags) ${FAULTSFLAGS:-} >"$log.json" 2>"$log.log" || true
	if ! tail -n 1 "$log.json" | grep -q '"byKind"'; then
		echo "the run of $1 failed: see $log.log" >&2
		tail -n 1 "$log.log" >&2
		return 1
	fi
	sed -n '$d; s/^{"kind":"\([A-Za-z]*\)".*/\1/p' "$log.json" | sort -u | paste -sd, -
	tail -n 1 "$log.json" | sed 's/.*"seconds":\([0-9]*\).*/\1/'
}

# try NAME prints the row of a mutant, and fails unless it is caught.
try() {
	local name=$1 seed found seconds=0 last
	build "$name" || return 1
	for seed in ${SEEDS:-1 2 3}; do
		{ read -r found && read -r last; } < <(run "$name" "$seed" || echo) || return 1
		seconds=$((seconds + last))
		for kind in $(header "$name" Finding | tr -c 'A-Za-z\n' ' '); do
			case ",$found," in *",$kind,"*)
				printf "$row" "$name" "$(header "$name" Fault)" "$found" "$seconds s"
				return 0
				;;
			esac
		done
	done
	printf "$row" "$name" "$(header "$name" Fault)" "NOT CAUGHT${found:+, found $found}" "$seconds s"
	return 1
}

go build -o bin/faults ./test/faults
localcluster up --cluster=kwok --name="$cluster" --pod-cidr="$addresses" --nodes=12 >"$results/cluster.log" 2>&1 # one for all
row='%-28s %-44s %-28s %s\n'
printf "$row" MUTANT FAULT FOUND AFTER
missed=()
for name in "$@"; do
	if [ ! -f "$patches/$name.patch" ]; then
		echo "mutants.sh: there is no $patches/$name.patch; see ls $patches" >&2
		exit 2
	fi
	(try "$name") || missed+=("$name")
done
if [ ${#missed[@]} -gt 0 ]; then
	echo "mutants.sh: FAILED: ${missed[*]} (logs and histories are in bin/mutants)" >&2
	exit 1
fi
