#!/bin/sh
# ahocorasick_rs 1.0.3 chooses a DFA for few patterns, and takes time that grows with the square of a pattern of one
# repeated character to build it; the contiguous NFA of the same patterns is there at once, and searches as well.
# Expected: both in the same order of magnitude, for patterns of four thousand bytes.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check ahocorasick_rs==1.0.3
"$place/env/bin/python" - <<'PYTHON'
import time
from ahocorasick_rs import BytesAhoCorasick, Implementation


def seconds(**options):
    began = time.process_time()
    found = BytesAhoCorasick([b"x" * 4000 + b"end"], **options).find_matches_as_indexes(b"x" * 5000 + b"end")
    assert found == [(0, 1000, 5003)], found
    return time.process_time() - began


default, nfa = seconds(), seconds(implementation=Implementation.ContiguousNFA)
print(f"default {default:.3f} s, contiguous NFA {nfa:.6f} s")
assert default > 50 * nfa, "the default is as fast now: Implementation may be left out"
PYTHON
