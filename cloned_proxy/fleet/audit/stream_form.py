"""How a log lies in its streams of the store: the script that puts it there, and what reads it back.

A group of entries is one value of the stream, under the number of its last entry: `entries` has JSON arrays, each in a
line, with the array [number, body, hash] of each entry; `hash` is that of the last. To the store a thousand entries
cost little more than one. Version 0.2.0 put each entry there by itself, with its `body` and `hash` under its number;
what it has left there is read as well, and either version goes on behind the other. Receipts still lie so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from cloned_proxy.store.audit.audit_tail import Held

_MOST: Final = 4 * 1024 * 1024
"""Bytes of a group that are taken apart; small values take many times their bytes."""

APPEND: Final = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local id = last[1] and last[1][1] or ''
if id ~= ARGV[1] then return {0, id} end
for at = 5, #ARGV, 4 do
  id = ARGV[at] .. '-0'
  redis.call('XADD', KEYS[1], ARGV[2], '~', ARGV[3], id, 'hash', ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {1, id}
"""
"""KEYS: the stream. ARGV: the last id expected, what is kept (`MINID` or `MAXLEN`, and which) and for how many seconds,
then the four of each Item. Adds only where the last id that is there is the one expected, and answers with whether it
did, and the last id.
"""


class Item(NamedTuple):
    """What lies under one id of a stream."""

    seq: int
    """Number of the entry, of a group that of the last one."""
    hash: str
    """Hash of that entry; "" for a receipt."""
    kind: str
    """`entries`, or `body` for a receipt."""
    value: bytes


class StoredEntry(NamedTuple):
    """One entry as the store has it: unproven."""

    seq: int
    hash: str
    body: str


def group_of(held: Sequence[Held]) -> Item:
    """Entries that follow each other."""
    last = held[-1]
    return Item(last.last, last.last_hash, "entries", b"\n".join([each.raw for each in held]))


def entries_in(identifier: bytes, fields: Mapping[bytes, bytes]) -> list[StoredEntry]:
    """What lies under an id of a stream of entries. Raises ValueError for what no version has put there."""
    number, _, rest = identifier.partition(b"-")
    last = int(number)
    if rest != b"0":
        raise ValueError("no number of an entry")
    if (packed := fields.get(b"entries")) is not None:
        return _unpacked(last, packed)
    stored = fields.get(b"hash", b"").decode(errors="replace")
    return [StoredEntry(last, stored, _text(fields.get(b"body", b"")))]


def _unpacked(last: int, packed: bytes) -> list[StoredEntry]:
    if len(packed) > _MOST:
        raise ValueError("larger than any group")
    try:
        rows = [row for line in _text(packed).split("\n") for row in json.loads(line)]
        found = [_entry(*row) for row in rows]
    except (TypeError, RecursionError) as error:
        raise ValueError("no array of entries") from error
    numbers = [each.seq for each in found]
    if numbers != sorted(set(numbers)) or numbers[-1:] != [last]:
        raise ValueError("not the entries of this number")
    return found


def _entry(seq: Any, body: Any, stored: Any) -> StoredEntry:
    if type(seq) is not int or type(body) is not str or type(stored) is not str:
        raise ValueError("no entry")
    return StoredEntry(seq, stored, body)


def _text(value: bytes) -> str:
    # SQLite stores half a surrogate, and the hash is of these bytes.
    return value.decode(errors="surrogatepass")
