"""Entries of the log as lines for people. Every recorded text is made harmless for a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from cloned_proxy.cli.show.output import VERDICT_STYLES, iso_time, paint, short_path, visible
from cloned_proxy.cli.show.tables import passed, wrapped
from cloned_proxy.local.slot_protocol import DRY_RUN_MARK
from cloned_proxy.policy.terms.host_port import host_port
from cloned_proxy.program_name import in_this_shell
from cloned_proxy.telemetry.events import MANY

_LABEL: Final = 6


class _Told(NamedTuple):
    label: str
    text: str
    style: str = "bold"
    notes: tuple[str, ...] = ()
    """What to do about it, and where to read more."""


def lines(body: dict[str, Any], *, times: int = 1, clock: bool = False) -> list[str]:
    """One entry: one line in a pipe; at a terminal as many as its width wants, with how long ago it was.

    `times` is how often it was met; with `clock` the terminal shows the time of day, which stays right as it scrolls.
    """
    told = TELLERS.get(body["type"], _decision)(body)
    text = visible(told.text if times == 1 else f"{told.text}  {times}x")
    notes = [visible(in_this_shell(note)) for note in told.notes]
    label = f"{told.label:<{_LABEL}}"
    if not sys.stdout.isatty():
        return ["  ".join((iso_time(body["at"]), label, text, *notes))]
    at = f"{_time_of_day(body['at']) if clock else passed(body['at']):<8}"
    head = f"{paint(at, 'dim')}  {paint(label, told.style)}  "
    margin = len(at) + 2
    room = shutil.get_terminal_size().columns
    first, *more = wrapped(text, room - margin - len(label) - 2)
    more += [line for note in _joined(notes, room - margin) for line in wrapped(note, room - margin)]
    return [head + first, *(f"{'':<{margin}}{line}" for line in more)]


def _joined(notes: list[str], width: int) -> list[str]:
    """In one line if they fit into it."""
    line = "  ".join(notes)
    return [line] if line and len(line) <= width else notes


def _time_of_day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S")


def _policy(body: dict[str, Any]) -> _Told:
    why = f" ({body['why']})" if body["why"] else ""
    return _Told("policy", f"{body['action']}  {body['actor']}: {short_path(body['summary'])}{why}")


def _cut(body: dict[str, Any]) -> _Told:
    passed = f"{body['bytes_up']} bytes up, {body['bytes_down']} down"
    word = "failed" if body["cause"].startswith("upstream_error:") else "cut"
    where = f"{_place(body)}  " if body.get("host") else ""  # its decision may have been pruned
    return _Told(word, f"{body['tool'] or '-'}  {where}{body['cause']}  {passed}  id: {body['decision']}")


def _approval(body: dict[str, Any]) -> _Told:
    why = f" ({body['why']})" if body["why"] else ""
    text = " ".join(filter(None, (f"{body['actor']}:", body["approval"], body["summary"])))
    return _Told("request", f"{body['action']}  {text}{why}")


def _run(body: dict[str, Any]) -> _Told:
    dry = "  (dry run)" if body["dry_run"] else ""
    reason = f"  {body['reason']}" if body["reason"] else ""
    command = f"  {body['command']}" if body.get("command") else ""  # entries of earlier versions have none
    text = f"{body['tool']}  run {body['run']}  {body['result']} in {body['seconds']:.2f} s{dry}{reason}{command}"
    return _Told("run", text)


def _probe(body: dict[str, Any]) -> _Told:
    found = "sealed" if body["sealed"] else "NOT SEALED"
    counts = f"{body['attempts']} attempts, {body['controls']} controls, {body['seconds']:.1f} s"
    text = f"{found}  {'; '.join((counts, *body['failures']))}"
    return _Told("probe", text, "green" if body["sealed"] else "red")


def _device(body: dict[str, Any]) -> _Told:
    text = " ".join(filter(None, (f"{body['actor']}:", body["name"], body["device"])))
    return _Told("device", f"{body['action']}  {text}")


def _ignore(body: dict[str, Any]) -> _Told:
    whom = body["tool"] or "callers without a name"
    return _Told("ignore", f"{body['action']}  {body['actor']}: {body['host']} for {whom}")


def _notify(body: dict[str, Any]) -> _Told:
    dropped = f", {body['dropped']} more not tried" if body["dropped"] else ""
    text = f"{body['channel']} about {body['occasion']} {body['about']} did not arrive: {body['reason']}{dropped}"
    return _Told("notify", text, "red")


def _place(body: dict[str, Any]) -> str:
    return host_port(body["host"], body["port"])


def _decision(body: dict[str, Any]) -> _Told:
    asked = f"{body['method']} {_place(body)}{body['path']}"
    if not body["method"]:
        asked = "(refused calls over its budget)" if body["host"] == MANY else "(a head that cannot be read)"
    dry = "  (dry run)" if (body["run"] or "").startswith(DRY_RUN_MARK) else ""
    text = f"{body['tool'] or '-'}  {asked}"
    style = VERDICT_STYLES[body["verdict"]]
    if body["verdict"] == "allow":
        return _Told("allow", text + dry, style)
    fix = (f"fix: {body['hint']}",) if body["hint"] else ()
    return _Told(body["verdict"], f"{text}  {body['reason']}{dry}", style, (*fix, f"id: {body['id']}"))


TELLERS: Final[Mapping[str, Callable[[dict[str, Any]], _Told]]] = {
    "policy": _policy,
    "approval": _approval,
    "run": _run,
    "probe": _probe,
    "device": _device,
    "ignore": _ignore,
    "notify": _notify,
    "flow_end": _cut,
}
"""How an entry of each type is told, other than a decision."""
