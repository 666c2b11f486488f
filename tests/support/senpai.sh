#!/usr/bin/env bash
# A memory agent in the manner of senpai: finds out how little memory a cgroup needs by taking a little of it, again and again,
# and looking whether anybody has to wait for it. It knows cgroup v2's files and nothing else.
#
#   senpai.sh reclaim|high CGROUP    one line per step on standard output, until it is ended or the cgroup goes
#
# Each interval, what "some" of the tasks were stalled for is held against PRESSURE:
#   below  take CURRENT * RATIO/1000, less the nearer the pressure is: by writing to memory.reclaim, or by lowering memory.high
#   above  leave it alone for 1, 2, 4, .. 16 intervals; with memory.high, also give a RATIO of it back
set -u
mode=$1 cgroup=$2
INTERVAL=${INTERVAL:-0.05} # seconds
PRESSURE=${PRESSURE:-1000} # microseconds of stall in an interval
RATIO=${RATIO:-50}         # thousandths
PAGE=4096

current() { read -r value <"$cgroup/memory.current" && echo "$value"; }
stalled() { # microseconds so far
  while read -r kind _ _ _ total; do
    if [ "$kind" = some ]; then echo "${total#total=}"; fi
  done 2>/dev/null <"$cgroup/memory.pressure"
}

rest=0 patience=1
before=$(stalled) || exit 1
while sleep "$INTERVAL"; do
  now=$(stalled) && bytes=$(current) && [ -n "$now" ] || exit 0 # it is gone
  pressure=$((now - before)) before=$now
  if [ "$pressure" -gt "$PRESSURE" ]; then
    rest=$patience patience=$((patience < 16 ? patience * 2 : 16))
    if [ "$mode" = high ]; then echo $((bytes + bytes * RATIO / 1000 + PAGE)) >"$cgroup/memory.high"; fi
    echo "backoff pressure=$pressure current=$bytes"
  elif [ "$rest" -gt 0 ]; then
    rest=$((rest - 1))
    echo "rest pressure=$pressure current=$bytes"
  else
    patience=1
    take=$((bytes * RATIO / 1000 * (PRESSURE - pressure) / PRESSURE / PAGE * PAGE))
    if [ "$take" -eq 0 ]; then
      echo "enough pressure=$pressure current=$bytes"
    elif [ "$mode" = high ]; then
      echo $((bytes - take)) >"$cgroup/memory.high"
      echo "lower pressure=$pressure current=$bytes take=$take"
    elif echo "$take" >"$cgroup/memory.reclaim"; then
      echo "reclaim pressure=$pressure current=$bytes take=$take"
    else # EAGAIN: there was less to have
      echo "short pressure=$pressure current=$bytes take=$take"
    fi 2>/dev/null
  fi
done
