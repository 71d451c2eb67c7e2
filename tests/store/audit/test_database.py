from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cloned_proxy.store.audit.database import open_database

_AT_ONCE = 4


def test_those_who_open_a_new_file_at_the_same_moment_all_get_it(tmp_path: Path) -> None:
    """A first start has several: the proxy, its control process, a command."""
    together = threading.Barrier(_AT_ONCE)

    def open_one(path: Path) -> str:
        together.wait()
        database = open_database(path)
        try:
            mode: str = database.execute("PRAGMA journal_mode").fetchone()[0]
            return mode
        finally:
            database.close()

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for number in range(50):
            path = tmp_path / f"state-{number}.db"
            assert list(threads.map(open_one, [path] * _AT_ONCE)) == ["wal"] * _AT_ONCE
