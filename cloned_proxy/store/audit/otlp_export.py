"""Follows the log and sends what is new to a collector, from a thread that traffic never waits for.

The log itself is the queue: what is exported is on record already, a collector that is away costs no memory, and a
restart goes on where the last one stopped. What lies further back than a bound is left out and counted, and so is an
entry that the collector refuses even alone: no entry may keep the later ones from it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import httpx
import structlog
from prometheus_client import CollectorRegistry, Counter

from cloned_proxy import __version__
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.event_types import EVENT_TYPES
from cloned_proxy.telemetry.otlp import (
    Collector,
    CollectorRefusedError,
    Exported,
    ExportError,
    UnencodableError,
    encode,
)

_log = structlog.get_logger(__name__)

CURSOR_PLACE: Final = ("run", "otlp.seq")
"""Below the workspace: the last entry that the collector took."""
MOST_BEHIND: Final = 50_000
"""Entries; what lies further back is dropped."""
_BATCH: Final = 500
"""Entries of one request; `_BATCH_BYTES` bounds it as well, for what tools write decides how long an entry is."""
_BATCH_BYTES: Final = 2**20
_EVERY_SECONDS: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_CLOSE_SECONDS: Final = 12.0


class OtlpExport:
    """One for each workspace: of several workers, the leading one's. Starts with `start`, ends with `close`."""

    def __init__(
        self,
        root: Path,
        state_db: Path,
        endpoint: str,
        registry: CollectorRegistry,
        proxy: Callable[[], httpx.Proxy | None] = lambda: None,
    ) -> None:
        """`proxy` gives the one that leads to the endpoint, and raises StoreError."""
        self._cursor = root.joinpath(*CURSOR_PLACE)
        self._state_db = state_db
        self._endpoint = endpoint
        self._proxy = proxy
        self._version = __version__
        self._sent = Counter("cloned_proxy_otlp_exported", "Entries that the collector took.", registry=registry)
        self._dropped = Counter(
            "cloned_proxy_otlp_dropped",
            "Entries that were left out: the collector was too far behind, or refused them.",
            registry=registry,
        )
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._failing = False

    def start(self) -> None:
        """What is on record by now counts as old, unless an export was under way before. Raises StoreError."""
        if not self._cursor.exists():
            with contextlib.closing(AuditLog(self._state_db)) as log:
                self._cursor.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._move_cursor(_newest(log))
        self._thread.start()

    def close(self) -> None:
        """Sends what is on record now, if the collector takes it at once, and ends."""
        self._ending.set()
        self._thread.join(_CLOSE_SECONDS)

    def _move_cursor(self, seq: int) -> None:
        write_atomically(self._cursor, f"{seq}\n".encode())

    # Everything below runs on the exporter's thread.

    def _run(self) -> None:
        pause = _EVERY_SECONDS
        collector: Collector | None = None
        with contextlib.ExitStack() as ends:
            while True:
                ending = self._ending.wait(pause)
                if ending and self._failing:
                    return  # what waits in the log goes out after the next start
                try:
                    if collector is None:
                        collector = ends.enter_context(Collector(self._endpoint, self._version, self._proxy()))
                    self._export(collector)
                    self._say(None)
                except (ExportError, StoreError, OSError) as error:
                    self._say(str(error))
                except Exception as error:  # noqa: BLE001  an export that ended here would be missed by nobody
                    self._say(f"{type(error).__name__}: {error}", unexpected=True)
                if ending:
                    return
                pause = min(pause * 2, _LONGEST_PAUSE) if self._failing else _EVERY_SECONDS

    def _export(self, collector: Collector) -> None:
        with contextlib.closing(AuditLog(self._state_db)) as log:
            newest = _newest(log)
            last = self._read_cursor(newest)
            if newest - last > MOST_BEHIND:
                self._dropped.inc(newest - MOST_BEHIND - last)
                last = newest - MOST_BEHIND
                self._move_cursor(last)
            while batch := self._next_batch(log, last):
                self._deliver(collector, batch)
                last = batch[-1].seq

    def _next_batch(self, log: AuditLog, last: int) -> list[Exported]:
        """The entries after `last` that go out together; empty when there are no more."""
        batch: list[Exported] = []
        size = 0
        for row in islice(log.entries(after=last, types=EVENT_TYPES), _BATCH):
            try:
                entry = encode(row.seq, row.body)
            except UnencodableError as error:
                if batch:  # its turn comes when these are gone: the cursor passes everything once
                    break
                self._leave_out(row.seq, str(error))
                continue
            size += entry.size
            if batch and size > _BATCH_BYTES:
                break
            batch.append(entry)
        return batch

    def _deliver(self, collector: Collector, batch: Sequence[Exported]) -> None:
        """Sends the batch; one that is refused in halves, down to the single entry that is at fault."""
        try:
            partial = collector.send(batch)
        except CollectorRefusedError as error:
            if len(batch) == 1:
                self._leave_out(batch[0].seq, str(error))
                return
            middle = len(batch) // 2
            self._deliver(collector, batch[:middle])
            self._deliver(collector, batch[middle:])
            return
        self._move_cursor(batch[-1].seq)
        self._sent.inc(len(batch) - partial.rejected)
        if partial.rejected:
            self._dropped.inc(partial.rejected)
            _log.warning(
                "the collector kept only a part",
                rejected=partial.rejected, first=batch[0].seq, last=batch[-1].seq, reason=partial.reason,
            )  # fmt: skip

    def _leave_out(self, seq: int, why: str) -> None:
        self._move_cursor(seq)
        self._dropped.inc()
        _log.warning("an entry of the log cannot be exported and is left out", seq=seq, reason=why)

    def _read_cursor(self, newest: int) -> int:
        """The last entry that was taken; with a cursor that cannot be read everything that is there counts as old."""
        try:
            return min(int(self._cursor.read_text(encoding="ascii")), newest)
        except (FileNotFoundError, ValueError):
            return newest

    def _say(self, problem: str | None, *, unexpected: bool = False) -> None:
        """Once when it begins to fail, once when it is over; what is `unexpected` with its traceback."""
        if problem is not None and not self._failing:
            _log.warning("nothing can be exported now; entries wait in the log", reason=problem, exc_info=unexpected)
        elif problem is None and self._failing:
            _log.info("entries are exported again")
        self._failing = problem is not None


def _newest(log: AuditLog) -> int:
    return next((entry.seq for entry in log.entries(types=EVENT_TYPES, last=1)), 0)
