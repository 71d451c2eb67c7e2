"""What `fleet status` shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloned_proxy.cli.show.errors import CommandError, say
from cloned_proxy.cli.show.output import iso_time, put, put_json
from cloned_proxy.cli.show.tables import show_table
from cloned_proxy.fleet.link.libraries import need_libraries


@dataclass(frozen=True, slots=True)
class _Replica:
    """All processes of one replica as one: the least of what they say."""

    name: str
    version: str
    age: float | None
    connected: bool
    denying: bool
    workers: int
    tunnels: int
    silent: float
    problem: str


def show_status(directory: Path | None, *, watch: bool, history: bool, json_output: bool) -> None:
    """Raises CommandError and StoreError."""
    need_libraries()
    from cloned_proxy.cli.commands.fleet.fleet_place import FleetPlace

    place = FleetPlace.find(directory)
    if place.settings.store is None:
        raise CommandError("this fleet has no store that knows its replicas; ask each one: `cloned-proxy status`")
    try:
        while True:
            document = place.with_store(lambda link, names: _ask(place, link, names, history=history))
            if json_output:
                put_json(document)
            else:
                _show(document)
            if not watch:
                return
            time.sleep(1)
            put("")
    except KeyboardInterrupt:
        return


async def _ask(place: Any, link: Any, names: Any, *, history: bool) -> dict[str, Any]:
    from cloned_proxy.fleet.members.roster import everybody
    from cloned_proxy.fleet.signed_policy.replica import number_text

    publisher = place.publisher(link, names, [])
    newest, seen = await publisher.newest(), await everybody(link, names)
    known = newest.statement
    document: dict[str, Any] = {
        "fleet": place.settings.name,
        "store": link.url,
        "published": None
        if known is None
        else {
            "version": str(known.number),
            "sha256": known.sha256,
            "issued_at": iso_time(known.issued_at),
            "author": known.author,
            "reason": known.reason,
        },
        "trusted": known is not None or number_text(newest.said) == "none",
        "replicas": [_told(each) for each in _by_replica(seen)],
    }
    if history:
        document["history"] = await publisher.numbers()
    return document


def _by_replica(seen: Sequence[Any]) -> list[_Replica]:
    from cloned_proxy.fleet.signed_policy.replica import number_text

    found: list[_Replica] = []
    for name in sorted({each.report.replica for each in seen}):
        of = [each for each in seen if each.report.replica == name]
        # A worker that was not replaced by one of its number is no more; while any is live, the live ones count.
        of = [each for each in of if each.live] or of
        ages = [each.report.age for each in of]
        found.append(
            _Replica(
                name,
                number_text(min(each.report.number for each in of)),
                None if None in ages else max(ages),
                any(each.live for each in of),
                any(each.report.denying for each in of),
                len(of),
                sum(each.report.tunnels for each in of),
                max(each.silent for each in of),
                next((each.report.problem for each in of if each.report.problem), ""),
            )
        )
    return found


def _told(replica: _Replica) -> dict[str, Any]:
    return {
        "replica": replica.name,
        "version": replica.version,
        "age_seconds": replica.age,
        "connected": replica.connected,
        "denying": replica.denying,
        "workers": replica.workers,
        "tunnels": replica.tunnels,
        "silent_seconds": replica.silent,
        "problem": replica.problem,
    }


def _show(document: dict[str, Any]) -> None:
    published = document["published"]
    if published is not None:
        put(f"fleet {document['fleet']}: version {published['version']}, issued at {published['issued_at']}")
        put(f"by {published['author']}: {published['reason']}")
    elif document["trusted"]:
        put(f"fleet {document['fleet']}: nothing is published; `cloned-proxy fleet publish --reason …` does")
    else:
        put(f"fleet {document['fleet']}: what the store has is signed by no key of `trust:`; no replica accepts it")
    for number in document.get("history", ()):
        put(f"  {number}")
    if not document["replicas"]:
        say("no replica was heard of within a day")
        return
    rows = [
        (
            each["replica"],
            each["version"],
            "-" if each["age_seconds"] is None else f"{each['age_seconds'] + each['silent_seconds']:.0f} s",
            "yes" if each["connected"] else f"no, for {each['silent_seconds']:.0f} s",
            str(each["tunnels"]),
            "denies everything" if each["denying"] else each["problem"],
        )
        for each in document["replicas"]
    ]
    show_table(rows, ("REPLICA", "VERSION", "AGE", "CONNECTED", "TUNNELS", ""))
