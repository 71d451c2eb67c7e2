"""A second try on a quiet machine for a few tests that failed beside others: `SECOND_TRY=3 tests/run.sh …`, as CI does.

Among ten thousand tests of real programs, one may meet a machine that is busier than its author thought of. It runs
once more with the machine to itself, and what passes then is named as unsteady: a fault to be mended, but none that
keeps everything else from landing. Two things have no second try: more failures than `SECOND_TRY` says, and a test
that judges by what arrived at a canary, since what got out once can get out again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

SIGNS_OF_A_CANARY: Final = (b"canary", b".saw(", b"leak")
_ONCE_FAILED: Final = "cache/lastfailed"
"""Where pytest keeps what failed; `tests/run.sh` empties it before its first pass."""


def refusal(failed: list[str], most: int, root: Path) -> str | None:
    """Why these tests get no second try, or None. `failed`: ids of tests, relative to `root`; `most`: how many may."""
    if len(failed) > most:
        return f"{len(failed)} tests failed; at most {most} get a second try"
    for test in failed:
        text = (root / test.partition("::")[0]).read_bytes()
        if any(sign in text for sign in SIGNS_OF_A_CANARY):
            return f"{test} judges by a canary: what got out once can get out again"
    return None


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    assert config.cache is not None
    failed = sorted(config.cache.get(_ONCE_FAILED, {}))
    if reason := refusal(failed, int(os.environ["SECOND_TRY"]), config.rootpath):
        pytest.exit(f"no second try: {reason}", returncode=1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = [report.nodeid for report in terminalreporter.getreports("passed") if report.when == "call"]
    if passed:
        terminalreporter.section("UNSTEADY: failed beside others, passed alone; to be mended", yellow=True)
    for test in passed:
        terminalreporter.line(test)
