#!/usr/bin/env bash
# The tour, in a real microVM, with a table of timings; `make demo` runs it.
# Starts a registry and a server of its own on loopback, stops both, and
# compares the host before and after.
#   AETHER  the binary      DEMO  the folder with the image (scripts/demo-image.sh)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
aether=${AETHER:?}
demo=${DEMO:?}
work=$(mktemp -d /tmp/aether-demo-XXXXXX)
export AETHER_SERVER="unix://$work/run/aether.sock"
registry_pid= server_pid=

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
cleanup() {
  [ -n "$server_pid" ] && { "$aether" agent destroy --all --yes >/dev/null 2>&1; kill "$server_pid" 2>/dev/null; wait "$server_pid" 2>/dev/null; }
  [ -n "$registry_pid" ] && { kill "$registry_pid" 2>/dev/null; wait "$registry_pid" 2>/dev/null; }
  rm -rf "$work"
}
trap cleanup EXIT

timings=()
# Types a command, runs it, notes how long it took.
step() {
  local what=$1 start end; shift
  printf '\033[2m$ aether %s\033[0m\n' "$*"
  start=$(date +%s%N)
  "$aether" "$@"
  end=$(date +%s%N)
  timings+=("$what|$(( (end - start) / 1000000 ))")
}

free_port() { python3 - <<'PY' 2>/dev/null || echo 5055
import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])
PY
}

before=$(scripts/host-state.sh)

say "A registry on loopback, with the image in it"
port=$(free_port)
cat > "$work/registry.yml" <<YAML
version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: $work/registry } }
http: { addr: "127.0.0.1:$port" }
YAML
docker-registry serve "$work/registry.yml" > "$work/registry.log" 2>&1 &
registry_pid=$!
for _ in $(seq 100); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
skopeo copy --quiet --dest-tls-verify=false "oci:$demo/python" "docker://127.0.0.1:$port/python:3.11"

say "What this machine has"
cat > "$work/config.yaml" <<YAML
server: { state_dir: $work/state, run_dir: $work/run, address: "127.0.0.1:0" }
YAML
"$aether" --config "$work/config.yaml" doctor || true

say "The server: API, scheduler, node and store in one process"
"$aether" --config "$work/config.yaml" server > "$work/server.log" 2>&1 &
server_pid=$!
for _ in $(seq 300); do "$aether" agent list --quiet >/dev/null 2>&1 && break; sleep 0.2; done
"$aether" version

say "An image, from the registry"
step "image pull" image pull "127.0.0.1:$port/python:3.11" --quiet
step "image list" image list
image="127.0.0.1:$port/python:3.11"

say "One command, one machine, nothing left"
step "run, cold" run "$image" -- python3 -c 'print(6*7)'
code=0; "$aether" run "$image" -- sh -c 'echo "leaving with 7"; exit 7' || code=$?
echo "exit code of the command: $code"; [ "$code" = 7 ]

say "An agent that stays"
step "agent create --wait" agent create --name my-first-agent --image "$image" --env GREETING=hello --wait
step "agent list" agent list
step "agent exec" agent exec my-first-agent -- sh -c 'echo "$GREETING from $(uname -r), $(. /etc/os-release; echo "$PRETTY_NAME")"'
echo "the host's kernel: $(uname -r)"
printf 'print("a file from the host")\n' > "$work/hello.py"
step "agent cp in" agent cp "$work/hello.py" my-first-agent:/root/hello.py
step "agent exec python" agent exec my-first-agent -- python3 /root/hello.py
step "agent cp out" agent cp my-first-agent:/etc/os-release "$work/os-release"
head -1 "$work/os-release"
step "agent health" agent health my-first-agent
step "agent stop" agent stop my-first-agent
step "agent start --wait" agent start my-first-agent --wait
step "file kept over stop" agent exec my-first-agent -- ls -l /root/hello.py
step "agent destroy" agent destroy --yes my-first-agent

say "Errors say what to do"
"$aether" run no-such-image:1 --pull never -- true || true
"$aether" agent exec nobody -- true || true

say "The server crashes; the sandbox lives"
"$aether" agent create --name survivor --image "$image" --wait --quiet >/dev/null
boot_id=$("$aether" agent exec survivor -- cat /proc/sys/kernel/random/boot_id)
kill -9 "$server_pid"; wait "$server_pid" 2>/dev/null || true
"$aether" --config "$work/config.yaml" server >> "$work/server.log" 2>&1 &
server_pid=$!
for _ in $(seq 300); do "$aether" agent list --quiet >/dev/null 2>&1 && break; sleep 0.2; done
for _ in $(seq 100); do again=$("$aether" agent exec survivor -- cat /proc/sys/kernel/random/boot_id 2>/dev/null) && break; sleep 0.2; done
[ "$boot_id" = "$again" ] && echo "same boot id before and after: $again"
step "agent destroy" agent destroy --yes survivor

say "Nothing is left"
for _ in $(seq 100); do [ -z "$("$aether" agent list --quiet)" ] && break; sleep 0.1; done
kill "$server_pid"; wait "$server_pid" 2>/dev/null || true; server_pid=
kill "$registry_pid"; wait "$registry_pid" 2>/dev/null || true; registry_pid=
left=
for _ in $(seq 50); do
  left=$(comm -13 <(printf '%s\n' "$before" | sed 's/ pid=[0-9]*//' | sort) <(scripts/host-state.sh | sed 's/ pid=[0-9]*//' | sort))
  [ -z "$left" ] && break
  sleep 0.2
done
if [ -n "$left" ]; then
  echo "left behind:"; printf '%s\n' "$left"
  exit 1
fi
echo "processes, namespaces, links, rules, cgroups and mounts are as they were before"

say "Timings"
printf '%-24s %10s\n' step ms
for row in "${timings[@]}"; do printf '%-24s %10s\n' "${row%|*}" "${row#*|}"; done
