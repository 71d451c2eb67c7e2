"""The hash chain of the audit log: what exactly is hashed, and how a break is found.

An entry's hash is SHA-256 over the previous entry's hash, the entry's number and its canonical JSON. The head is kept
apart from the entries, so a missing tail shows too; retention moves the anchor, so what is left can still be verified.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as _quote
from typing import Any, Final, NamedTuple

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.telemetry.combined import FinishedDecision, RepeatedDecision
from cloned_proxy.telemetry.event_types import DECISION, FLOW_END
from cloned_proxy.telemetry.events import (
    ApprovalEvent,
    DecisionEvent,
    DeviceEvent,
    Event,
    FlowEnd,
    IgnoreEvent,
    Kind,
    NotifyEvent,
    PolicyEvent,
    ProbeEvent,
    RunEvent,
)

GENESIS: Final = "0" * 64
TYPE_OF: Final[Mapping[type[Event], str]] = {
    DecisionEvent: DECISION,
    RepeatedDecision: DECISION,
    FinishedDecision: DECISION,
    FlowEnd: FLOW_END,
    PolicyEvent: "policy",
    ApprovalEvent: "approval",
    RunEvent: "run",
    ProbeEvent: "probe",
    DeviceEvent: "device",
    IgnoreEvent: "ignore",
    NotifyEvent: "notify",
}
_encode: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode


class _Form(NamedTuple):
    """A prepared encoder for one kind of event.

    Three times as fast as the general one, which sorts the keys each time.
    """

    values: Callable[[Event], tuple[object, ...]]
    text: str
    """The canonical JSON of such an event, with `%s` for each value."""


def _form_of(kind: type[Event], name: str) -> _Form:
    names = sorted(field.name for field in dataclasses.fields(kind))
    keys = {key: f"{_encode(key)}:%s" for key in names} | {"type": f"{_encode('type')}:{_encode(name)}"}
    return _Form(operator.attrgetter(*names), f"{{{','.join(keys[key] for key in sorted(keys))}}}")


_FORMS: Final[Mapping[type[Event], _Form]] = {kind: _form_of(kind, name) for kind, name in TYPE_OF.items()}


class ChainLink(NamedTuple):
    """One place of the chain: the number of an entry and its hash."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What `verify` found. `problem` is "" when the chain holds from end to end."""

    entries: int
    """Verified up to the problem, or to the end."""
    broken: int | None
    """The first entry that does not hold; None when none does not."""
    problem: str
    last_hash: str = ""
    """Hash of the last entry, when the chain holds: a copy kept elsewhere shows a log that was rewritten as a whole."""

    @property
    def holds(self) -> bool:
        return self.problem == ""


def canonical_json(event: Event) -> str:
    """One event as it is stored and hashed: sorted keys, no spaces, ASCII only, a `type` beside the fields."""
    form = _FORMS[type(event)]
    return form.text % tuple([_WRITERS.get(type(value), _encode)(value) for value in form.values(event)])


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else _encode(value)


_WRITERS: Final[Mapping[type, Callable[[Any], str]]] = {
    str: _quote,
    Kind: _quote,
    Reason: _quote,
    int: repr,
    float: _number,
    type(None): lambda _: "null",
}
"""What is written often; the encoder writes the rest, and all of it as the encoder would."""


def next_link(previous: ChainLink, body: str) -> ChainLink:
    """The link of an entry with this body that follows `previous`."""
    seq = previous.seq + 1
    # surrogatepass: a row someone else wrote into the database must break the chain, not the verifier.
    digest = hashlib.sha256(f"{previous.hash}\n{seq}\n{body}".encode(errors="surrogatepass")).hexdigest()
    return ChainLink(seq, digest)


def verify_chain(anchor: ChainLink, entries: Iterable[tuple[int, str, str]], head: ChainLink) -> ChainReport:
    """Walks `(seq, body, hash)` from the anchor to the head."""
    last = anchor
    for seq, body, stored in entries:
        expected = next_link(last, str(body))
        if seq != expected.seq:
            problem = f"entry {expected.seq} is missing; the next one found is {seq}"
            return ChainReport(last.seq - anchor.seq, expected.seq, problem)
        if stored != expected.hash:
            problem = f"entry {seq} does not match its hash: it, or the entry before it, was changed"
            return ChainReport(last.seq - anchor.seq, seq, problem)
        last = expected
    if last != head:
        broken = min(last.seq + 1, head.seq) if last.seq != head.seq else last.seq
        problem = f"the log ends at entry {last.seq}, but entry {head.seq} was written: the tail was cut or replaced"
        return ChainReport(last.seq - anchor.seq, broken, problem)
    return ChainReport(last.seq - anchor.seq, None, "", last.hash)
