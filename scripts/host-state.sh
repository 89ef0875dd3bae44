#!/usr/bin/env bash
# Prints, one sorted line each, every kind of trace that a sandbox leaves on
# its host: processes, namespaces, links, rules, cgroups, mounts, users' files.
#   scripts/host-state.sh [--prefix NAME] [DIR …]   DIR: state and run folders to list
# Two runs are compared to prove that nothing is left behind.
set -uo pipefail
prefix=aether
if [ "${1:-}" = --prefix ]; then prefix=$2; shift 2; fi
{
  for stat in /proc/[0-9]*/stat; do
    pid=${stat#/proc/}; pid=${pid%/stat}
    # The process may have ended since.
    cmd=$({ tr '\0' ' ' < "/proc/$pid/cmdline"; } 2>/dev/null) || continue
    case "$cmd" in
      *qemu-system-*|*sqfstar*|*" jail "*|*" convert "*|*mke2fs*|*qemu-img*) echo "process ${cmd%% *} pid=$pid" ;;
    esac
  done
  # Namespaces in use by processes other than the host's own.
  for kind in net mnt pid ipc uts; do
    readlink /proc/[0-9]*/ns/$kind 2>/dev/null | sort -u | sed "s/^/namespace /"
  done
  ip -o link show | awk -F': ' '{print "link " $2}' | sed 's/@.*//'
  nft list ruleset 2>/dev/null | grep -E '^(table|	chain|	set)' | sed 's/^/rule /'
  ip -o rule show 2>/dev/null | sed 's/^/ip-rule /'
  ip -o route show table all 2>/dev/null | sed 's/^/route /' | sort
  find /sys/fs/cgroup -type d -path "*${prefix}*" 2>/dev/null | sed 's/^/cgroup /'
  awk '{print "mount " $5 " " $9}' /proc/self/mountinfo
  ls /sys/block 2>/dev/null | grep -E '^(loop|nbd|dm-)' | while read -r dev; do
    [ -e "/sys/block/$dev/loop/backing_file" ] && echo "loop $dev"
    case "$dev" in dm-*) echo "dm $dev" ;; esac
  done
  for dir in "$@"; do
    [ -d "$dir" ] && find "$dir" -mindepth 1 ! -name '*.log' ! -name '*-wal' ! -name '*-shm' -printf 'file %p %y\n'
  done
} | sort
exit 0
