"""Requests that carry a secret of our own vault, or a canary, to a host that it is not for: found as they pass.

A net for accidents and for tools that were talked into something, not a wall: only the spellings of
`policy.secrets.spelling` are looked for, in plain requests and in opened TLS. A body with a
Content-Encoding and the frames of a WebSocket are not looked into, and of a tunnel nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from cloned_proxy.policy.callers.caller import Caller
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.secrets.secret import references
from cloned_proxy.policy.secrets.spelling import spellings, why_not_watched
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.host import HostError, parse_host
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import Rule
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.wire.body import BodyError
from cloned_proxy.proxy.wire.fields import OURS
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.telemetry.events import Kind

if TYPE_CHECKING:
    from ahocorasick_rs import BytesAhoCorasick

    from cloned_proxy.proxy.enforce.enforcer import Enforcer
    from cloned_proxy.proxy.enforce.question import PolicySource
    from cloned_proxy.proxy.grants.grant import Refusal

_log = structlog.get_logger(__name__)

_MIN_HELD: Final = 8
"""Bytes of a secret's beginning at the end of a piece that wait for what follows. Fewer go on: they mean nothing, and a
body that waits for an answer to its last byte would wait for ever."""
_REDACTED: Final = "[redacted]"
_NO_CODING: Final = ("", "identity")


class LeakError(BodyError):
    """A body holds a secret that must not go where it goes. The message names it, and tells nothing of its value."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the request holds the vault's {name}")
        self.name: Final = name


class _Needles(NamedTuple):
    """What one content of the vault looks like on the wire."""

    names: tuple[str, ...]
    """The name of the secret, for each spelling."""
    whole: BytesAhoCorasick
    beginnings: BytesAhoCorasick
    by_beginning: Mapping[bytes, tuple[bytes, ...]]
    longest: int


class LeakWatch:
    """One for each process. Costs a request nothing while there is no secret to watch."""

    def __init__(self, policies: PolicySource | None = None) -> None:
        self._policies = policies
        self._loaded: object = None
        self._needles: _Needles | None = None
        self._owners: tuple[Policy | None, dict[str, HostIndex]] = (None, {})

    @property
    def armed(self) -> bool:
        return self._needles is not None

    def load(self, secrets: Mapping[str, str]) -> None:
        """Watches these values, by name, from now on. Nothing happens when it is the mapping of the last time."""
        if secrets is self._loaded:
            return
        self._loaded = secrets
        found = {spelled: name for name, value in secrets.items() if _is_watched(value) for spelled in spellings(value)}
        self._needles = _needles_of(found) if found else None
        if secrets:
            _log.info("requests are searched for secrets", watched=len(set(found.values())), secrets=len(secrets))

    def in_head(self, head: Head) -> str:
        """The name of a secret that the head carries to a host that it is not for; "" for none."""
        return self.found_in(_text_of(head), head) if self._needles is not None else ""

    def refuse(self, enforcer: Enforcer, caller: Caller, kind: Kind, head: Head, name: str) -> Refusal:
        """Puts the refusal of a request for what is `in_head` on record, without what of the head may hold it."""
        host, method = (
            _REDACTED if self.found_in(text.encode("latin-1"), head) else text for text in (head.host, head.method)
        )
        request = Request(host, head.port, method, None)
        return enforcer.refuse(caller, request, kind, Reason.SECRET_LEAK, secret=name)

    def scanner(self, head: Head) -> LeakScanner | None:
        """For what follows the head of this request, where anything may: an empty body of HTTP/2 can have trailers."""
        needles = self._needles
        if needles is None or not (head.chunked or head.content_length is not None):
            return None
        coded = any(name == "content-encoding" and value.lower() not in _NO_CODING for name, value in head.fields)
        return LeakScanner(needles, lambda name: self._is_for(name, head.host, head.port), coded=coded)

    def found_in(self, data: bytes, head: Head) -> str:
        """The name of a secret that is in the data and not for the host of this head; "" for none."""
        needles = self._needles
        if needles is not None:
            for index, _, _ in needles.whole.find_matches_as_indexes(data, overlapping=True):
                if not self._is_for(needles.names[index], head.host, head.port):
                    return needles.names[index]
        return ""

    def _is_for(self, name: str, host: str, port: int) -> bool:
        """Whether any rule of the policy, of whichever tool, injects the secret there."""
        policy = self._policies.current if self._policies is not None else None
        if self._owners[0] is not policy:
            self._owners = policy, _owners_in(policy)
        index = self._owners[1].get(name)
        try:
            return index is not None and any(port in rule.ports for rule in index.matching(parse_host(host)))
        except HostError:
            return False


class LeakScanner:
    """One body, piece by piece, with bounded memory: what the longest spelling may still need of what has passed."""

    __slots__ = ("_is_for", "_needles", "_passed", "_window", "coded")

    def __init__(self, needles: _Needles, is_for: Callable[[str], bool], *, coded: bool) -> None:
        self._needles = needles
        self._is_for = is_for
        self.coded: Final = coded
        """Whether the body has a Content-Encoding: it passes as it is, and its trailers are searched all the same."""
        self._window = b""
        self._passed = 0
        """How much of the window has gone on."""

    def feed(self, piece: bytes) -> bytes:
        """What may go on now. Raises LeakError before the last byte of a secret would."""
        if self.coded:
            return piece
        needles = self._needles
        data = self._window + piece
        self.search(data)
        end = max(self._passed, len(data) - self._beginning_in(data[1 - needles.longest :]))
        cleared = data[self._passed : end]
        self._window = data[1 - needles.longest :]
        self._passed = end - (len(data) - len(self._window))
        return cleared

    def search(self, data: bytes) -> None:
        """Looks at all of it, without what went before: the trailers. Raises LeakError."""
        needles = self._needles
        for index, _, _ in needles.whole.find_matches_as_indexes(data, overlapping=True):
            if not self._is_for(needles.names[index]):
                raise LeakError(needles.names[index])

    def rest(self) -> bytes:
        """What was kept back, at the end of the body."""
        held = self._window[self._passed :]
        self._passed = len(self._window)
        return held

    def _beginning_in(self, tail: bytes) -> int:
        """How many bytes at its end are the beginning of a spelling, if they are enough to tell."""
        by_beginning = self._needles.by_beginning
        for _, start, stop in self._needles.beginnings.find_matches_as_indexes(tail, overlapping=True):
            rest = tail[start:]
            if any(needle.startswith(rest) for needle in by_beginning[tail[start:stop]]):
                return len(rest)
        return 0


def _text_of(head: Head) -> bytes:
    """All of the head that goes upstream, the names of its fields in lower case."""
    fields = [text for field in head.fields if not field[0].startswith(OURS) for text in field]
    return "\n".join((head.method, head.host, head.path, *fields)).encode("latin-1")


def _is_watched(value: str) -> bool:
    return value.isascii() and not why_not_watched(value)


def _needles_of(found: Mapping[bytes, str]) -> _Needles:
    from ahocorasick_rs import BytesAhoCorasick, Implementation  # noqa: PLC0415  nobody without a secret needs it

    by_beginning: dict[bytes, tuple[bytes, ...]] = {}
    for needle in found:
        key = needle[:_MIN_HELD]
        by_beginning[key] = (*by_beginning.get(key, ()), needle)
    return _Needles(
        tuple(found.values()),
        # The default is a DFA where there are few, which takes 20 s to build for 4000 times the same character.
        BytesAhoCorasick(list(found), implementation=Implementation.ContiguousNFA),
        BytesAhoCorasick(list(by_beginning), implementation=Implementation.ContiguousNFA),
        by_beginning,
        max(map(len, found)),
    )


def _owners_in(policy: Policy | None) -> dict[str, HostIndex]:
    """For each secret, by name, the rules that inject it."""
    rules: dict[str, list[Rule]] = {}
    for rule in policy.rules if policy is not None else ():
        if rule.inject is not None and not rule.denies:
            for name in references(rule.inject.value):
                rules.setdefault(name, []).append(rule)
    return {name: HostIndex(owning) for name, owning in rules.items()}
