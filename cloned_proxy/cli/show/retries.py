"""One line for one call, however many entries the log has of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.store.audit.audit_log import LogEntry

_LATEST_SECONDS: Final = 60.0
"""A tunnel that was let through is judged again by its first bytes: within the time that those are waited for."""
_ANSWER_SECONDS: Final = 10.0
"""A client that was asked for its credential comes back with it at once."""
_RETRY_SECONDS: Final = 60.0
"""The same call later than that after its last try is told anew."""
_QUIET_SECONDS: Final = 5.0
"""Seconds without a further try after which `log -f` tells how often a call was tried: clients wait less between
two."""
_MOST_HELD: Final = 10_000
"""Entries or calls in memory at once."""


def settled(entries: Iterable[LogEntry]) -> Iterator[LogEntry]:
    """The entries in their order, without decisions that another stage of the same call replaced by its own.

    Nor are there questions for a credential that came at once (`anonymous: challenge`). An entry is given out when
    nothing can follow any more that takes its place, and at the end.
    """
    held: dict[int, LogEntry] = {}
    places: dict[str, int] = {}
    questions: dict[tuple[object, ...], LogEntry] = {}
    for entry in entries:
        held[entry.seq] = entry
        if entry.body["type"] == "decision":
            places[entry.body["id"]] = entry.seq
            held.pop(places.pop(entry.body.get("amends", ""), 0), None)
            held.pop(_question_before(entry, questions), None)
        while len(held) > _MOST_HELD or next(iter(held.values())).body["at"] < entry.body["at"] - _LATEST_SECONDS:
            first = held.pop(next(iter(held)))
            places.pop(first.body.get("id", ""), None)
            yield first
    yield from held.values()


def _question_before(entry: LogEntry, questions: dict[tuple[object, ...], LogEntry]) -> int:
    """The number of the entry by which this call was asked for its credential; 0: it was not. Remembers questions."""
    body = entry.body
    call = tuple(body[name] for name in ("host", "port", "method", "path"))
    asked = questions.pop(call, None)
    if body["tool"] is None:
        if body["reason"] == Reason.IDENTITY_MISSING:
            questions[call] = entry
            if len(questions) > _MOST_HELD:
                del questions[next(iter(questions))]
        return 0
    return asked.seq if asked is not None and body["at"] - asked.body["at"] <= _ANSWER_SECONDS else 0


def retried(entries: Iterable[LogEntry]) -> Iterator[tuple[LogEntry, int]]:
    """The entries in their order, a refused call once for all its tries within a minute of each other: where it began.

    The number is how many there are.
    """
    held: dict[int, tuple[LogEntry, int]] = {}
    open_calls: dict[tuple[object, ...], tuple[int, float]] = {}
    for entry in entries:
        call, at = _call_of(entry), entry.body["at"]
        seq, last = open_calls.get(call, (0, 0.0)) if call else (0, 0.0)
        if seq in held and at - last <= _RETRY_SECONDS:
            first, times = held[seq]
            held[seq] = (first, times + entry.times)
            open_calls[call] = (seq, at)
            continue
        held[entry.seq] = (entry, entry.times)
        if call:
            open_calls[call] = (entry.seq, at)
        while len(held) > _MOST_HELD or (held and _is_over(next(iter(held.values()))[0], open_calls, at)):
            told = held.pop(next(iter(held)))
            if open_calls.get(over := _call_of(told[0]), (0, 0.0))[0] == told[0].seq:
                del open_calls[over]
            yield told
    yield from held.values()


def _is_over(entry: LogEntry, open_calls: dict[tuple[object, ...], tuple[int, float]], now: float) -> bool:
    """Whether no further try of it can follow."""
    seq, last = open_calls.get(_call_of(entry), (0, 0.0))
    return seq != entry.seq or now - last > _RETRY_SECONDS


def _call_of(entry: LogEntry) -> tuple[object, ...]:
    """What makes two refusals tries of one call; () for everything else."""
    body = entry.body
    if body["type"] != "decision" or body["verdict"] != "deny":
        return ()
    # The hint names the secret. Each that leaks is an alarm of its own: a canary must not vanish in another's line.
    secret = body["hint"] if body["reason"] == Reason.SECRET_LEAK else ""
    return (*(body[name] for name in ("tool", "host", "port", "method", "path", "reason")), secret)


class FollowedRetries:
    """The same where the log is followed: the first try at once, and when the others are over how many there were."""

    def __init__(self) -> None:
        self._calls: dict[tuple[object, ...], tuple[LogEntry, int]] = {}

    def news(self, entries: Iterable[LogEntry], now: float) -> Iterator[tuple[LogEntry, int]]:
        """What is to be shown of new entries, and of calls that are over at `now` (Unix seconds)."""
        for entry in entries:
            call = _call_of(entry)
            _, times = self._calls.pop(call, (entry, 0))
            if call:
                self._calls[call] = (entry, times + entry.times)
            if not times:
                yield entry, entry.times
        for call, (newest, times) in tuple(self._calls.items()):
            if now - newest.body["at"] > _QUIET_SECONDS or len(self._calls) > _MOST_HELD:
                del self._calls[call]
                if times > 1:
                    yield newest, times


def together(denials: Iterable[LogEntry]) -> Iterator[tuple[LogEntry, int]]:
    """Each refused call once: its newest entry, and how many there are; in the order of those newest entries.

    Of very many different calls, one that was not repeated for long is given out before the end, and may come again.
    """
    calls: dict[tuple[object, ...], tuple[LogEntry, int]] = {}
    for entry in denials:
        call = _call_of(entry)
        _, times = calls.pop(call, (entry, 0))
        calls[call] = (entry, times + entry.times)
        if len(calls) > _MOST_HELD:
            yield calls.pop(next(iter(calls)))
    yield from calls.values()
