"""What a run was refused, told while it goes on: each call once, no flood, and the lines of another run never."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.cli.commands.sandbox.refusals import Refusals
from cloned_proxy.cli.show.denials import Denials
from cloned_proxy.program_name import NAME, program_name
from cloned_proxy.store.audit.audit_log import AuditLog
from cloned_proxy.telemetry.events import DecisionEvent, Kind, RunEvent
from tests.cli.program import eventually

TOOL = "demo.tool@v1"
DENIED = DecisionEvent(
    id="d", at=1.0, kind=Kind.TUNNEL, verdict="deny", reason="host_not_allowed", tool=TOOL, run="r1",
    host="a.example", port=443, method="CONNECT", path="", rule="", policy="v", hint="cloned-proxy allow a.example",
)  # fmt: skip
END = RunEvent(at=2.0, tool=TOOL, run="r1", result="ok", seconds=1.0, start_seconds=0.1, dry_run=False, reason="")


def denial(host: str, tool: str | None = None, port: int = 80) -> dict[str, Any]:
    return {"tool": tool, "host": host, "port": port}


class Shown:
    """`Denials` on a clock that stands."""

    def __init__(self, most: int) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.more: list[int] = []
        self.now = 0.0
        self.denials = Denials(self.bodies.append, self.more.append, most=most, seconds=10.0, clock=lambda: self.now)


def test_each_tool_host_and_port_is_shown_once() -> None:
    shown = Shown(8)
    for body in (denial("a.example"), denial("a.example"), denial("a.example", tool="t"), denial("a.example", port=81)):
        shown.denials.denied(body)
    assert len(shown.bodies) == 3


def test_a_flood_is_counted_and_its_memory_is_bounded() -> None:
    shown = Shown(8)
    for number in range(5000):
        shown.denials.denied(denial(f"h{number}.example"))
    assert len(shown.bodies) == 8
    assert len(shown.denials._known) == 2000
    shown.denials.tick()
    assert shown.more == []
    shown.now = 10.0
    shown.denials.denied(denial("next.example"))
    assert (shown.more, len(shown.bodies)) == ([4992], 9)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def record(log: Path, *events: DecisionEvent | RunEvent) -> None:
    with AuditLog(log) as audit:
        for event in events:
            audit.append(event)


def test_a_refusal_is_told_while_the_run_goes_on_and_once(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(log, replace(DENIED, host="before.example"))
    told = ""
    with Refusals(log, TOOL) as refusals:
        refusals.begin("r1")
        record(
            log,
            DENIED,
            replace(DENIED, verdict="allow", host="passed.example"),
            replace(DENIED, run="r2", host="other.example"),
        )

        def first() -> bool:
            nonlocal told
            told += capsys.readouterr().err
            return "a.example" in told

        eventually(first, what="the line")
        record(log, DENIED, replace(DENIED, host="\x1b[2Jb.example", hint=""), END)
    told += capsys.readouterr().err
    assert told.replace(program_name(), NAME).splitlines() == [
        "cloned-proxy: refused a.example:443 (host_not_allowed); cloned-proxy allow a.example",
        "cloned-proxy: refused \\x1b[2Jb.example:443 (host_not_allowed)",
    ]


def test_at_a_terminal_the_lines_wait_for_the_end_and_are_few(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Refusals(log, TOOL, at_once=False) as refusals:
        refusals.begin("r1")
        record(log, *(replace(DENIED, host=f"h{number}.example") for number in range(10)))
        eventually(lambda: refusals._after >= 10, what="the reading")
        assert capsys.readouterr().err == ""
        record(log, END)
    lines = capsys.readouterr().err.replace(program_name(), NAME).splitlines()
    assert (len(lines), lines[-1]) == (9, "cloned-proxy: and 2 more: `cloned-proxy log --denied`")


def test_a_run_that_never_began_and_a_log_that_cannot_be_read_end_nothing(log: Path) -> None:
    with Refusals(log, TOOL):
        pass
    log.write_bytes(b"this is no database, and nobody here can mend it")
    began = time.monotonic()
    with Refusals(log, TOOL) as refusals:
        refusals.begin("r1")
    assert time.monotonic() - began < 60
