"""What of a grant the plane is told: under which key it is looked up, and what goes on record by it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

from cloned_proxy.policy.callers.identity import credential_fields
from cloned_proxy.policy.model.uniform import looks_at_requests
from cloned_proxy.policy.terms.host_port import host_port
from cloned_proxy.policy.terms.vocabulary import Mode, Reason, Verdict
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.upstream.dial import interleaved
from cloned_proxy.proxy.upstream.ways import KnownWay
from cloned_proxy.proxy.wire.fields import authority
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.store.audit.chain import canonical_json
from cloned_proxy.telemetry.combined import finished, repeated
from cloned_proxy.telemetry.events import WHOLE, DecisionEvent, FlowEnd, Kind

_OF_HOST, _OF_PATH = b"\x01", b"\x02"
_ABSOLUTE: Final = "http://"
_MAX_PATH: Final = 1024
_UNUSUAL: Final = frozenset({"expect", "te", "trailer", "upgrade"})
"""Fields of a request that only Python serves."""
_HTTP_PORT: Final = 80
_SEPARATOR: Final = "\x1e"
_ID, _AT, _SECONDS, _METHOD, _PATH = "@", 1.5, 0.5, "@M", "@P"
"""Stand for what differs in the entries of one verdict; the JSON text around these values contains none of them."""
_BEHIND_SECONDS: Final = '"source_address":'
"""The field before which `seconds` stands in a `FinishedDecision`."""
_OTHER_FORM: Final = "the entry of a decision has another form than the plane writes"


def publishable(grant: Grant) -> bool:
    """Whether another request like this one would be granted for the same reasons, and leave the same entries."""
    decision, rule = grant.decision, grant.decision.rule
    return (
        grant.kind in {Kind.TUNNEL, Kind.HTTP}
        and decision.verdict is Verdict.ALLOW
        and decision.reason is Reason.ALLOWED
        and decision.mode is Mode.ENFORCE
        and decision.host is not None
        and not decision.inspect
        and not decision.must_be_ssh
        and rule is not None
        and rule.max_uses is None
        and decision.narrowed is None
        and (grant.kind is Kind.TUNNEL or rule.inject is None)
    )


def key_of(listener: int, head: Head) -> bytes:
    """All of a head that who asks, and what for, depend on, as written: as `Worker::verdict_on` has it."""
    return listener.to_bytes(4, "little") + head.target.encode("latin-1") + _credentials(head)


def plain_key_of(listener: int, head: Head, grant: Grant) -> bytes:
    """As `Worker::plain_verdict_on` has it: with method and path, where a rule looks at them.

    b"" for a request that the plane does not read, or a key that is too long to be kept.
    """
    rest = head.target.removeprefix(_ABSOLUTE)
    asked, slash, path = rest.partition("/")
    host = grant.decision.host
    if host is None or not slash or rest == head.target or not _UNUSUAL.isdisjoint(name for name, _ in head.fields):
        return b""
    narrow = looks_at_requests(grant.policy, grant.caller.tool, host)
    key = listener.to_bytes(4, "little") + (_OF_PATH if narrow else _OF_HOST) + asked.encode("ascii")
    key += _credentials(head)
    if not narrow:
        return key
    return key + f"\0\0{head.method} /{path}".encode("ascii") if len(path) < _MAX_PATH else b""


def _credentials(head: Head) -> bytes:
    fields = credential_fields(head.fields)
    # The names that can be one begin with different letters, and have the same length.
    return b"".join(b"\0" + name[:1].lower().encode("latin-1") + value.encode("latin-1") for name, value in fields)


def event_of(grant: Grant) -> DecisionEvent:
    """What the decisions of one verdict have in common."""
    decision, rule = grant.decision, grant.decision.rule
    return DecisionEvent(
        id=_ID,
        at=_AT,
        kind=grant.kind,
        verdict="allow",
        reason=decision.reason,
        tool=decision.tool,
        run=grant.caller.run,
        host=decision.host.text if decision.host is not None else "",
        port=decision.request.port,
        method=decision.request.method or "CONNECT",
        path=(decision.request.path or "").partition("?")[0],
        rule=rule.id if rule is not None else "",
        policy=grant.policy.version,
        hint="",
    )


def refusal_content(event: DecisionEvent, answer: bytes, decision_id: str) -> bytes:
    """A refusal as `plane_publish_refusal` reads it: the entry around what differs, and the answer around the id.

    b"" where that cannot be.
    """
    event = replace(event, id=_ID, at=_AT)
    before, _, rest = canonical_json(event).partition(f'"at":{_AT!r}')
    behind_at, _, rest = rest.partition(f'"id":"{_ID}"')
    kind, name, rest = rest.partition('"method":')
    pieces = [f'{before}"at":', f'{behind_at}"id":"', f'"{kind}', name + rest]
    whole = f'{pieces[0]}{_AT!r},"count":7{pieces[1]}{_ID}{pieces[2]}"last":2.5,{pieces[3]}'
    if whole != canonical_json(repeated(event, 7, 2.5)):
        raise ValueError(_OTHER_FORM)
    answers = answer.split(decision_id.encode())
    if len(answers) == 1 or _SEPARATOR.encode() in answer:
        return b""
    return _SEPARATOR.encode().join([*(piece.encode("ascii") for piece in pieces), *answers])


def _around_seconds(pieces: list[str], event: DecisionEvent) -> list[str]:
    """The last piece in two, between which the end of an exchange has its duration, as `record::Exchange` writes it."""
    before, name, after = pieces[-1].partition(_BEHIND_SECONDS)
    end = FlowEnd(_ID, 2.5, event.tool, 7, 8, _SECONDS, WHOLE)
    at, found, path = pieces[:4], f'"bytes_down":8,"bytes_up":7,"cause":"{WHOLE}","ended":2.5', f"{_PATH}{before}"
    whole = f'{at[0]}{_AT!r},{found}{at[1]}{_ID}{at[2]}{_METHOD}{at[3]}{path}"seconds":{_SECONDS!r},{name}{after}'
    if whole != canonical_json(finished(event, end)):
        raise ValueError(_OTHER_FORM)
    return [before, name + after]


@lru_cache(maxsize=64)
def _behind_seconds(tool: str | None) -> str:
    """How the entry of an end goes on there: the same for all flows of a tool."""
    return canonical_json(FlowEnd("", _AT, tool, 0, 0, _SECONDS, "")).rpartition(f'"seconds":{_SECONDS!r}')[2]


def content_of(grant: Grant, way: KnownWay, event: DecisionEvent) -> str:
    """The parts of a verdict that are text, as `plane_publish` reads them."""
    host, port = grant.decision.host, way.port
    places = (host_port(str(each), port) for each in interleaved(way.addresses))
    plain = grant.kind is Kind.HTTP
    holes = [f'"at":{_AT!r}', f'"id":"{_ID}"', *((f'"method":"{_METHOD}"', f'"path":"{_PATH}"') if plain else ())]
    asked = replace(event, method=_METHOD, path=_PATH) if plain else event
    entry, pieces = canonical_json(asked), [""]
    for hole in holes:
        before, found, entry = entry.partition(hole)
        if not found:
            raise ValueError(_OTHER_FORM)
        name, _, value = hole.partition(":")
        quote = '"' if value.startswith('"') else ""
        pieces[-1] += f"{before}{name}:{quote}"
        pieces.append(quote)
    pieces[-1] += entry
    if plain:
        pieces[-1:] = _around_seconds(pieces, asked)
    return _SEPARATOR.join((
        ",".join(places),
        host.text if host is not None else "",
        _behind_seconds(grant.caller.tool),
        authority(host, port, default_port=_HTTP_PORT) if plain and host is not None else "",
        way.request.decode("ascii"),
        *pieces,
    ))  # fmt: skip
