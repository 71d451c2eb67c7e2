#!/bin/sh
# `uv tool install` checks no hash of a constraints or requirements file, where `uv pip sync --require-hashes` stops.
#
# Expected: a hash that stands in a constraints file is compared, as pip does with hashes in a requirements file.
# Seen with uv 0.13.9: the version is held, the hash is not looked at; the tool is installed, exit code 0. The same
# line is a "Hash mismatch" for `uv pip sync`. So `make install` makes its environment with the latter.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/uv"
"$work/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.9
uv=$work/uv/bin/uv
export UV_TOOL_DIR="$work/tools" UV_TOOL_BIN_DIR="$work/bin" UV_CACHE_DIR="$work/cache"
printf 'iniconfig==2.0.0 \\\n    --hash=sha256:%064d\npycowsay==0.0.0.2 \\\n    --hash=sha256:%064d\n' 0 0 >"$work/wrong.lock"

for option in --constraints --with-requirements; do
  "$uv" tool install --quiet --force "$option" "$work/wrong.lock" pycowsay==0.0.0.2 || {
    echo "changed: uv tool install $option refuses a wrong hash now"
    exit 1
  }
  echo "uv tool install $option wrong.lock: installed, in spite of a hash of zeros"
done

"$uv" venv --quiet "$work/env"
if "$uv" pip sync --quiet --python "$work/env/bin/python" --require-hashes "$work/wrong.lock" 2>"$work/said"; then
  echo "changed: uv pip sync --require-hashes takes a wrong hash"
  exit 1
fi
grep -i "hash mismatch" "$work/said"
