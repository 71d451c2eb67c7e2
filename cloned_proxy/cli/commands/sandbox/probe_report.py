"""The probe's report for people: one line an attempt, grouped, and the verdict last."""

from __future__ import annotations

import time
from itertools import groupby
from typing import Any

from cloned_proxy.cli.show.output import paint, put, put_json, visible
from cloned_proxy.runner.probe.report import Line, ProbeReport, Result
from cloned_proxy.telemetry.events import ProbeEvent

_STYLES = {Result.OK: "green", Result.LEAK: "red", Result.BROKEN: "red", Result.BLIND: "red"}


def show(report: ProbeReport, *, as_json: bool, one_line: bool) -> None:
    """Prints the report on stdout."""
    if as_json:
        put_json(report.as_json(), one_line=one_line)
        return
    for group, lines in groupby(report.attempts, key=lambda line: line.group):
        put(paint(group, "bold"))
        for line in lines:
            _put(line)
    if report.controls:
        put(paint("controls: the same attempts in a container that is open on purpose", "bold"))
        for line in report.controls:
            _put(line)
    put("")
    put(summary(report))


def summary(report: ProbeReport) -> str:
    """The verdict in one line."""
    leaks = sum(line.result in (Result.LEAK, Result.BROKEN) for line in report.attempts)
    blind = sum(line.result is Result.BLIND for line in report.controls)
    counts = f"{len(report.attempts)} attempts, {len(report.controls)} controls, {report.seconds:.1f} s"
    if report.sealed:
        return paint(f"sealed: {counts}; the only way out was the proxy", "green")
    return paint(f"NOT SEALED: {leaks} of the attempts and {blind} of the controls failed ({counts})", "red")


def probe_event(report: dict[str, Any], actor: str) -> ProbeEvent:
    """What `Report.as_json` says, for the record. Raises KeyError or TypeError for anything else."""
    lines = [*report["attempts"], *report["controls"]]
    return ProbeEvent(
        at=time.time(),
        sealed=report["sealed"] is True,
        attempts=len(report["attempts"]),
        controls=len(report["controls"]),
        seconds=report["seconds"],
        failures=tuple(f"{line['what']}: {line['result']}" for line in lines if line["result"] != "ok"),
        actor=actor,
    )


def _put(line: Line) -> None:
    mark = paint(f"{line.result.value:<6}", _STYLES[line.result])
    put(f"  {mark} {line.what}: {line.observed} ({visible(line.detail)})  {line.seconds * 1000:.0f} ms")
