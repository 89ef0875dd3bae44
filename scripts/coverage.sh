#!/usr/bin/env bash
# Measures which lines of core, placement, store, control and node their unit
# and integration tests reach; writes results/coverage.json. With E2E=1 the
# tests in real guests run too, against an instrumented binary.
#
# What counts is a line that compiles to something, in src/ of these crates.
# Tests do not count, neither in files of their own nor at the end of others.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
crates=(${CRATES:-core placement store control node})
root=$PWD
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/coverage
export CARGO_TARGET_DIR=$target CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0

free=$(df --output=avail -BG "$(dirname "$target")" 2> /dev/null | tail -1 | tr -dc 0-9 || echo 99)
if [ ! -d "$target" ] && [ "${free:-99}" -lt 16 ]; then
  echo "the instrumented build needs some 10 GiB, and 6 must stay free: only $free are" >&2
  exit 1
fi
rustup component list --installed | grep -q '^llvm-tools' || rustup component add llvm-tools
cargo llvm-cov --version > /dev/null 2>&1 || cargo install --locked --version 0.9.1 cargo-llvm-cov

# Without KEEP=1 earlier runs' counts are dropped.
mkdir -p "$target"
[ -n "${KEEP:-}" ] || find "$target" -maxdepth 1 -name '*.profraw' -delete
environment=$(cargo llvm-cov show-env --sh)
eval "$environment"

failed=()
for crate in "${crates[@]}"; do
  echo "== aether-$crate"
  cargo test -q -p "aether-$crate" --no-fail-fast || failed+=("aether-$crate")
done
if [ -n "${E2E:-}" ]; then
  cargo build -q -p aether
  AETHER_BIN=$target/debug/aether cargo test -q -p aether-e2e --no-fail-fast -- --test-threads=2 || failed+=(e2e)
fi

lcov=$target/lcov.info
cargo llvm-cov report --lcov --failure-mode all --output-path "$lcov"
commit=$(git rev-parse --short HEAD)
git diff --quiet HEAD -- crates || commit="$commit with changes"
# Per crate: lines that count, and those reached.
for crate in "${crates[@]}"; do
  awk -v src="$root/crates/$crate/src/" -v crate="aether-$crate" '
    # The line from which a file holds tests alone; 0: none.
    function tests_from(file,    line, n, marked) {
      n = 0; marked = 0
      while ((getline line < file) > 0) {
        n++
        if (marked && line ~ /^mod tests \{/) { close(file); return n }
        marked = line ~ /^#\[cfg\(/ && line ~ /test/
      }
      close(file)
      return 0
    }
    /^SF:/ {
      file = substr($0, 4)
      counts = index(file, src) == 1 && file !~ /(\/|_)tests?(\/|\.rs$|_)|_tests?\.rs$|\/fuzz\.rs$|\/bin\//
      if (counts) end = tests_from(file)
    }
    counts && /^DA:/ {
      split(substr($0, 4), part, ",")
      if (end && part[1] + 0 >= end) next
      seen[file ":" part[1]] = 1
      if (part[2] + 0 > 0) hit[file ":" part[1]] = 1
    }
    END {
      for (line in seen) lines++
      for (line in hit) covered++
      printf "{\"crate\":\"%s\",\"lines\":%d,\"covered\":%d,\"percent\":%.1f}\n", crate, lines, covered, lines ? 100 * covered / lines : 0
    }' "$lcov"
done | jq -s --arg commit "$commit" --arg with "unit and integration tests${E2E:+, and end to end}" '
  {commit: $commit, tests: $with, crates: .,
   total: ({lines: (map(.lines) | add), covered: (map(.covered) | add)} | .percent = (1000 * .covered / .lines | round / 10))}
  ' > results/coverage.json.tmp
mv results/coverage.json.tmp results/coverage.json
jq -r '(.crates[], (.total + {crate: "all"})) | [.crate, .lines, .covered, "\(.percent) %"] | @tsv' results/coverage.json |
  (printf 'crate\tlines\treached\t\n'; cat) | column -t -s $'\t'
if [ ${#failed[@]} -gt 0 ]; then
  echo "some tests failed, their lines still count: ${failed[*]}" >&2
  exit 1
fi
