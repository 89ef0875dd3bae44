#!/usr/bin/env bash
# Deploys the handler, calls it well, badly and too long, and removes it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
name=example-function-$$
./function.sh deploy "$name" handler.py GREETING=hello
trap './function.sh remove "$name"' EXIT

echo "the quick brown fox" | ./function.sh call "$name"
echo "calls share nothing but the disk" | ./function.sh call "$name"
code=0
./function.sh call "$name" </dev/null 2>&1 | tail -1 || code=$?
echo "exit code $code"
code=0
printf sleep | TIMEOUT=2s ./function.sh call "$name" 2>/dev/null || code=$?
echo "exit code $code"
echo "still here" | ./function.sh call "$name"
