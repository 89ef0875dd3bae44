#!/usr/bin/env bash
# Renews the table in docs/reliability.md from results/*.jsonl: per counted
# test the trials, faults and failures of the last run and of all committed
# runs together.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
doc=docs/reliability.md
table=$(mktemp)
trap 'rm -f "$table"' EXIT
{
  echo '| test | suite | what was counted | last run: n / faults / failures (seed, commit) | all runs: n / faults / failures |'
  echo '|---|---|---|---|---|'
  for file in results/*.jsonl; do
    jq -rs --arg suite "$(basename "$file" .jsonl)" '
      group_by([.test, .name]) | .[] | last as $l |
      "| \($l.test) | \($suite) | \($l.name) | \($l.n) / \($l.faults) / \($l.failures) (\($l.seed), \($l.commit)) | " +
      "\(map(.n) | add) / \(map(.faults) | add) / \(map(.failures) | add) |"' "$file"
  done | sort -t'|' -k2,2n -k3,3
} > "$table"
awk -v table="$table" '
  /^<!-- table -->/ { print; while ((getline line < table) > 0) print line; skip = 1; next }
  /^<!-- end -->/ { skip = 0 }
  !skip' "$doc" > "$doc.new"
mv "$doc.new" "$doc"
