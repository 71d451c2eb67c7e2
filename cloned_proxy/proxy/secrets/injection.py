"""Headers that the proxy adds for a rule: `inject` of the policy, filled from the vault at the moment of the request.

The tool's own header of that name never goes upstream beside it, and a call whose secret is not to be had is refused:
without its header it is not the call that was allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from cloned_proxy.policy.secrets.secret import filled, references
from cloned_proxy.policy.terms.address import AddressClass, classify
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.secrets.echo import EchoFilter
from cloned_proxy.proxy.secrets.frames import EXTENSIONS
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.events import Kind

_log = structlog.get_logger(__name__)

_UNREADABLE: Final = frozenset({"accept-encoding", "range", "if-range", EXTENSIONS})
"""Request fields whose answers could not be searched: compressed, or a secret cut in two. Without its extensions a
WebSocket is not compressed (RFC 7692)."""
_MAX_FILTERS: Final = 256
_HTTP_PORT: Final = 80
_HTTPS_PORT: Final = 443


class InjectionError(Exception):
    """The request cannot be sent as its rule wants it, and so is refused for `reason`. The message is for the log."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class SecretSource(Protocol):
    def value_of(self, name: str) -> str:
        """Raises StoreError when there is no such secret now, or no vault that opens."""


@dataclass(frozen=True, slots=True)
class Injection:
    """What one request gets."""

    name: str
    """Name of the header, in lower case."""
    value: str = field(repr=False)
    echo: EchoFilter | None
    """For its response; None where the rule says `redact_echo: false`."""

    def is_own(self, name: str) -> bool:
        """Whether a field of the caller's (lower case) has this name, also to servers that read `_` as `-`."""
        return name.replace("_", "-") == self.name.replace("_", "-")

    def applied(self, fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The fields that go upstream, (lower-case name, value) each."""
        kept = [(name, value) for name, value in fields if not self.is_own(name)]
        if self.echo is not None:
            kept = [(name, value) for name, value in kept if name not in _UNREADABLE]
            kept.append(("accept-encoding", "identity"))
        kept.append((self.name, self.value))
        return kept


class Injector:
    """One for each process."""

    def __init__(self, secrets: SecretSource) -> None:
        self._secrets = secrets
        self._filters: dict[tuple[str, ...], EchoFilter] = {}

    def injection_for(self, grant: Grant) -> Injection | None:
        """What the rule of the grant adds to this request; None for nothing. Raises InjectionError."""
        rule = grant.decision.rule
        if rule is None or rule.inject is None:
            return None
        if _in_the_clear(grant):
            raise _refused(grant, "its secret would cross the network in the clear", Reason.PROTOCOL_NOT_ALLOWED)
        inject, used = rule.inject, {}
        try:
            for name in references(inject.value):
                used[name] = self._secrets.value_of(name)
        except StoreError as error:
            raise _refused(grant, str(error), Reason.INTERNAL_ERROR) from None
        echo = self._filter(tuple(used.values())) if inject.redact_echo and used else None
        return Injection(inject.header.lower(), filled(inject.value, used.__getitem__), echo)

    def _filter(self, values: tuple[str, ...]) -> EchoFilter:
        found = self._filters.get(values)
        if found is None:
            if len(self._filters) >= _MAX_FILTERS:
                self._filters.clear()
            found = self._filters[values] = EchoFilter(values)
        return found


def _refused(grant: Grant, problem: str, reason: Reason) -> InjectionError:
    rule = grant.decision.rule
    place = rule.origin if rule is not None else ""
    _log.error("a call under a rule that injects is refused", problem=problem, rule=place, decision=grant.id)
    return InjectionError(problem, reason)


def _in_the_clear(grant: Grant) -> bool:
    """Whether a plain request would carry the secret where a wire-tapper sits, and nobody has asked for that.

    The caller chooses the scheme, the rule names only ports: 443 never speaks plain HTTP, 80 was named on purpose, and
    on any other port it stays among addresses that are not public. A name that was not looked up here may be anywhere.
    """
    port = grant.decision.request.port
    if grant.kind is not Kind.HTTP or port == _HTTP_PORT:
        return False
    public = not grant.addresses or any(classify(address) is AddressClass.PUBLIC for address in grant.addresses)
    return port == _HTTPS_PORT or public


class NoSecrets:
    """The source of a process without a vault: every reference refuses."""

    def value_of(self, name: str) -> str:
        raise StoreError(f"there is no vault here, so no {name!r} either")
