#!/bin/sh
# Before systemd: settings that systemd and kubelet write are the whole machine's, so copies stand in their place.
set -e
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes fs/nr_open fs/file-max; do
  [ -e "/proc/sys/$name" ] || continue
  mkdir -p "/kind/settings/${name%/*}"
  cat "/proc/sys/$name" > "/kind/settings/$name"
  mount --bind "/kind/settings/$name" "/proc/sys/$name"
done
exec "$@"
