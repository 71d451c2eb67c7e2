"""The proxy in front of this one: what goes through it, where it is, and what it is told."""

from __future__ import annotations

import base64
from collections.abc import Container, Sequence
from pathlib import Path
from socket import socket as Socket  # noqa: N812  the type, beside variables of that name
from typing import Final, Protocol

import structlog

from cloned_proxy.policy.bypass import read_bypass
from cloned_proxy.policy.decide import needs_hello
from cloned_proxy.policy.decision import Decision
from cloned_proxy.policy.host import parse_host
from cloned_proxy.policy.rule import Address, Host, PatternKind
from cloned_proxy.policy.vocabulary import Mode
from cloned_proxy.proxy.dial import DialError, dial
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.resolver import ResolveError, Resolver
from cloned_proxy.proxy.upstream_proxy.failure import Trouble, UpstreamProxyError
from cloned_proxy.proxy.upstream_proxy.tls import secure_connection
from cloned_proxy.store.config import ProxySettings
from cloned_proxy.store.errors import StoreError
from cloned_proxy.store.upstream_settings import UpstreamSettings
from cloned_proxy.store.upstream_tls import verifying_context

_log = structlog.get_logger(__name__)

_MOST_TARGETS: Final = 4
"""Addresses of one name that the proxy is asked for, one after the other."""


class SecretSource(Protocol):
    def value_of(self, name: str) -> str:
        """Raises StoreError when there is no such secret now, or no vault that opens."""


class UpstreamProxy:
    """One for each process."""

    def __init__(
        self,
        settings: UpstreamSettings,
        bounds: ProxySettings,
        *,
        resolver: Resolver,
        secrets: SecretSource,
        own: Container[tuple[Address, int]],
        base: Path,
    ) -> None:
        """`own` are the listeners of this process, `base` is where relative paths begin. Raises StoreError."""
        name, self.port = settings.place
        self.host: Final = parse_host(name)
        self.bounds: Final = bounds
        self._by_name: Final = settings.resolve == "upstream"
        self._bypass: Final = read_bypass(settings.no_proxy)
        self._secret: Final = settings.secret
        self._context: Final = verifying_context(settings, base) if settings.secure else None
        self._resolver: Final = resolver
        self._secrets: Final = secrets
        self._own: Final = own
        self._seen_at: set[Address] = set() if self.host.address is None else {self.host.address}
        """Every address that it was ever reached at: they stay closed to tools."""

    # What goes through it.

    def looks_up(self, host: Host | None) -> bool:
        """Whether the name is looked up by the proxy in front alone (`resolve: upstream`)."""
        return self._by_name and host is not None and self._bypass.leaves_to_front(host)

    def takes(self, grant: Grant) -> bool:
        """Whether what this grant permits goes through it; otherwise it is reached directly."""
        return self.looks_up(grant.decision.host) or bool(self._beyond(grant))

    def targets(self, grant: Grant) -> Sequence[Host | Address]:
        """What it is asked to connect to, the first choice first: checked addresses, or the name."""
        host = grant.decision.host
        if host is not None and self.looks_up(host):
            return (host,)
        return self._beyond(grant)[:_MOST_TARGETS]

    def _beyond(self, grant: Grant) -> tuple[Address, ...]:
        host = grant.decision.host
        if host is not None and self._bypass.covers_name(host):
            return ()
        return self._bypass.beyond(grant.addresses)

    def closed_to(self, decision: Decision) -> Container[tuple[Address, int]]:
        """Where this decision may not lead: to this proxy itself, and to the one in front unless a rule names it.

        Whoever can speak to that one can ask it for anything, past every rule.
        """
        rule = decision.rule
        exact = rule is not None and not rule.denies and rule.pattern.kind in (PatternKind.EXACT, PatternKind.ADDRESS)
        return self._own if exact and decision.host == self.host else _Closed(self._own, self._seen_at, self.port)

    # What it is told.

    def credential(self) -> str | None:
        """The value of Proxy-Authorization, from the vault as it is now. Raises UpstreamProxyError."""
        if self._secret is None:
            return None
        try:
            value = self._secrets.value_of(self._secret)
        except StoreError as error:
            _log.error("the upstream proxy is not asked: its credential is not to be had", reason=str(error))
            raise UpstreamProxyError(Trouble.CREDENTIAL, "no credential for the upstream proxy") from None
        return basic(value)

    def server_speaks_first(self, grant: Grant) -> bool:
        """Whether the server may be the first to speak in this tunnel."""
        return not needs_hello(grant.decision) or grant.decision.mode is Mode.REPORT

    # The connection to it.

    def known_addresses(self) -> tuple[Address, ...] | None:
        """Where it can be dialled at once. None: something has to be waited for, `connect` does that.

        Raises UpstreamProxyError when it is this proxy itself.
        """
        if self._context is not None:
            return None
        addresses = self._resolver.known(self.host)
        return None if addresses is None else self._checked(addresses)

    async def connect(self) -> Socket:
        """A connection to the proxy itself, with its TLS if it has one. Raises UpstreamProxyError, ExhaustedError."""
        try:
            addresses = self._checked(await self._resolver.resolve(self.host))
        except ResolveError as error:
            trouble = Trouble.TIMED_OUT if error.timed_out else Trouble.UNREACHABLE
            raise UpstreamProxyError(trouble, "the name of the upstream proxy does not resolve") from error
        if self._context is not None:
            return await secure_connection(addresses, self.port, self.host.text, self._context)
        try:
            return await dial(addresses, self.port, seconds=self.bounds.connect_timeout)
        except DialError as error:
            raise not_connected(error) from error

    def _checked(self, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        if any((address, self.port) in self._own for address in addresses):
            _log.error("the upstream proxy is this proxy itself; mend `upstream` in config.yaml")
            raise UpstreamProxyError(Trouble.NO_WAY, "the upstream proxy is this proxy itself")
        self._seen_at.update(addresses)
        return addresses


class _Closed:
    """The listeners of this process, and the proxy in front."""

    __slots__ = ("_addresses", "_own", "_port")

    def __init__(self, own: Container[tuple[Address, int]], addresses: set[Address], port: int) -> None:
        self._own = own
        self._addresses = addresses
        self._port = port

    def __contains__(self, item: object) -> bool:
        if item in self._own:
            return True
        match item:
            case (address, int(port)):
                return port == self._port and address in self._addresses
            case _:
                return False


def not_connected(error: DialError) -> UpstreamProxyError:
    """The same failure, of a dial to the proxy in front."""
    trouble = Trouble.TIMED_OUT if error.timed_out else Trouble.UNREACHABLE
    return UpstreamProxyError(trouble, "the upstream proxy cannot be reached")


def basic(value: str) -> str:
    """RFC 7617. Raises UpstreamProxyError, which does not quote the value, for one that is not user:password."""
    if ":" not in value:
        _log.error("the upstream proxy is not asked: its credential in the vault is not user:password")
        raise UpstreamProxyError(Trouble.CREDENTIAL, "no credential for the upstream proxy")
    return f"Basic {base64.b64encode(value.encode()).decode('ascii')}"
