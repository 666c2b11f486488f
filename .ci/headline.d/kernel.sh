# The kernel's side; sourced by .ci/headline: a memory cgroup of version 1 or 2, whichever has the memory controller here, and a
# zram device that nobody else uses. `undo` takes back all of it, and ends a guest that still runs; it may be called again.
cgroup='' cgroup_version='' zram='' page_cluster='' zswap='' guest_job='' guest_pid_file='' perf_job=''
zswap_switch=/sys/module/zswap/parameters/enabled

kernel_side() { # makes both; 1 and a sentence where they cannot be had
  [ "$(id -u)" = 0 ] || { not_run "the kernel's zram in a memory cgroup wants root"; return 1; }
  [ -w /sys/class/zram-control/hot_add ] || modprobe zram 2>/dev/null || true
  # Reading this file makes a device.
  [ -r /sys/class/zram-control/hot_add ] || { not_run "the running kernel has no zram"; return 1; }
  make_cgroup || return 1
  zram=$(cat /sys/class/zram-control/hot_add) || { zram=''; not_run "the kernel made no zram device"; return 1; }
  for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b "/dev/zram$zram" ] && break; sleep 0.1; done
  if [ ! -b "/dev/zram$zram" ]; then
    local major minor
    IFS=: read -r major minor <"/sys/block/zram$zram/dev"
    mknod "/dev/zram$zram" b "$major" "$minor"
  fi
  echo lz4 2>/dev/null >"/sys/block/zram$zram/comp_algorithm" || { not_run "the kernel's zram has no lz4"; return 1; }
  echo $((guest_bytes * 2)) >"/sys/block/zram$zram/disksize"
  mkswap "/dev/zram$zram" >/dev/null
  page_cluster=$(cat /proc/sys/vm/page-cluster)
  echo 0 >/proc/sys/vm/page-cluster # no read-ahead: best for zram
  if [ -w $zswap_switch ]; then # it would take the pages before zram sees them
    zswap=$(cat $zswap_switch)
    echo N >$zswap_switch
  fi
  swapon -p 32767 "/dev/zram$zram"
}

make_cgroup() { # an empty one without a limit
  local base
  if base=$(awk '$3 == "cgroup" && $4 ~ /(^|,)memory(,|$)/ { print $2; exit }' /proc/mounts) && [ -n "$base" ]; then
    cgroup_version=1
  elif base=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts) && [ -n "$base" ] && grep -qw memory "$base/cgroup.controllers"; then
    cgroup_version=2
    echo +memory 2>/dev/null >"$base/cgroup.subtree_control" || true
  else
    not_run "no memory controller, of cgroup v1 or v2, is mounted"; return 1
  fi
  cgroup=$base/zspool-headline-$$
  if ! mkdir "$cgroup"; then
    cgroup=''
    not_run "no memory cgroup could be made in $base"; return 1
  fi
}
cgroup_limit_file() { [ "$cgroup_version" = 1 ] && echo "$cgroup/memory.limit_in_bytes" || echo "$cgroup/memory.max"; }
cgroup_usage_file() { [ "$cgroup_version" = 1 ] && echo "$cgroup/memory.usage_in_bytes" || echo "$cgroup/memory.current"; }
cgroup_ooms() { # how many processes the limit has ended
  local file=$cgroup/memory.events
  [ "$cgroup_version" = 1 ] && file=$cgroup/memory.oom_control
  awk '$1 == "oom_kill" { print $2 }' "$file"
}

undo_kernel_side() {
  [ -z "$page_cluster" ] || echo "$page_cluster" >/proc/sys/vm/page-cluster
  page_cluster=''
  [ -z "$zswap" ] || echo "$zswap" >$zswap_switch
  zswap=''
  if [ -n "$zram" ]; then
    swapoff "/dev/zram$zram" 2>/dev/null || true # not on yet, where the making stopped half way
    echo 1 >"/sys/block/zram$zram/reset" || true
    echo "$zram" >/sys/class/zram-control/hot_remove && zram='' || echo ".ci/headline: /dev/zram$zram could not be removed" >&2
  fi
  if [ -n "$cgroup" ]; then
    for _ in 1 2 3 4 5 6 7 8 9 10; do rmdir "$cgroup" 2>/dev/null && break; sleep 0.2; done
    [ ! -d "$cgroup" ] || echo ".ci/headline: $cgroup could not be removed" >&2
    cgroup=''
  fi
}

undo() {
  trap '' INT TERM HUP # what follows is not to be cut short
  [ -z "$guest_pid_file" ] || ! [ -s "$guest_pid_file" ] || ! is_qemu "$(cat "$guest_pid_file")" || kill -KILL "$(cat "$guest_pid_file")" 2>/dev/null || true
  [ -z "$perf_job" ] || kill -INT "$perf_job" 2>/dev/null || true
  if [ -n "$guest_job" ]; then
    pkill -TERM -P "$guest_job" 2>/dev/null || true # timeout, which tells its child
    wait "$guest_job" 2>/dev/null || true
    guest_job=''
  fi
  undo_kernel_side
}
is_qemu() { [ "$(readlink "/proc/$1/exe" 2>/dev/null)" = "$(realpath "$qemu")" ]; }
