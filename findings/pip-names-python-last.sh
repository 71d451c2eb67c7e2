#!/bin/sh
# pip 23.0.1 (of Debian 12; 23.2.1 as well) looks for the dependencies of a wheel before it compares Requires-Python.
#
# Expected: a wheel for a newer Python is refused with one line that says so. Seen with pip 23.0.1: if a dependency has
# no version for this Python, its search fails first, and the message is about that dependency alone. A marker on it
# (`; python_version >= "…"`, which repeats Requires-Python) takes it out of the search, and the clear line comes.
# Newer pips say it at once. Needs a Python that pip 23.0.1 runs on: 3.11 or older.
set -eu
python=$(command -v python3.11 || command -v python3.10 || { echo "needs python3.11 or python3.10" >&2; exit 2; })
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/old"
"$work/old/bin/python" -m pip install --quiet --disable-pip-version-check pip==23.0.1
"$python" -m venv "$work/new"
"$work/new/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24.1"

wheel() { # NAME REQUIRES: a wheel of nothing but its metadata
  "$python" - "$work/$1-1-py3-none-any.whl" "$1" "$2" <<'PY'
import sys, zipfile
path, name, requires = sys.argv[1:]
with zipfile.ZipFile(path, "w") as wheel:
    info = f"{name}-1.dist-info"
    wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\nRequires-Python: >=3.99\nRequires-Dist: {requires}\n")
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{info}/RECORD", "")
PY
}
# A version that no Python can have stands for one that only a newer Python has.
wheel plain 'iniconfig>=9999'
wheel marked 'iniconfig>=9999; python_version >= "3.99"'

says() { # WHICH WHEEL PATTERN
  "$work/$1/bin/python" -m pip install --disable-pip-version-check "$work/$2-1-py3-none-any.whl" >"$work/said" 2>&1 && exit 1
  grep "^ERROR: $3" "$work/said" | tail -n 1 || { echo "changed: pip ($1) says otherwise of $2:"; cat "$work/said"; exit 1; }
}
says old plain "No matching distribution found for iniconfig"
says old marked "Package 'marked' requires a different Python"
says new plain "Package 'plain' requires a different Python"
