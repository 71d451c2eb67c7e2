#!/bin/sh
# A Docker engine for the tests, beside (never instead of) the user's own: own socket, own data, ended by its pid.
#
#   tests/engine.sh start DIR     starts one if none runs for DIR, prints DOCKER_HOST=unix://DIR/engine.sock
#                                 ENGINE_SEED: the DIR of one that was stopped, whose images it has from the start
#   tests/engine.sh stop DIR      ends it and takes back what it mounted
#
# It must leave the host as it was: no bridge, no packet filter rules, no forwarding, no masquerading. ip_forward is
# compared before and after all the same, because a changed host is worse than a missing test.
set -eu

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }

[ $# -eq 2 ] || usage
action=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
pidfile=$dir/engine.pid
socket=$dir/engine.sock

running() { [ -s "$pidfile" ] && kill -0 "$(cat "$pidfile")" 2>/dev/null; }

# What an engine unpacks of an image it never writes to again, so two of them can share it: linked within a second,
# where loading the image takes ten. Its own books are copied. Where that fails (another file system) it begins empty.
seed() {
  mkdir -p "$dir/data"
  {
    cp -a --link "$1/overlay2" "$dir/data/" &&
      find "$1" -mindepth 1 -maxdepth 1 ! -name overlay2 -exec cp -a -t "$dir/data" {} +
  } 2>/dev/null || rm -rf "$dir/data"
}

start() {
  command -v dockerd >/dev/null || { echo "dockerd is missing: apt-get install docker.io" >&2; exit 1; }
  if running; then echo "DOCKER_HOST=unix://$socket"; return; fi
  rm -f "$pidfile" "$socket"
  if [ -d "${ENGINE_SEED:-}/data/overlay2" ] && [ ! -e "$dir/data" ]; then seed "$ENGINE_SEED/data"; fi
  cat /proc/sys/net/ipv4/ip_forward >"$dir/ip_forward.before"
  setsid dockerd --data-root "$dir/data" --exec-root "$dir/run" --pidfile "$pidfile" --host "unix://$socket" \
    --group root --bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
    --userland-proxy=false --log-level warn >"$dir/engine.log" 2>&1 </dev/null &
  for _ in $(seq 100); do
    if docker --host "unix://$socket" version >/dev/null 2>&1; then
      echo "DOCKER_HOST=unix://$socket"
      return
    fi
    sleep 0.2
  done
  echo "the engine did not answer within 20 s:" >&2
  tail -n 5 "$dir/engine.log" >&2
  exit 1
}

stop() {
  if running; then
    pid=$(cat "$pidfile")
    kill "$pid"
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
  fi
  # An engine that was killed leaves mounts; the deepest go first.
  awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/self/mounts | sort -r |
    while read -r mount; do umount "$mount" 2>/dev/null || umount -l "$mount" || true; done
  before=$(cat "$dir/ip_forward.before" 2>/dev/null || cat /proc/sys/net/ipv4/ip_forward)
  [ "$(cat /proc/sys/net/ipv4/ip_forward)" = "$before" ] || echo "$before" >/proc/sys/net/ipv4/ip_forward
}

case $action in start) start ;; stop) stop ;; *) usage ;; esac
