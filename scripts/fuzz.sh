#!/usr/bin/env bash
# Runs fuzz targets under libFuzzer, one after the other, on the pinned
# toolchain: the unit tests named `fuzz` are built once more, with coverage
# counters, and each is given AETHER_FUZZ_SECONDS (60). Arguments narrow the
# targets to the tests whose path holds one: `scripts/fuzz.sh dns convert`.
# What is found lies in target/fuzz/failures, the inputs that reach new code in
# target/fuzz/grown; counts go to results/fuzz.jsonl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
crates=(${CRATES:-aether-core aether-proto aether-store aether-control aether-node aether-guest aether})
host=x86_64-unknown-linux-gnu
out=$(realpath -m "${CARGO_TARGET_DIR:-target}")
command -v c++ > /dev/null || { echo "fuzz: libFuzzer needs a C++ compiler: install g++" >&2; exit 1; }
export AETHER_FUZZ_SECONDS=${AETHER_FUZZ_SECONDS:-60} CARGO_TARGET_DIR=$out
# With --target they are not given to build scripts, which have no libFuzzer.
# Overflows panic here, as in every debug build.
counters="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
wanted() {
  local test=$1 word
  shift
  [ $# -gt 0 ] || return 0
  for word in "$@"; do [[ $test != *$word* ]] || return 0; done
  return 1
}
commit=$(git rev-parse --short HEAD)
failed=()
for crate in "${crates[@]}"; do
  if [ "$crate" = aether ]; then kind=(--bin aether); else kind=(--lib); fi
  binary=$(CARGO_TARGET_DIR=$out/fuzz/build RUSTFLAGS=$counters CARGO_INCREMENTAL=0 \
    cargo test --no-run --message-format=json -q -p "$crate" "${kind[@]}" --target $host |
    jq -r 'select(.reason == "compiler-artifact" and .profile.test and .executable != null) | .executable' | tail -1)
  for test in $("$binary" --list 2> /dev/null | sed -n 's/: test$//p' | grep -E '(^|::)fuzz::'); do
    wanted "$crate::$test" "$@" || continue
    log=$(mktemp)
    code=0
    (cd "crates/${crate#aether-}" 2> /dev/null || cd crates/cli
      "$binary" --exact "$test" --nocapture --test-threads=1) > "$log" 2>&1 || code=$?
    n=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "$crate $test: ${n:-0} inputs, exit $code"
    jq -nc --arg name "$test, guided" --arg commit "$commit" --argjson n "${n:-0}" --argjson failures "$((code != 0))" \
      '{commit: $commit, failures: $failures, faults: 0, n: $n, name: $name, seed: 0, test: 28}' >> results/fuzz.jsonl
    if [ "$code" != 0 ]; then
      failed+=("$test")
      tail -30 "$log"
    fi
    rm -f "$log"
  done
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
