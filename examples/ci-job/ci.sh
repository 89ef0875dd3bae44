#!/usr/bin/env bash
# A CI job in a machine of its own:  ci.sh PROJECT [ARTEFACTS]
# Copies the project in, runs each line of its file `steps`, brings `dist/`
# out, and leaves nothing: whatever happens, the machine is destroyed.
set -euo pipefail
project=${1:?usage: ci.sh PROJECT [ARTEFACTS]}
artefacts=${2:-}

# The time to live is the second net: it holds even if this script is killed.
job=$(aether agent create --quiet --image python:3.11 --network none --memory 256 --ttl 30m --label example=ci --wait)
trap 'aether agent destroy --yes --quiet "$job" >/dev/null' EXIT

aether cp "$project/." "$job:/build"
while IFS= read -r step; do
  case $step in '' | '#'*) continue ;; esac
  echo "+ $step"
  code=0
  # Standard input is the list of steps: a step must not eat it.
  aether exec --workdir /build --timeout 10m "$job" -- sh -c "$step" </dev/null || code=$?
  if [ "$code" != 0 ]; then
    echo "job failed: exit code $code"
    exit "$code"
  fi
done < "$project/steps"

if [ -n "$artefacts" ]; then
  aether cp "$job:/build/dist" "$artefacts"
fi
echo "job passed"
