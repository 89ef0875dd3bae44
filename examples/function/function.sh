#!/usr/bin/env bash
# Functions: deploy once, call often.
#   function.sh deploy NAME HANDLER [ENV=VALUE …]
#   function.sh call NAME < BODY
#   function.sh remove NAME
set -euo pipefail

deploy() {
  local name=$1 handler=$2; shift 2
  local env=()
  for pair in "$@"; do env+=(--env "$pair"); done
  aether agent create --quiet --name "$name" --image python:3.11 --network none --memory 256 \
    --label example=function "${env[@]}" --wait >/dev/null
  aether cp "$handler" "$name:/root/handler.py"
}

# Exit code 0: the answer is on standard output. Else the handler failed, or
# ran into the time-out and was killed.
call() {
  aether exec --interactive --timeout "${TIMEOUT:-10s}" "$1" -- python3 /root/handler.py
}

case ${1:-} in
  deploy) shift; deploy "$@" ;;
  call) call "${2:?call NAME}" ;;
  remove) aether agent destroy --yes --quiet "${2:?remove NAME}" >/dev/null ;;
  *) sed -n '2,5p' "$0" >&2; exit 2 ;;
esac
