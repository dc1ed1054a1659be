#!/usr/bin/env bash
# Puts each bug of tests/sim/bugs into a copy of the sources, and checks that the simulator finds it.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo=${CARGO:-cargo}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
target=$(cd "${CARGO_TARGET_DIR:-target}" 2>/dev/null && pwd || echo "$PWD/target")/bugs
found=0
missed=0

for bug in tests/sim/bugs/*.patch; do
    name=$(basename "$bug" .patch)
    rm -rf "${copy:?}/src" "$copy/tests"
    cp -a Cargo.toml Cargo.lock build.rs README.md proto migrations benches src tests "$copy"
    patch --silent --directory "$copy" --strip 1 <"$bug"
    log=$copy/log
    CARGO_TARGET_DIR=$target "$cargo" test --quiet --locked --manifest-path "$copy/Cargo.toml" \
        --test sim --no-run >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
    if CARGO_TARGET_DIR=$target SIM_FIRST=1 SIM_SECONDS=120 RUST_BACKTRACE=0 "$cargo" test --quiet \
        --locked --manifest-path "$copy/Cargo.toml" --test sim -- --nocapture >"$log" 2>&1; then
        echo "MISSED $name" >&2
        missed=$((missed + 1))
    else
        echo "found  $name: $(grep -E '^seed [0-9]+' "$log" | head -1 | cut -c1-140)"
        found=$((found + 1))
    fi
done
echo "bugs: $found found, $missed missed"
[ "$missed" -eq 0 ]
