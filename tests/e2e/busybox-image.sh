#!/usr/bin/env bash
# A second image that differs from the demo's: static busybox and little else.
#   busybox-image.sh OUT.tar
set -euo pipefail
out=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root"/{bin,etc,tmp,root}
cp "$(command -v busybox)" "$work/root/bin/busybox"
for applet in sh cat ls test echo sleep stat hostname uname id mkdir rm printenv dd nc ip; do
  ln -s busybox "$work/root/bin/$applet"
done
printf 'ID=tiny\nPRETTY_NAME="Tiny 1"\n' > "$work/root/etc/os-release"
printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n' > "$work/root/etc/passwd"
printf 'root:x:0:\nuser:x:1000:\n' > "$work/root/etc/group"
chmod 1777 "$work/root/tmp"
tar -C "$work/root" --sort=name --owner=0 --group=0 --numeric-owner -cf "$work/root.tar" .
umoci init --layout "$work/oci" >/dev/null
umoci new --image "$work/oci:1" >/dev/null
umoci raw add-layer --image "$work/oci:1" "$work/root.tar" >/dev/null
umoci config --image "$work/oci:1" --config.env PATH=/bin --config.cmd sh >/dev/null
tar -C "$work/oci" -cf "$out" .
