"""The probe's report for people: one line an attempt, grouped, and the verdict last."""

from __future__ import annotations

from itertools import groupby

from cloned_proxy.cli.output import paint, put, put_json, visible
from cloned_proxy.runner.probe.report import Line, Report, Result

_STYLES = {Result.OK: "green", Result.LEAK: "red", Result.BROKEN: "red", Result.BLIND: "red"}


def show(report: Report, *, as_json: bool, one_line: bool) -> None:
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


def summary(report: Report) -> str:
    """The verdict in one line."""
    leaks = sum(line.result in (Result.LEAK, Result.BROKEN) for line in report.attempts)
    blind = sum(line.result is Result.BLIND for line in report.controls)
    counts = f"{len(report.attempts)} attempts, {len(report.controls)} controls, {report.seconds:.1f} s"
    if report.sealed:
        return paint(f"sealed: {counts}; the only way out was the proxy", "green")
    return paint(f"NOT SEALED: {leaks} of the attempts and {blind} of the controls failed ({counts})", "red")


def _put(line: Line) -> None:
    mark = paint(f"{line.result.value:<6}", _STYLES[line.result])
    put(f"  {mark} {line.what}: {line.observed} ({visible(line.detail)})  {line.seconds * 1000:.0f} ms")
