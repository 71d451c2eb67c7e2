#!/bin/sh
# Two replicas of a fleet on this machine, and a publisher: all in a temporary directory, ended and removed at the end.
set -eu
program=$(realpath "$1")
command -v redis-server >/dev/null || { echo "the demo needs redis-server: apt-get install redis-server" >&2; exit 2; }
place=$(mktemp -d)
started=
trap 'kill $started 2>/dev/null || true; wait; rm -rf "$place"' EXIT
say() { printf '\n$ %s\n' "$*"; }
run() { say "cloned-proxy $*"; "$program" "$@"; }

redis-server --port 0 --unixsocket "$place/redis" --dir "$place" --save '' >/dev/null &
started=$!
while [ ! -S "$place/redis" ]; do sleep 0.1; done
mkdir -m 700 "$place/publisher"
export CLONED_WORKSPACE="$place/publisher"
say "cloned-proxy fleet init acme --store unix://$place/redis"
"$program" fleet init acme --store "unix://$place/redis" | tee "$place/section"
for name in one two; do
  mkdir -m 700 "$place/$name"
  (umask 077; { cat "$place/section"; echo "  replica: $name"; } >"$place/$name/config.yaml")
  CLONED_WORKSPACE="$place/$name" "$program" serve --listen 127.0.0.1:0 --control off --metrics 127.0.0.1:0 \
    >"$place/$name.out" 2>"$place/$name.err" &
  started="$started $!"
done
for name in one two; do until grep -q '^denied' "$place/$name.out"; do sleep 0.2; done; done

printf 'version: 1\nanonymous: global\nglobal: {allow: [a.example]}\n' >"$place/publisher/policy.yaml"
run fleet publish --reason 'the first'
printf 'version: 1\nanonymous: global\nglobal: {allow: [b.example]}\n' >"$place/publisher/policy.yaml"
run fleet publish --reason 'another host'
run fleet rollback 1.1 --reason 'it was better before'
run fleet status
