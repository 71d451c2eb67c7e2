from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from cloned_proxy.store.audit.database import open_database

_AT_ONCE = 4
_OPEN_AND_CLOSE = """
import pathlib, sys
from cloned_proxy.store.audit.database import open_database
open_database(pathlib.Path(sys.argv[1])).close()
"""


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


def test_who_makes_the_file_drops_no_lock_of_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing a descriptor drops this process's locks on its file; another process then removes the WAL in use."""
    path, close = tmp_path / "state.db", os.close
    with ThreadPoolExecutor(1) as another:
        opened: list[Future[sqlite3.Connection]] = []

        def close_late(descriptor: int) -> None:
            """The other thread opens the file before the one that makes it closes it, if nothing keeps it from that."""
            if not opened:
                opened.append(another.submit(open_database, path))
                wait(opened, timeout=0.5)
            close(descriptor)

        monkeypatch.setattr(os, "close", close_late)
        ours = open_database(path)
        theirs = opened[0].result()
    subprocess.run([sys.executable, "-c", _OPEN_AND_CLOSE, path], check=True)
    try:
        assert path.with_name("state.db-wal").exists()
        open_database(path).close()
    finally:
        ours.close()
        theirs.close()
