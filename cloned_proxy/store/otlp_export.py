"""Follows the log and sends what is new to a collector, from a thread that traffic never waits for.

The log itself is the queue: what is exported is on record already, a collector that is away costs no memory, and a
restart goes on where the last one stopped. Only what lies further back than a bound is left out, and counted.
"""

from __future__ import annotations

import contextlib
import threading
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter

from cloned_proxy.store.atomic import write_atomically
from cloned_proxy.store.audit_log import AuditLog
from cloned_proxy.store.errors import StoreError
from cloned_proxy.telemetry.otlp import Collector, Exported, ExportError

_log = structlog.get_logger(__name__)

CURSOR_PLACE: Final = ("run", "otlp.seq")
"""Below the workspace: the last entry that the collector took."""
TYPES: Final = ("decision", "flow_end", "policy", "run", "probe", "approval", "device")
MOST_BEHIND: Final = 50_000
"""Entries; what lies further back is dropped."""
_BATCH: Final = 500
_EVERY_SECONDS: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_CLOSE_SECONDS: Final = 12.0


class OtlpExport:
    """One for each workspace: of several workers, the leading one's. Starts with `start`, ends with `close`."""

    def __init__(self, root: Path, state_db: Path, endpoint: str, registry: CollectorRegistry) -> None:
        self._cursor = root.joinpath(*CURSOR_PLACE)
        self._state_db = state_db
        self._endpoint = endpoint
        self._sent = Counter("cloned_proxy_otlp_exported", "Entries that the collector took.", registry=registry)
        self._dropped = Counter(
            "cloned_proxy_otlp_dropped", "Entries that were left out because the collector was too far behind.",
            registry=registry,
        )  # fmt: skip
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._failing = False

    def start(self) -> None:
        """What is on record by now counts as old, unless an export was under way before. Raises StoreError."""
        if not self._cursor.exists():
            with contextlib.closing(AuditLog(self._state_db)) as log:
                self._cursor.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(self._cursor, f"{_newest(log)}\n".encode())
        self._thread.start()

    def close(self) -> None:
        """Sends what is on record now, if the collector takes it at once, and ends."""
        self._ending.set()
        self._thread.join(_CLOSE_SECONDS)

    # Everything below runs on the exporter's thread.

    def _run(self) -> None:
        pause = _EVERY_SECONDS
        with Collector(self._endpoint, version("cloned-proxy")) as collector:
            while True:
                ending = self._ending.wait(pause)
                if ending and self._failing:
                    return  # what waits in the log goes out after the next start
                try:
                    self._export(collector)
                    pause = _EVERY_SECONDS
                    self._say(None)
                except (ExportError, StoreError, OSError) as error:
                    pause = min(pause * 2, _LONGEST_PAUSE)
                    self._say(str(error))
                if ending:
                    return

    def _export(self, collector: Collector) -> None:
        with contextlib.closing(AuditLog(self._state_db)) as log:
            newest = _newest(log)
            last = self._read_cursor(newest)
            if newest - last > MOST_BEHIND:
                self._dropped.inc(newest - MOST_BEHIND - last)
                last = newest - MOST_BEHIND
            while True:
                rows = islice(log.entries(after=last, types=TYPES), _BATCH)
                batch = [Exported(row.seq, row.body) for row in rows]
                if not batch:
                    return
                collector.send(batch)
                last = batch[-1].seq
                self._sent.inc(len(batch))
                write_atomically(self._cursor, f"{last}\n".encode())

    def _read_cursor(self, newest: int) -> int:
        """The last entry that was taken; with a cursor that cannot be read everything that is there counts as old."""
        try:
            return min(int(self._cursor.read_text(encoding="ascii")), newest)
        except (FileNotFoundError, ValueError):
            return newest

    def _say(self, problem: str | None) -> None:
        """Once when it begins to fail, once when it is over."""
        if problem is not None and not self._failing:
            _log.warning("the collector takes nothing now; entries wait in the log", reason=problem)
        elif problem is None and self._failing:
            _log.info("the collector takes entries again")
        self._failing = problem is not None


def _newest(log: AuditLog) -> int:
    return next((entry.seq for entry in log.entries(types=TYPES, last=1)), 0)
