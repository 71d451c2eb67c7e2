#!/bin/sh
# The coding agents that tests/agents drives, in the versions that the product names: fetch.sh PYTHON DIR
set -eu

[ $# -eq 2 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
python=$1
place=$2
packages=$("$python" -c 'from cloned_proxy.cli.editing.agents import AGENTS; print(*(agent.package for agent in AGENTS.values()))')

if [ "$(cat "$place/fetched" 2>/dev/null)" != "$packages" ]; then
  command -v npm >/dev/null || { echo "the agents come with npm, which is not here: install Node 22 or newer" >&2; exit 1; }
  echo "fetching $packages into $place (0.8 GB)" >&2
  mkdir -p "$place"
  # shellcheck disable=SC2086  several words
  npm install --prefix "$place" --ignore-scripts --no-audit --no-fund --loglevel=error $packages >/dev/null
  node "$place/node_modules/@anthropic-ai/claude-code/install.cjs" >/dev/null
  echo "$packages" >"$place/fetched"
fi
