#!/usr/bin/env bash
# Shows that the tests can fail: applies each of tests/planted/*.patch, a bug,
# to a copy of the tree, runs the command in the patch's first line, and
# expects it to go red, where it is green without the bug. Arguments narrow
# them to the names that hold one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/planted/target
export CARGO_TARGET_DIR
tree=$(dirname "$CARGO_TARGET_DIR")/tree
mkdir -p "$tree"
# Only what differs, and as new: cargo goes by the time, and a file that is set
# back to an old one would leave the last run's bug compiled in.
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
  if [ -f "$file" ]; then
    cmp -s "$file" "$tree/$file" || install -D -m "$(stat -c %a "$file")" "$file" "$tree/$file"
  else
    rm -f "$tree/$file"
  fi
done
cd "$tree"
log=$(mktemp)
applied=
trap 'rm -f "$log"; [ -z "$applied" ] || patch -s -R -p1 --no-backup-if-mismatch < "$applied"' EXIT
wanted() {
  local name=$1 word
  shift
  [ $# -gt 0 ] || return 0
  for word in "$@"; do [[ $name != *$word* ]] || return 0; done
  return 1
}
declare -A clean=()
unseen=() count=0
for patch in "$root"/tests/planted/*.patch; do
  name=$(basename "$patch" .patch)
  wanted "$name" "$@" || continue
  command=$(sed -n '1s/^# *//p' "$patch")
  if [ -z "$command" ]; then
    echo "$name: its first line names no command"
    exit 1
  fi
  if [ -z "${clean[$command]:-}" ]; then
    if ! bash -c "$command" > "$log" 2>&1; then
      tail -20 "$log"
      echo "red without any bug: $command"
      exit 1
    fi
    clean[$command]=1
  fi
  if ! patch -s -p1 --dry-run < "$patch" > /dev/null; then
    echo "$name: does not apply any more"
    exit 1
  fi
  patch -s -p1 --no-backup-if-mismatch < "$patch"
  applied=$patch
  count=$((count + 1))
  verdict=red
  if bash -c "$command" > "$log" 2>&1; then
    verdict='GREEN: the bug is not seen'
  elif [[ $command == *'cargo test'* ]] && ! grep -q '^test result: FAILED' "$log"; then
    verdict='GREEN: no test failed, something else did'
    tail -20 "$log"
  fi
  patch -s -R -p1 --no-backup-if-mismatch < "$patch"
  applied=
  echo "$name: $verdict"
  [ "$verdict" = red ] || unseen+=("$name")
done
echo "$((count - ${#unseen[@]})) of $count planted bugs are seen"
[ "$count" -gt 0 ] && [ ${#unseen[@]} -eq 0 ]
