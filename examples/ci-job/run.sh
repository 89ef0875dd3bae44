#!/usr/bin/env bash
# A job that passes, with its artefact, and the same job with a bug in it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

./ci.sh project "$work/dist"
tar -tzf "$work/dist/words.tar.gz"

cp -r project "$work/broken"
echo 'def count(text): return text.count(" ")' > "$work/broken/src/words.py"
code=0
./ci.sh "$work/broken" 2>/dev/null || code=$?
echo "the caller sees: $code"
