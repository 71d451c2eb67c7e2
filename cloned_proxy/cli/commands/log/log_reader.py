"""What is on record, as `log` prints it, once or until interrupted."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloned_proxy.telemetry.event_types import DECISION, EVENT_TYPES, FLOW_END, TYPES_OF_TOOLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cloned_proxy.cli.show.retries import FollowedRetries
    from cloned_proxy.store.audit.audit_log import AuditLog, LogEntry

_POLL_SECONDS: Final = 0.1
_MOST_PLACES: Final = 10_000
_AT_TERMINAL: Final = 200
"""Entries that a person gets who has not said how many."""
_CUTS: Final = ("cut:", "revoked:", "idle", "lifetime", "upstream_error:upstream_proxy", "refused:secret_echoed")
"""Causes of the ends of flows that are shown: cuts of the proxy's own, which a client takes for its server's reset, and
what the proxy in front answered, which no client is told. No decision says that a server repeated a secret."""


def print_log(
    *,
    follow: bool = False,
    denied: bool = False,
    tool: str | None = None,
    since: str | None = None,
    limit: int | None = None,
    workspace: Path | None = None,
    as_json: bool = False,
) -> None:
    """As `log --help` says. Raises CommandError or StoreError."""
    import time

    from cloned_proxy.cli.place.arguments import typed
    from cloned_proxy.cli.place.context import existing_workspace
    from cloned_proxy.cli.show.errors import say
    from cloned_proxy.cli.show.output import put
    from cloned_proxy.policy.terms.units import parse_term
    from cloned_proxy.store.audit.audit_log import AuditLog

    start = None if since is None else time.time() - typed(parse_term, since, "--since")
    types = EVENT_TYPES if tool is None else TYPES_OF_TOOLS
    if denied:
        types = (DECISION,)
    from cloned_proxy.cli.show.retries import FollowedRetries

    newest = newest_shown(limit)
    seen, told = 0, False
    repeats = FollowedRetries() if follow else None
    with AuditLog(existing_workspace(workspace).state_db) as audit:
        places = _Places(audit)
        try:
            while True:
                batch = _News(audit.entries(after=seen, types=types, denied=denied, tool=tool, since=start))
                found = _as_json(batch) if as_json else _as_lines(places.noted(batch), repeats, places, denied=denied)
                for lines in deque(found, newest) if newest and not seen else found:
                    for line in lines:
                        put(line)
                    told = True
                seen = batch.last or seen
                if not follow:
                    break
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:  # the way to end `-f`
            return
    if not told:
        say("nothing on record that matches" if denied or tool or since else "nothing on record yet")


def newest_shown(given: int | None) -> int:
    """How many of what is there already are printed; 0: all."""
    import sys

    if given is not None:
        return given
    return _AT_TERMINAL if sys.stdout.isatty() else 0


def is_shown(body: Mapping[str, Any], *, denied: bool, tool: str | None) -> bool:
    """Whether an entry of another proxy's log would be printed here."""
    types = (DECISION,) if denied else EVENT_TYPES if tool is None else TYPES_OF_TOOLS
    return (
        body.get("type") in types
        and (not denied or body.get("verdict") == "deny")
        and (tool is None or body.get("tool") == tool)
        and (body["type"] != FLOW_END or str(body.get("cause")).startswith(_CUTS))
    )


class _News:
    """The entries that are shown, each looked at once; `last` is the number of the newest that was met."""

    def __init__(self, entries: Iterable[LogEntry]) -> None:
        self._entries = entries
        self.last = 0

    def __iter__(self) -> Iterator[LogEntry]:
        for entry in self._entries:
            self.last = entry.seq
            if entry.body["type"] != FLOW_END or entry.body["cause"].startswith(_CUTS):
                yield entry


class _Places:
    """Where flows went: the end of one names its decision alone."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._known: dict[str, dict[str, Any]] = {}

    def noted(self, entries: Iterable[LogEntry]) -> Iterator[LogEntry]:
        """The entries themselves; what they say of decisions is remembered, within a bound."""
        for entry in entries:
            if entry.body["type"] == DECISION:
                self._note(entry)
                if len(self._known) > _MOST_PLACES:
                    del self._known[next(iter(self._known))]
            yield entry

    def of(self, decision: str) -> dict[str, Any]:
        """`host` and `port`; {} where the log does not have the decision any more."""
        if decision not in self._known and (entry := self._audit.decision(decision)) is not None:
            self._note(entry)
        return self._known.get(decision, {})

    def _note(self, entry: LogEntry) -> None:
        self._known[entry.body["id"]] = {name: entry.body[name] for name in ("host", "port")}


def _as_json(entries: Iterable[LogEntry]) -> Iterator[list[str]]:
    """Every entry as it was recorded: nothing is put together."""
    from cloned_proxy.cli.show.output import json_line, with_iso_times

    for entry in entries:
        body: dict[str, Any] = with_iso_times(entry.body)
        yield [json_line({"seq": entry.seq, **body})]


def _as_lines(
    entries: Iterable[LogEntry], repeats: FollowedRetries | None, places: _Places, *, denied: bool
) -> Iterator[list[str]]:
    """The lines of each entry. `repeats` holds what earlier batches said, where the log is followed."""
    import time

    from cloned_proxy.cli.show.entries import lines
    from cloned_proxy.cli.show.retries import retried, settled, together

    if repeats is not None:
        told = repeats.news(settled(entries), time.time())
    else:
        told = together(settled(entries)) if denied else retried(settled(entries))
    for entry, times in told:
        body = entry.body
        if body["type"] == "flow_end":
            body = {**body, **places.of(body["decision"])}
        yield lines(body, times=times, clock=repeats is not None)
