# What came out; sourced by .ci/headline: the table, headline.json, the picture and the checks.

# Runs that were made by what is there now; results of an earlier script, or program, are not compared with them.
current_runs() {
  local run
  for run in plain zspool-100 zram-100 zspool-50 zram-50 even-50 zspool-25 zram-25; do
    [ ! -s "$work/runs/$run/result" ] || [[ $run = zspool-* && -z $zspool ]] || [ "$(value "$run" key)" != "$(key_of "$run")" ] || echo "$run"
  done
}
among() { [[ " $current " = *" $1 "* ]]; }
ran() { among "$1" && [ "$(value "$1" ended)" = well ]; }
mib() { awk -v bytes="${1:-0}" 'BEGIN { printf "%.0f", bytes / 1048576 }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }
checks=0 failed_checks=0 current=''
check() { # sentence, command...
  local sentence=$1; shift
  checks=$((checks + 1))
  if "$@"; then echo "ok    $sentence"; else echo "FAIL  $sentence"; failed_checks=$((failed_checks + 1)); fi
}
least() { [ "$1" -lt "$2" ] && echo "$1" || echo "$2"; }
at_most() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b) }'; }

name_of() {
  case $1 in
    plain) echo "no limit" ;;
    zspool-*) echo "zspool run, ${1#*-}%" ;;
    zram-*) echo "kernel zram, ${1#*-}%" ;;
    even-*) echo "kernel zram, ${1#*-}%, its pool counted" ;;
  esac
}

table() {
  local run cpu limit
  echo "| 512 MiB guest | limit MiB | wall s | over no limit | CPU s | faults | p50 µs | p99 µs | guest resident MiB, peak | compressed MiB, peak | host memory MiB, peak |"
  echo "|---|---|---|---|---|---|---|---|---|---|---|"
  for run in $current; do
    if ! ran "$run"; then
      echo "| $(name_of "$run") | $(mib "$(value "$run" limit)") | ended: $(value "$run" ended) | | | | | | | | |"
      continue
    fi
    cpu=$(awk -v u="$(value "$run" user)" -v s="$(value "$run" system)" 'BEGIN { printf "%.1f", u + s }')
    limit=$(mib "$(value "$run" limit)")
    [ "$run" != plain ] || limit=-
    echo "| $(name_of "$run") | $limit | $(value "$run" wall) |" \
      "$(ratio "$(value "$run" wall)" "$(value plain wall)") | $cpu | $(value "$run" faults) | $(value "$run" p50) | $(value "$run" p99) |" \
      "$(mib "$(value "$run" peak_resident)") | $(mib "$(value "$run" peak_compressed)") | $(mib "$(value "$run" peak_host)") |"
  done
}

json() {
  local run separator=''
  printf '{"machine": {"kernel": "%s", "processor": "%s"}, "guest_bytes": %d, "runs": {' "$(uname -r | sed 's/-.*//')" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$guest_bytes"
  for run in $current; do
    printf '%s\n"%s": {%s}' "$separator" "$run" "$(awk -F= '
      $1 == "key" { next }
      { printf "%s\"%s\": %s", (n++ ? ", " : ""), $1, ($2 ~ /^[0-9]+(\.[0-9]+)?$/ && $1 !~ /^sum_/ ? $2 : $2 == "-" ? "null" : "\"" $2 "\"") }
    ' "$work/runs/$run/result")"
    separator=,
  done
  printf '}}\n'
}

# A limit is checked by every sample: what smaps says of registered memory and of what was taken out of it, and what the pool says
# it holds. The three are not read in one instant; what moves from one to the other meanwhile is seen twice, and that is bounded.
report() {
  local run
  current=$(current_runs | tr '\n' ' ')
  echo; table | tee "$work/table.md"
  json >"$work/headline.json"
  picture >"$work/headline.svg"
  echo; echo "machine-readable: $work/headline.json; picture: $work/headline.svg"; echo
  for run in $current; do
    # What the kernel's side does to itself at a quarter is its own affair, and the table says it.
    [[ $run = zram-* || $run = even-* ]] || check "$run ended well (it ended $(value "$run" ended))" ran "$run"
    ran "$run" || continue
    for sum in files sorted; do
      check "$run: checksum of $sum as in the plain run" [ "$(value "$run" sum_$sum)" = "$(value plain sum_$sum)" ]
    done
    check "$run: the guest found nothing wrong" [ -z "$(value "$run" failed)" ]
    [[ $run = zspool-* ]] || continue
    check "$run: $(value "$run" samples) samples, the highest $(value "$run" peak_counted) of $(value "$run" limit) bytes" \
      at_most "$(value "$run" peak_counted)" "$(($(value "$run" limit) + slack))"
  done
  if ran zspool-25; then
    # A fault brings neighbours along: what counts is how many pages came by faults. Most of what the kernel saw is one page each.
    local seen=$(($(value zspool-25 minor) - $(value plain minor))) around
    around=$(number "$work/runs/zspool-25/stat.json" around_pages)
    check "zspool-25: at least 100000 pages came by faults ($(value zspool-25 faults) faults, $around neighbours), and the kernel saw as many faults more than in the plain run ($seen)" \
      at_most 100000 "$(least "$seen" $(($(value zspool-25 faults) + around)))"
  fi
  # What is slower than it should be is told, and recorded all the same; what is wrong is not.
  local wrong=$failed_checks
  ! { ran zspool-50 && ran zram-50; } ||
    check "at 50% at most 1.3 of the time with zram ($(ratio "$(value zspool-50 wall)" "$(value zram-50 wall)"))" \
      at_most "$(value zspool-50 wall)" "$(awk -v b="$(value zram-50 wall)" 'BEGIN { print b * 1.3 }')"
  echo "$((checks - failed_checks)) of $checks checks passed"
  [ -z "$record" ] || [ "$wrong" != 0 ] || keep_record
  [ "$failed_checks" = 0 ]
}

keep_record() { # what is shown to users: the picture, and the table between its marks in the README
  cp "$work/headline.svg" docs/headline.svg
  awk -v table="$work/table.md" '
    /^<!-- headline: / { print; while ((getline line <table) > 0) print line; skip = 1; next }
    /^<!-- end of headline -->/ { skip = 0 }
    !skip' README.md >"$work/README.md"
  cp "$work/README.md" README.md
  echo "recorded: docs/headline.svg and the table in README.md"
}
slack=$((4 << 20))

picture() { # of the runs there are: resident and compressed bytes over time
  local run files=()
  for run in zspool-100 zspool-50 zspool-25 zram-100 zram-50 zram-25; do
    ! ran "$run" || files+=("$work/runs/$run/samples.csv")
  done
  local longest=0 wall
  for run in zspool-100 zspool-50 zspool-25 zram-100 zram-50 zram-25; do
    ran "$run" || continue
    wall=$(value "$run" wall); at_most "${wall:-0}" "$longest" || longest=$wall
  done
  awk -F, -v guest=$guest_bytes -v longest="$longest" -f "$here/picture.awk" ${files[@]+"${files[@]}"}
}
