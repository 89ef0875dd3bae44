#!/usr/bin/env bash
# Makes the demo's image, python:3.11, from Debian's own packages: a small
# Python with bash, sudo, git, curl and the user `user`. Writes an OCI layout
# folder and the same as a tar:  scripts/demo-image.sh OUT  → OUT/python/, OUT/python.tar
# Made once; an unchanged recipe is not made again.
set -euo pipefail
out=${1:?usage: scripts/demo-image.sh OUT}
mkdir -p "$out"
out=$(cd "$out" && pwd)
recipe=$(sha256sum "${BASH_SOURCE[0]}" | cut -d' ' -f1)
if [ -f "$out/python.tar" ] && [ "$(cat "$out/recipe" 2>/dev/null)" = "$recipe" ]; then
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
sources=/etc/apt/sources.list.d/debian.sources
[ -f "$sources" ] || sources=/etc/apt/sources.list
echo "demo-image: collecting Debian packages (about a minute, once)" >&2
# The host's own package sources serve the image too.
mmdebstrap --quiet --variant=minbase --mode=root \
  --include=python3-minimal,bash,sudo,git,curl,ca-certificates,procps,iproute2,iputils-ping \
  --aptopt='Acquire::Languages "none"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --customize-hook='chroot "$1" useradd -m -s /bin/bash user' \
  --customize-hook='echo "user ALL=(ALL) NOPASSWD:ALL" > "$1/etc/sudoers.d/user" && chmod 0440 "$1/etc/sudoers.d/user"' \
  --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/etc/apt/sources.list.d/* "$1"/etc/hostname "$1"/etc/resolv.conf' \
  "$codename" "$work/root.tar" "$sources" >&2
rm -rf "$out/python"
umoci init --layout "$out/python" >&2
umoci new --image "$out/python:3.11" >&2
umoci raw add-layer --image "$out/python:3.11" "$work/root.tar" >&2
umoci config --image "$out/python:3.11" --config.user root --config.workingdir /root \
  --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --config.env LANG=C.UTF-8 \
  --config.cmd python3 --config.label org.opencontainers.image.title=python >&2
umoci gc --layout "$out/python" >&2
# The whole name, so that an import needs no --name.
jq -c '.manifests[0].annotations["org.opencontainers.image.ref.name"] = "python:3.11"' \
  "$out/python/index.json" > "$work/index.json"
cat "$work/index.json" > "$out/python/index.json"
tar -C "$out/python" -cf "$out/python.tar.tmp" .
mv "$out/python.tar.tmp" "$out/python.tar"
echo "$recipe" > "$out/recipe"
