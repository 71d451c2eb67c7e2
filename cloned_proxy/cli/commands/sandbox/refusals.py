"""What the proxy refuses to a run, told to the person who started it: a client's own message names no reason.

While the run goes on, because a session may last for hours and MCP clients show what its command writes to stderr.
"""

from __future__ import annotations

import threading
import time
from math import inf
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from cloned_proxy.cli.show.denials import Denials
from cloned_proxy.cli.show.errors import say
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.events import MANY

if TYPE_CHECKING:
    from cloned_proxy.store.audit.audit_log import AuditLog

_POLL_SECONDS: Final = 0.2
_RECORDED_SECONDS: Final = 0.5
_SETTLE_SECONDS: Final = 0.01
_WINDOW_SECONDS: Final = 10.0
_MOST_IN_WINDOW: Final = 8
_JOIN_SECONDS: Final = 5.0


class Refusals:
    """Each destination that is refused to one run, once, with the command that would allow it. A context manager.

    Enter it before the run begins, and tell it the run's id with `begin` (`Job.begun`).
    """

    def __init__(self, state: Path, tool: str, *, at_once: bool = True) -> None:
        """`at_once` False keeps the lines to the end: while a terminal is the tool's own, nobody else writes there."""
        self._state = state
        self._tool = tool
        self._at_once = at_once
        self._kept: list[str] = []
        self._run = ""
        self._after = 0
        self._ended = False
        """Whether the run's end is on record: nothing of it comes behind that."""
        self._positioned = threading.Event()
        """The log's newest entry before the run is known."""
        self._begun = threading.Event()
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._follow, name="refusals", daemon=True)
        window = _WINDOW_SECONDS if at_once else inf
        self._denials = Denials(self._show, self._more, most=_MOST_IN_WINDOW, seconds=window)

    def __enter__(self) -> Self:
        self._reader.start()  # to open the log takes a while, in which the engine is asked already
        return self

    def begin(self, run: str) -> None:
        """The run with this id is about to begin."""
        self._positioned.wait(_JOIN_SECONDS)
        self._run = run
        self._begun.set()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._begun.set()
        self._reader.join(_JOIN_SECONDS)
        for line in self._kept:
            say(line)

    def _follow(self) -> None:
        try:
            self._after = newest(self._state)
            self._positioned.set()
            self._begun.wait()
            if not self._run:
                return
            from cloned_proxy.store.audit.audit_log import AuditLog  # while the container starts

            with AuditLog(self._state) as audit:
                while not self._over.wait(_POLL_SECONDS):
                    self._read(audit)
                    self._denials.tick()
                # The run's end is recorded behind its decisions, and all of it within 50 ms.
                deadline = time.monotonic() + _RECORDED_SECONDS
                self._read(audit)
                while not self._ended and time.monotonic() < deadline:
                    time.sleep(_SETTLE_SECONDS)
                    self._read(audit)
        except StoreError:
            return  # the log is somebody else's to repair; the command goes on without it
        finally:
            self._positioned.set()
        self._denials.end()

    def _read(self, audit: AuditLog) -> None:
        """Tells what is new."""
        for entry in audit.entries(types=("decision", "run"), after=self._after, tool=self._tool):
            self._after, body = entry.seq, entry.body
            if body["run"] != self._run:
                continue
            if body["type"] == "run":
                self._ended = True
            elif body["verdict"] == "deny":
                self._denials.denied(body)

    def _show(self, body: dict[str, Any]) -> None:
        hint = f"; {body['hint']}" if body["hint"] else ""
        what = "what was over its budget" if body["host"] == MANY else f"{body['host']}:{body['port']}"
        self._tell(f"cloned-proxy: refused {what} ({body['reason']}){hint}")

    def _more(self, count: int) -> None:
        self._tell(f"cloned-proxy: and {count} more: `cloned-proxy log --denied`")

    def _tell(self, line: str) -> None:
        if self._at_once:
            say(line)
        else:
            self._kept.append(line)


def newest(state: Path) -> int:
    """The number of the log's last entry; 0 for an empty or unreadable log."""
    from cloned_proxy.store.audit.database import reading

    try:
        with reading(state) as database:
            return int(database.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0])
    except StoreError:
        return 0
