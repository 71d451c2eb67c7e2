"""Reads the logs of all replicas from the store, merged by time, and says where the store has them otherwise.

Every entry carries the hash of its chain, so one that was changed, added or moved there shows, and a number that is
missing shows as well. That all of a log was made up shows by its receipts alone: they are signed with the replica's
key, and whoever knows that key names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from cloned_proxy.fleet.audit.findings import Findings
from cloned_proxy.fleet.audit.receipt import Receipt, open_receipt
from cloned_proxy.fleet.audit.stream_form import StoredEntry, entries_in
from cloned_proxy.fleet.link.answers import LargeAnswerError
from cloned_proxy.fleet.link.link import Link, Work
from cloned_proxy.fleet.link.names import Names
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.errors import EnvelopeError, StoreAwayError, StoreRefusedError
from cloned_proxy.fleet.signed.keys import key_id, short_id
from cloned_proxy.policy.terms.strict_json import read_json
from cloned_proxy.store.audit.chain import ChainLink, next_link

_PAGE: Final = 1000
"""Ids of a stream, at most, that are asked for at once; each has one entry or a group of them."""
_FIRST_PAGE: Final = 8
_PAGE_BYTES: Final = 4 * 1024 * 1024
"""What a page should have, by what those before had: a store far away needs seconds for more."""
_MOST_LOGS: Final = 100_000
_REMEMBERED: Final = 5000
"""Entries of each log, behind which a receipt may come."""
_CALL_SECONDS: Final = 20.0
"""Bound for reading one page; a command may wait for longer than a proxy."""
_MOST_ANSWERED: Final = 64 * 1024 * 1024
"""Bytes of one page."""
_MOST_READ: Final = 1024 * 1024 * 1024
"""Bytes of all logs in one reading: a store may have one more page for ever, and the memory here has an end."""
_LAST_TIME: Final = 1e12
"""Unix seconds, far behind the last year that has a name."""
_EACH: Final = 300
"""What an id counts beside the bytes that lie under it."""


@dataclass(frozen=True, slots=True)
class FleetEntry:
    """One entry of one replica, as the store has it."""

    replica: str
    log: str
    seq: int
    body: dict[str, Any]

    @property
    def at(self) -> float:
        return _seconds(self.body)


@dataclass(slots=True)
class _Log:
    """One log in the store, as far as it was read."""

    id: str
    replica: str
    key: str
    last: ChainLink | None = None
    receipts: dict[int, Receipt] = field(default_factory=dict)
    doubted: bool = False
    """Whether it was said that no receipt of it is of a key that was named."""
    newest_receipt: str = "-"
    """From where the next ones are asked for."""
    hashes: dict[int, str] = field(default_factory=dict)
    """Hashes of the newest entries: a receipt comes after the entry that it is for."""
    page: int = _FIRST_PAGE
    """Ids that are asked for next."""


class FleetLog:
    """For one command: `read` once, then again for what is new."""

    def __init__(self, link: Link, names: Names, trust: Sequence[str] = ()) -> None:
        """`trust` holds public keys of replicas; with any, no other replica's log is believed."""
        self._link: Final = link
        self._names: Final = names
        self._trust: Final = Trust(trust) if trust else None
        self._logs: dict[str, _Log] = {}
        self._of_nobody: set[str] = set()
        """Logs of which that was said."""
        self._room = 0
        """Bytes that may still come in this reading."""
        self.findings: Final = Findings()
        """Where the store has something else than was sent, since this was last emptied."""

    async def read(self, since: float | None = None) -> list[FleetEntry]:
        """What was not read yet, in the order of its times. `since` is Unix seconds. Raises StoreAwayError."""
        try:
            return await self._read(since)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise StoreAwayError("the store answers what is no log of a fleet") from error

    async def _read(self, since: float | None) -> list[FleetEntry]:
        self._room = _MOST_READ
        await self._look_for_logs()
        found: list[FleetEntry] = []
        for log in self._logs.values():
            if log.last is None:
                rows = await self._first(log, since)
            else:
                await self._read_receipts(log)
                rows = await self._next(log)
            found += self._checked(log, rows)
        return sorted((each for each in found if since is None or each.at >= since), key=lambda each: each.at)

    async def _look_for_logs(self) -> None:
        async def work(redis: Any) -> dict[bytes, bytes]:
            logs: dict[bytes, bytes] = await redis.hgetall(self._names.audit_logs)
            return logs

        for name, said in sorted((await self._run(work)).items())[:_MOST_LOGS]:
            identifier = name.decode(errors="replace")
            if identifier in self._logs:
                continue
            try:
                whose = read_json(said)
                replica, key = str(whose["replica"]), str(whose["key"])
                key_id(key)
            except (ValueError, LookupError, TypeError):
                if identifier not in self._of_nobody:
                    self._of_nobody.add(identifier)
                    self.findings.add(f"log {identifier[:40]}", "the store does not say whose it is")
                continue
            log = self._logs[identifier] = _Log(identifier, replica, key)
            await self._read_receipts(log)

    async def _read_receipts(self, log: _Log) -> None:
        async def work(redis: Any) -> list[Any]:
            rows: list[Any] = await redis.xrange(self._names.audit_receipts(log.id), min=log.newest_receipt)
            return rows

        trust = self._trust or Trust([log.key])
        wrong: list[str] = []
        rows = await self._run(work) if self._room > 0 else []
        self._room -= sum(len(fields.get(b"body", b"")) + _EACH for _, fields in rows)
        for identifier, fields in rows:
            log.newest_receipt = f"({identifier.decode()}"
            try:
                receipt = open_receipt(fields.get(b"body", b""), trust)
            except EnvelopeError:
                wrong.append("a receipt is not of its key: it is another replica's, or was changed")
                continue
            if receipt.log != log.id:
                wrong.append("a receipt is for another log")
            else:
                log.receipts[receipt.seq] = receipt
                self._check_receipt(log, receipt.seq, log.hashes.get(receipt.seq))
        if self._trust is not None and not log.receipts and not log.doubted:
            log.doubted = True
            wrong.append("no receipt of a key that was named: nothing shows that a replica has sent this")
        for what in wrong:
            self._found(log, what)

    async def _first(self, log: _Log, since: float | None) -> list[Any]:
        """From the newest one backwards, until they are older than asked for; one more, to check the first by.

        A store that lies gets no further: what it has twice is no older entry, and of all there is a most.
        """
        rows: list[Any] = []
        end = "+"
        while self._room > 0:
            page, more = await self._page(log, "xrevrange", max=end)
            if not _goes_backwards([*rows[-1:], *page]):
                self._found(log, "the store gives no older entries, but others again; what is older was not read")
                return rows[::-1]
            rows += page
            if not more or (since is not None and _at(page[-1]) < since):
                return rows[::-1]
            end = "(" + page[-1][0].decode()
        most = f"{_MOST_READ / 1024**3:g} GiB"
        self._found(log, f"the logs have more than {most}: what is older was not read; ask for less with --since")
        return rows[::-1]

    async def _next(self, log: _Log) -> list[Any]:
        page, _ = await self._page(log, "xrange", min=f"({log.last.seq}-0" if log.last is not None else "-")
        return page

    async def _page(self, log: _Log, command: str, **where: str) -> tuple[list[Any], bool]:
        """The next ids of the stream with what lies under them, and whether there may be more."""

        async def work(redis: Any) -> list[Any]:
            found: list[Any] = await getattr(redis, command)(self._names.audit(log.id), count=log.page, **where)
            return found

        while True:
            asked = log.page
            try:
                rows = await self._run(work)
            except StoreRefusedError as error:
                if asked == 1 or not isinstance(error.__cause__, LargeAnswerError):
                    raise
                log.page = max(1, asked // _FIRST_PAGE)
                continue
            size = sum(len(value) for _, fields in rows for value in fields.values())
            self._room -= size + _EACH * len(rows)
            log.page = max(1, min(_PAGE, _FIRST_PAGE * asked, _PAGE_BYTES * len(rows) // max(1, size)))
            return rows, len(rows) >= asked

    async def _run[T](self, work: Work[T]) -> T:
        return await self._link.run(work, within=_CALL_SECONDS, most=_MOST_ANSWERED)

    def _checked(self, log: _Log, rows: Sequence[Any]) -> Iterator[FleetEntry]:
        for identifier, fields in rows:
            try:
                entries = entries_in(identifier, fields)
            except ValueError:
                self._skip(log, identifier, fields)
                continue
            for entry in entries:
                self._check(log, entry)
                try:
                    body = read_json(entry.body.encode(errors="surrogatepass"))
                except ValueError:
                    body = None
                if not isinstance(body, dict) or "type" not in body:
                    self._found(log, f"entry {entry.seq} cannot be read: it was changed")
                    continue
                yield FleetEntry(log.replica, log.id, entry.seq, body)

    def _skip(self, log: _Log, identifier: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Goes on behind what no replica has sent."""
        number = int(identifier.partition(b"-")[0])
        self._found(log, f"what lies under entry {number} cannot be read: it was changed")
        log.last = ChainLink(number, fields.get(b"hash", b"").decode(errors="replace"))

    def _check(self, log: _Log, entry: StoredEntry) -> None:
        last, seq = log.last, entry.seq
        log.last = ChainLink(seq, entry.hash)
        if last is not None and seq <= last.seq:
            self._found(log, f"entry {seq} is in the store once more, behind entry {last.seq}")
        elif last is not None and seq != last.seq + 1:
            what = f"entry {last.seq + 1} is" if seq == last.seq + 2 else f"entries {last.seq + 1} to {seq - 1} are"
            self._found(log, f"{what} not in the store")
        elif last is not None and next_link(last, entry.body).hash != entry.hash:
            self._found(log, f"entry {seq} was changed in the store, or the one before it")
        log.hashes[seq] = entry.hash
        if len(log.hashes) > _REMEMBERED:
            del log.hashes[next(iter(log.hashes))]
        self._check_receipt(log, seq, entry.hash)

    def _check_receipt(self, log: _Log, seq: int, stored: str | None) -> None:
        receipt = log.receipts.get(seq)
        if receipt is not None and stored is not None and receipt.hash != stored:
            self._found(log, f"the receipt given at entry {seq} is for other entries: the store has changed them")

    def _found(self, log: _Log, what: str) -> None:
        proven = self._trust is not None and bool(log.receipts)
        self.findings.add(f"{log.replica} ({short_id(key_id(log.key))})", what, proven=proven)


def _goes_backwards(rows: Sequence[Any]) -> bool:
    """Whether each id is older than the one before it. Raises ValueError for what is no id of a stream."""
    ids = [tuple(map(int, identifier.split(b"-"))) for identifier, _ in rows]
    return all(older < newer for newer, older in pairwise(ids))


def _at(row: Any) -> float:
    """When the first of the entries under an id was recorded; 0 where that cannot be read."""
    try:
        return _seconds(read_json(entries_in(*row)[0].body.encode(errors="surrogatepass")))
    except (ValueError, LookupError):
        return 0.0


def _seconds(body: Any) -> float:
    """When an entry was recorded, as it says; 0 where that is no number that a clock shows."""
    found = body.get("at") if isinstance(body, dict) else None
    return float(found) if isinstance(found, int | float) and abs(found) < _LAST_TIME else 0.0
