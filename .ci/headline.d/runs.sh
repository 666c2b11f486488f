# One run; sourced by .ci/headline. Leaves console, samples.csv and result (NAME=VALUE lines) in $work/runs/RUN.

limit_of() { echo $((guest_bytes * ${1##*-} / 100)); }
value() { sed -n "s/^$2=//p" "$work/runs/$1/result" 2>/dev/null || true; } # RUN NAME: nothing where there was no such run
number() { # FILE NAME: the first number of that name in a JSON text, or nothing
  grep -o "\"$2\": *[0-9.]*" "$1" 2>/dev/null | head -n 1 | sed 's/.*: *//'
}

one_run() {
  local run=$1 key attempt
  key=$(key_of "$run")
  [[ $(value "$run" key) = "$key" && $(value "$run" ended) =~ ^(well|killed)$ ]] && { echo "=== $run: $(value "$run" wall) s, from an earlier call"; return; }
  for attempt in 1 2; do
    echo "=== $run"
    attempt_run "$run" "$key"
    # The kernel's OOM killer sometimes ends what is in a tight cgroup although swap is free; once more, then it is the result.
    [[ $(value "$run" ended) = killed && $run != zspool-* && $attempt = 1 ]] || break
  done
}

# Starts the guest of a run in the background, in its own shell: `guest_job` waits for it, its process id comes by its pid file.
start_guest() { # run, folder
  local run=$1 to=$2 command limit join=/dev/null
  qemu_command "$to/pid"
  case $run in
    zspool-*)
      limit=$(limit_of "$run")
      local options=(--memory-max "$limit" --stat "$to/stat.json" --preload "$preload")
      # At a quarter the compressed pages alone are more than the limit, which counts them: the coldest go to a file.
      [ "${run##*-}" -gt 25 ] || options+=(--swapfile "$to/swap" --swap-size 1G)
      command=("$zspool" run "${options[@]}" -- "${command[@]}") ;;
    *) [ -z "$cgroup" ] || join=$cgroup/cgroup.procs ;;
  esac
  guest_pid_file=$to/pid
  (
    echo "$BASHPID" >"$join"
    TIMEFORMAT='wall=%R user=%U system=%S'
    time timeout --kill-after=10 $timeout_seconds nice -n 5 "${command[@]}" </dev/null >"$to/console" 2>"$to/errors"
  ) 2>"$to/time" &
  guest_job=$!
}

attempt_run() { # run, key
  local run=$1 key=$2 to=$work/runs/$1 limit=0 status=0 pid='' qemu_limit=0
  rm -rf "$to"; mkdir -p "$to"
  case $run in
    plain) [ "$(id -u)" != 0 ] || make_cgroup || true ;; # only to see what the kernel would count
    zram-* | even-*)
      kernel_side || { undo_kernel_side; return 0; }
      limit=$(limit_of "$run")
      # A cgroup counts all of QEMU, zspool all but what is executable: the translation buffer comes on top.
      qemu_limit=$((limit + translation_bytes))
      echo "$qemu_limit" >"$(cgroup_limit_file)" ;;
    zspool-*) limit=$(limit_of "$run") ;;
  esac
  start_guest "$run" "$to"
  for _ in $(seq 100); do [ -s "$to/pid" ] && break; kill -0 "$guest_job" 2>/dev/null || break; sleep 0.1; done
  pid=$(cat "$to/pid" 2>/dev/null || true)
  sample_until_end "$run" "$to" "$pid" "$limit" "$qemu_limit"
  wait "$guest_job" || status=$?
  guest_job='' guest_pid_file=''
  [ -z "$perf_job" ] || wait "$perf_job" 2>/dev/null || true
  perf_job=''
  write_result "$run" "$key" "$to" "$limit" "$qemu_limit" "$status"
  undo_kernel_side
  rm -f "$to/swap"
  sed -n 's/^/    /p' "$to/result" | grep -E 'ended|wall|user|system|peak' | tr '\n' ' '; echo
  [ "$(value "$run" ended)" = well ] || tail -n 5 "$to/errors" "$to/console"
}

# Twice a second, a line: seconds, resident, staged, compressed, held, device, anonymous, swapped, charged, minor, major, step
# (compressed: what limits count; held: the frames or pages it lies in; bytes; - where nobody knows). All from outside but for
# zspool's compressed, held and device, which are its own word and are compared with what the process takes.
sample_until_end() { # run, folder, pid, limit, limit of the cgroup
  local run=$1 to=$2 pid=$3 limit=$4 qemu_limit=$5 began now before memory store faults charged=- step='' perf_at=''
  echo "seconds,resident,staged,compressed,held,device,anonymous,swapped,charged,minor,major,step" >"$to/samples.csv"
  began=${EPOCHREALTIME/./}
  while kill -0 "$guest_job" 2>/dev/null; do
    now=${EPOCHREALTIME/./}
    before=$([[ $run != zspool-* ]] || zspool_store "$pid" "$to")
    memory=$(awk -v guest=$guest_bytes -f "$here/sample.awk" "/proc/$pid/smaps" 2>/dev/null) || memory=''
    faults=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{ print $8 "," $10 }') || faults=''
    store='0,0,0'
    case $run in
      zspool-*) store=$(lesser_store "$before" "$(zspool_store "$pid" "$to")") ;;
      zram-* | even-*)
        store=$(awk '{ printf "%.0f,%.0f,0", $2, $3 }' "/sys/block/zram$zram/mm_stat")
        [[ $run != even-* ]] || lower_limit "$qemu_limit" "$store" ;;
    esac
    [ -z "$cgroup" ] || charged=$(cat "$(cgroup_usage_file)")
    step=$(sed -n 's/^GUEST [0-9.]* step \([a-z0-9]*\).*/\1/p' "$to/console" | tail -n 1)
    if [ "$step" = hash2 ] && [ -z "$perf_at" ]; then perf_at=$now; watch_faults "$pid" "$to"; fi
    if [[ $memory =~ ^[0-9]+,[0-9]+,([0-9]+), ]] && [ "${BASH_REMATCH[1]}" != 0 ] && [ -n "$faults" ]; then
      printf '%d.%02d,%s,%s,%s,%s,%s,%s\n' $(((now - began) / 1000000)) $(((now - began) / 10000 % 100)) \
        "${memory%,*,*}" "$store" "${memory#*,*,}" "$charged" "$faults" "$step" >>"$to/samples.csv"
    fi
    sleep 0.5
  done
}

# In a run `even`, what zram's pool takes comes out of the limit, as it does in zspool's: the host has the same bytes in both.
lower_limit() { # limit of the cgroup, store
  local held=${2#*,}
  echo $(($1 - ${held%,*})) 2>/dev/null >"$(cgroup_limit_file)" || true # EBUSY: it goes there with the next sample
}

# Of what the pool said before and after smaps was read, the one with less in it: what was compressed meanwhile is not taken for
# more than there was at one time.
lesser_store() { awk -F, -v one="$1" -v other="$2" 'BEGIN { split(one, a); split(other, b); print(a[1] <= b[1] ? one : other) }' </dev/null; }

zspool_store() { # pid, folder: compressed,held,device by the socket of a running program
  local text=$2/status.json compressed held device
  "$zspool" ctl "$1" status >"$text" 2>/dev/null || { echo "-,-,-"; return; }
  compressed=$(number "$text" compressed) held=$(number "$text" frame_bytes) device=$(number "$text" on_device)
  echo "${compressed:--},${held:--},${device:--}"
}

# Faults timed from outside, by the same ruler for both: the kernel reports a fault when it begins and again when it is done, as a
# major one after swap, as a minor one after a userfaultfd. In the first case all are taken, in the second those of registered
# memory. For 15 seconds of the second hash only, as it costs a microsecond a fault.
watch_faults() { # pid, folder
  command -v perf >/dev/null || return 0
  awk '/^[0-9a-f]+-[0-9a-f]+ / { split($1, range, "-") } /^VmFlags:.* um( |$)/ { print range[1], range[2] }' "/proc/$1/smaps" >"$2/registered" || return 0
  perf record -q -o "$2/perf.data" -e page-faults -e major-faults -e minor-faults -c 1 -d -T -m 1024 -p "$1" -- sleep 15 >/dev/null 2>&1 &
  perf_job=$!
}
fault_times() { # folder: p50, p99 in microseconds and how many, of what watch_faults saw
  [ -s "$1/perf.data" ] || { echo "- - 0"; return; }
  perf script -i "$1/perf.data" -F tid,time,event,addr --ns 2>/dev/null | awk -v ranges="$1/registered" '
    function padded(hex) { return substr("0000000000000000" hex, length(hex) + 1) }
    function registered(hex,   i) {
      for (i = 1; i <= n; i++) if (first[i] <= hex && hex < end[i]) return 1
      return 0
    }
    BEGIN { while ((getline <ranges) > 0) { n++; first[n] = padded($1) ""; end[n] = padded($2) "" } }
    { split($2, at, /[.:]/); ns = (at[1] % 100000) * 1e9 + at[2] }
    $3 ~ /^page-faults/ { began[$1] = ns; address[$1] = $4; next }
    $1 in began && address[$1] == $4 {
      if ($3 ~ /^major-faults/ || registered(padded($4))) print ns - began[$1]
      delete began[$1]
    }' | sort -n |
    awk '{ ns[NR] = $1 } END { if (NR == 0) print "- - 0"; else printf "%.1f %.1f %d\n", ns[int((NR + 1) / 2)] / 1000, ns[int(NR * 0.99 + 0.99)] / 1000, NR }'
  rm -f "$1/perf.data"
}

write_result() { # run, key, folder, limit, limit of the cgroup, exit status
  local run=$1 key=$2 to=$3 limit=$4 qemu_limit=$5 status=$6 ended=well p50 p99 timed faults
  [ "$status" = 124 ] || [ "$status" = 137 ] && ended="in $timeout_seconds s not"
  [ "$status" = 0 ] || [ "$ended" != well ] || ended="with status $status"
  [ -z "$cgroup" ] || [ "$(cgroup_ooms)" = 0 ] || ended=killed
  [ "$status" != 0 ] || grep -q "^GUEST .* step end" "$to/console" || ended="early, without its last step"
  read -r p50 p99 timed < <(fault_times "$to")
  # The kernel counts what a userfaultfd served among the minor faults.
  faults=$(tail -n 1 "$to/samples.csv" | cut -d, -f11)
  [[ $run != zspool-* ]] || faults=$(number "$to/stat.json" total)
  {
    echo "limit=$limit"
    echo "cgroup_limit=$qemu_limit"
    echo "status=$status"
    echo "ended=$ended"
    tr ' ' '\n' <"$to/time" | grep -E '^(wall|user|system)='
    sed -n 's/\r$//; s/^GUEST [0-9.]* sum \([a-z]*\) \([0-9a-f]*\).*/sum_\1=\2/p' "$to/console"
    sed -n 's/\r$//; s/^GUEST [0-9.]* failed \(.*\)/failed=\1/p' "$to/console"
    awk -F, -v store_apart="$([[ $run = zspool-* ]] || echo 1)" '
      function more(name, bytes) { if (bytes + 0 > peak[name]) peak[name] = bytes + 0 }
      NR > 1 {
        more("resident", $2); more("staged", $3); more("compressed", $4); more("held", $5); more("device", $6)
        more("anonymous", $7); more("swapped", $8); more("counted", $2 + $3 + $4); samples++; minor = $10; major = $11
        more("host", $7 + (store_apart ? $5 : 0)) # the pool of zram is memory of the kernel
        more("other", ($9 == "-" || $9 < $7 ? $7 : $9) - $2)
      }
      END {
        for (name in peak) printf "peak_%s=%.0f\n", name, peak[name]
        printf "other=%.0f\nsamples=%d\nminor=%d\nmajor=%d\n", peak["other"], samples, minor, major
      }' "$to/samples.csv"
    [ -z "$cgroup" ] || echo "peak_charged=$(cat "$cgroup"/memory.{max_usage_in_bytes,peak} 2>/dev/null | head -n 1)"
    echo "faults=${faults:-0}"; echo "p50=$p50"; echo "p99=$p99"; echo "timed=$timed"
    echo "key=$key"
  } >"$to/result"
}
