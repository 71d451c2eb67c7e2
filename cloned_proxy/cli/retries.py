"""One line for one call, however many entries the log has of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cloned_proxy.store.audit_log import Entry

_LATEST_SECONDS: Final = 60.0
"""A tunnel that was let through is judged again by its first bytes: within the time that those are waited for."""
_MOST_HELD: Final = 10_000
"""Entries or calls in memory at once."""


def settled(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries in their order, without decisions that another stage of the same call replaced by its own.

    An entry is given out when no such decision can follow any more, and at the end.
    """
    held: dict[int, Entry] = {}
    places: dict[str, int] = {}
    for entry in entries:
        held[entry.seq] = entry
        if entry.body["type"] == "decision":
            places[entry.body["id"]] = entry.seq
            held.pop(places.pop(entry.body.get("amends", ""), 0), None)
        while len(held) > _MOST_HELD or next(iter(held.values())).body["at"] < entry.body["at"] - _LATEST_SECONDS:
            first = held.pop(next(iter(held)))
            places.pop(first.body.get("id", ""), None)
            yield first
    yield from held.values()


def together(denials: Iterable[Entry]) -> Iterator[tuple[Entry, int]]:
    """Each refused call once: its newest entry, and how many there are; in the order of those newest entries.

    Of very many different calls, one that was not repeated for long is given out before the end, and may come again.
    """
    calls: dict[tuple[object, ...], tuple[Entry, int]] = {}
    for entry in denials:
        body = entry.body
        call = tuple(body[name] for name in ("tool", "host", "port", "method", "path", "reason"))
        _, times = calls.pop(call, (entry, 0))
        calls[call] = (entry, times + 1)
        if len(calls) > _MOST_HELD:
            yield calls.pop(next(iter(calls)))
    yield from calls.values()
