"""Checks an export: what the replica has signed beside what the file holds, entry by entry.

Nothing of the file is believed that no signature covers. With a statement each difference has a name: an entry that
was changed, left out, added, or moved. Without one the chain alone speaks, which shows accidents and no intent.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cloned_proxy.fleet.audit.bundle import DIGEST_BYTES, EXPORT_TYPE, FORMAT, VERSION, digest, receipt_digest
from cloned_proxy.fleet.audit.receipt import MOST_FORMER, open_fields, open_receipt
from cloned_proxy.fleet.signed.envelope import Trust
from cloned_proxy.fleet.signed.errors import EnvelopeError
from cloned_proxy.policy.terms.strict_json import read_json
from cloned_proxy.store.audit.chain import ChainLink, next_link

MAX_LINE: Final = 64 * 1024 * 1024
_MOST_FINDINGS: Final = 50
_MOST_COMPARED: Final = 20_000
"""Differing entries that are sorted into changed, left out and added; of more only where they begin."""


@dataclass(slots=True)
class BundleVerdict:
    """What a check has found. Whole and unchanged only without any finding."""

    findings: list[str] = field(default_factory=list)
    replica: str = ""
    log: str = ""
    first: int = 0
    last: int = 0
    """Numbers of the entries that the file ought to hold."""
    entries: int = 0
    """That it holds."""
    receipts: int = 0
    forgotten: int = 0
    """Receipts that the replica has left out: they are for ids that its log no longer knows to have had."""
    names_receipts: bool = True
    """Whether the signed end says which receipts there were; that of 0.2.0 does not."""
    at: float = 0.0
    """Unix seconds of the export."""
    signed: bool = False

    @property
    def holds(self) -> bool:
        return not self.findings

    def found(self, what: str) -> None:
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(what)


@dataclass(slots=True)
class _File:
    """The lines of an export, sorted by what they are."""

    opening: dict[str, Any] = field(default_factory=dict)
    entries: list[tuple[int, str, str]] = field(default_factory=list)
    """Number, body, hash, as in the file."""
    receipts: list[bytes] = field(default_factory=list)
    statements: list[bytes] = field(default_factory=list)


def check(lines: Iterable[bytes], trust: Trust | None) -> BundleVerdict:
    """Checks a file by its lines. `trust` holds the replica's public key; None: only whether it is consistent."""
    verdict = BundleVerdict()
    file = _File()
    for number, line in enumerate(lines, 1):
        if not _sort(line, file):
            verdict.found(f"line {number} is no line of an export: it was added or damaged")
    verdict.entries = len(file.entries)
    if trust is None:
        _check_opening(file.opening, verdict)
        _check_chain(file, verdict)
        return verdict
    statement = _statement_of(file, trust, verdict)
    if statement is not None:
        _check_statement(file, statement, verdict)
        _check_receipts(file, statement, trust, verdict)
    return verdict


def _sort(line: bytes, file: _File) -> bool:
    try:
        found: Any = read_json(line) if len(line) <= MAX_LINE else None
    except ValueError:
        return False
    match found:
        case {"format": str()} if not file.opening:
            file.opening = found
        case {"seq": int(seq), "hash": str(entry_hash), "body": str(body), **rest} if not rest:
            file.entries.append((seq, body, entry_hash))
        case {"receipt": dict(envelope), **rest} if not rest:
            file.receipts.append(json.dumps(envelope).encode())
        case {"statement": dict(envelope), **rest} if not rest:
            file.statements.append(json.dumps(envelope).encode())
        case _:
            return False
    return True


def _check_opening(opening: dict[str, Any], verdict: BundleVerdict) -> None:
    match opening:
        case {"format": format_, "version": version} if (format_, version) != (FORMAT, VERSION):
            verdict.found(f"this is version {version!r} of {format_!r}, and this program reads {VERSION} of {FORMAT}")
        case {"replica": str(replica), "log": str(log), "at": float(at), "after": {"seq": int(), "hash": str()}}:
            verdict.replica, verdict.log, verdict.at = replica, log, at
        case _:
            verdict.found("its first line does not say what is exported: it was left out or damaged")


def _check_chain(file: _File, verdict: BundleVerdict) -> None:
    """Without anything signed: each entry against the hash beside it."""
    if not verdict.holds:
        return
    last = ChainLink(file.opening["after"]["seq"], file.opening["after"]["hash"])
    verdict.first = last.seq + 1
    for seq, body, stored in file.entries:
        expected = next_link(last, body)
        if seq != expected.seq:
            verdict.found(f"entry {expected.seq} is missing or out of its place; {seq} is there")
            return
        if stored != expected.hash:
            verdict.found(f"entry {seq} was changed, or the one before it")
            return
        last = expected
    verdict.last = last.seq


def _statement_of(file: _File, trust: Trust, verdict: BundleVerdict) -> dict[str, Any] | None:
    """What the replica says that it has exported; None, and why, when there is no such thing to be believed."""
    if len(file.statements) != 1:
        many = "has no signed end: it was not exported with --signed, or its end was cut off"
        verdict.found(f"the file {many}" if not file.statements else "there is more than one signed end")
        return None
    try:
        statement = open_fields(file.statements[0], EXPORT_TYPE, trust)
    except EnvelopeError:
        verdict.found("the signed end is not of this key: it is another replica's, or was changed")
        return None
    before = len(verdict.findings)
    match statement:
        case {"after": {"seq": int(), "hash": str()}, "last": {"seq": int(), "hash": str()}, "digests": str()}:
            _check_opening(statement, verdict)
        case _:
            verdict.found("the signed end says not what was exported")
    if len(verdict.findings) > before:
        return None
    verdict.signed = True
    verdict.first, verdict.last = statement["after"]["seq"] + 1, statement["last"]["seq"]
    return statement


def _check_statement(file: _File, statement: dict[str, Any], verdict: BundleVerdict) -> None:
    if file.opening != {
        name: value for name, value in statement.items() if name not in {"last", "digests", "receipts"}
    }:
        verdict.found("the first line was changed, left out or moved")
    first, last = verdict.first, verdict.last
    try:
        raw = base64.b64decode(statement["digests"], validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    signed = [raw[at : at + DIGEST_BYTES] for at in range(0, len(raw), DIGEST_BYTES)]
    if len(raw) != (last - first + 1) * DIGEST_BYTES:
        verdict.found("the signed end does not fit the range that it states")
        return
    held = [digest(body) for _, body, _ in file.entries]
    before = len(verdict.findings)
    for finding in _differences(signed, held, first, file.entries):
        verdict.found(finding)
    if len(verdict.findings) == before:
        _check_links(file, statement, verdict)


def _differences(
    signed: Sequence[bytes], held: Sequence[bytes], first: int, entries: Sequence[tuple[int, str, str]]
) -> Iterator[str]:
    start = 0
    while start < min(len(signed), len(held)) and signed[start] == held[start]:
        start += 1
    end = 0
    while end < min(len(signed), len(held)) - start and signed[-1 - end] == held[-1 - end]:
        end += 1
    left, right = signed[start : len(signed) - end], held[start : len(held) - end]
    if max(len(left), len(right)) > _MOST_COMPARED:
        yield f"entry {first + start} and very many behind it were changed, left out or added"
        return
    places = {each: first + start + at for at, each in enumerate(left)}
    present = set(right)
    blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    for kind, a, b, c, d in blocks:
        if kind == "equal":
            continue
        pairs = min(b - a, d - c)
        for at in range(pairs):
            yield _changed(left[a + at], right[c + at], first + start + a + at, places, present)
        for at in range(a + pairs, b):
            yield f"entry {first + start + at} was {'moved' if left[at] in present else 'left out'}"
        for at in range(c + pairs, d):
            if right[at] not in places:
                yield f"an entry was added behind {first + start + b - 1}: it calls itself {entries[start + at][0]}"


def _changed(left: bytes, right: bytes, seq: int, places: dict[bytes, int], present: set[bytes]) -> str:
    if right in places or left in present:
        return f"entry {seq} is not in its place: it was moved, or another one put there"
    return f"entry {seq} was changed"


def _check_links(file: _File, statement: dict[str, Any], verdict: BundleVerdict) -> None:
    """The bodies are as signed; so must be what is written beside them."""
    last = ChainLink(statement["after"]["seq"], statement["after"]["hash"])
    for seq, body, stored in file.entries:
        last = next_link(last, body)
        if (seq, stored) != last:
            verdict.found(f"the number or hash beside entry {last.seq} was changed")
    if last != ChainLink(statement["last"]["seq"], statement["last"]["hash"]):
        verdict.found("the entries do not lead to the hash that is signed: the log itself had been changed")


def _former(statement: dict[str, Any]) -> dict[str, int]:
    """What the log was called before, as the replica has signed it, and up to which entry."""
    found = statement.get("formerly")
    return {each["log"]: each["until"] for each in found if _is_former(each)} if isinstance(found, list) else {}


def _is_former(found: Any) -> bool:
    return isinstance(found, dict) and isinstance(found.get("log"), str) and type(found.get("until")) is int


def _check_receipts(file: _File, statement: dict[str, Any], trust: Trust, verdict: BundleVerdict) -> None:
    hashes = {seq: stored for seq, _, stored in file.entries} | {
        file.opening["after"]["seq"]: file.opening["after"]["hash"]
    } if verdict.holds else {}  # fmt: skip
    former = _former(statement)
    before = len(verdict.findings)
    for number, raw in enumerate(file.receipts, 1):
        try:
            receipt = open_receipt(raw, trust)
        except EnvelopeError:
            verdict.found(f"receipt {number} is not of this key: it is another replica's, or was changed")
            continue
        if receipt.log != verdict.log and receipt.seq > former.get(receipt.log, -1):
            lost = len(former) >= MOST_FORMER and receipt.seq <= min(former.values())
            which = "an id of the log that is not kept any more; export it again" if lost else "another log"
            verdict.found(f"receipt {number} is for {which}")
        elif hashes and hashes.get(receipt.seq) != receipt.hash:
            verdict.found(
                f"receipt {number}, given at entry {receipt.seq}, is for other entries: the log was changed behind it"
            )
        else:
            verdict.receipts += 1
    if len(verdict.findings) == before:
        _check_all_receipts(file, statement, verdict)


def _check_all_receipts(file: _File, statement: dict[str, Any], verdict: BundleVerdict) -> None:
    """Each is of the replica; so must be which there are. Exports of 0.2.0 do not say that."""
    if "receipts" not in statement:
        verdict.names_receipts = False
        return
    held = hashlib.sha256(b"".join(receipt_digest(json.loads(raw)) for raw in file.receipts)).hexdigest()
    match statement["receipts"]:
        case {"number": number, "digest": signed, **rest} if (number, signed) == (len(file.receipts), held):
            forgotten = rest.get("forgotten", 0)
            verdict.forgotten = forgotten if type(forgotten) is int else 0
        case {"number": number}:
            said = f"{number} receipts are signed, and not the {len(file.receipts)} that are there"
            verdict.found(f"{said}: some were left out")
        case _:
            verdict.found("the signed end says not which receipts there were")
