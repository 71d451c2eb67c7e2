"""An answer comes before its entry in the log: a test that reads the log next waits here for what was answered."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

_READERS: Final = frozenset({"allow", "approvals", "audit", "explain", "list", "log", "policy", "status"})
_PATIENCE: Final = 5.0
"""Seconds without a new entry. Only for a log that never holds all: a full disk, entries that are pruned."""

_RECORDED: Final = """
    SELECT coalesce(sum(coalesce(json_extract(body, '$.count'), 1)), 0) FROM entries WHERE type = 'decision'"""


def reads_the_log(arguments: Sequence[str]) -> bool:
    """Whether this command prints what is on record, or goes by it; without a word it is the overview."""
    return not arguments or arguments[0] in _READERS


class Records:
    """Those of one proxy, made when it has started: `page` returns its metrics, or "" when nobody answers."""

    def __init__(self, state: Path, page: Callable[[], str]) -> None:
        self._state = state
        self._page = page
        self._before = _recorded(state)

    def complete(self) -> None:
        """Returns when each decision that the proxy has counted is in the log."""
        decided, found = _decided(self._page()), -1
        deadline = time.monotonic() + _PATIENCE
        while (recorded := _recorded(self._state)) - self._before < decided and time.monotonic() < deadline:
            if recorded != found:
                found, deadline = recorded, time.monotonic() + _PATIENCE
            time.sleep(0.005)


def _decided(page: str) -> float:
    families = text_string_to_metric_families(page)
    return sum(
        sample.value
        for family in families
        if family.name == "cloned_proxy_decisions"
        for sample in family.samples
        if sample.name == "cloned_proxy_decisions_total"
    )


def _recorded(state: Path) -> int:
    """Decisions in the log; one entry may stand for several."""
    try:
        with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True, timeout=_PATIENCE)) as database:
            count: int = database.execute(_RECORDED).fetchone()[0]
    except sqlite3.Error:  # a test has taken the file away, or broken it
        return 0
    return count
