"""The proxy in front of this one: what goes through it, where it is, and what it is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Container, Sequence
from pathlib import Path
from socket import socket as Socket  # noqa: N812  the type, beside variables of that name
from typing import Final, Protocol

import structlog

from cloned_proxy.policy.deciding.bypass import read_bypass
from cloned_proxy.policy.deciding.decide import needs_hello
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.rule import Address, Host
from cloned_proxy.policy.terms.vocabulary import Mode
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.upstream.chained.failure import Trouble, UpstreamProxyError, too_slow
from cloned_proxy.proxy.upstream.chained.pac import PacFile
from cloned_proxy.proxy.upstream.chained.place import Place, place_of
from cloned_proxy.proxy.upstream.chained.tls import secure_connection
from cloned_proxy.proxy.upstream.dial import DialError, dial
from cloned_proxy.proxy.upstream.resolver import ResolveError, Resolver
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.store.settings.upstream_settings import UpstreamSettings
from cloned_proxy.store.settings.upstream_tls import verifying_context

_log = structlog.get_logger(__name__)

_NOWHERE: Final = Host("cloned-proxy.invalid")
"""RFC 6761, section 6.4: a name that nobody has."""
_MOST_TARGETS: Final = 4
"""Addresses of one name that the proxy is asked for, one after the other."""


class CredentialSource(Protocol):
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
        secrets: CredentialSource,
        own: Container[tuple[Address, int]],
        base: Path,
    ) -> None:
        """`own` are the listeners of this process, `base` is where relative paths begin. Raises StoreError."""
        self.bounds: Final = bounds
        self._by_name: Final = settings.resolve == "upstream"
        self._bypass: Final = read_bypass(settings.no_proxy)
        self._secret: Final = settings.secret
        self._resolver: Final = resolver
        self._secrets: Final = secrets
        self._own: Final = own
        self._context: Final = verifying_context(settings, base) if settings.may_be_secure else None
        self._pac: Final = PacFile(base / Path(settings.pac).expanduser()) if settings.pac is not None else None
        self._only: Final = None if settings.proxy is None else place_of(settings.proxy)
        self._met: Final[set[tuple[Address, int]]] = set()
        """Where proxies in front were ever found: these stay closed to tools."""
        self._named: Final[set[Host]] = set()
        self._named_at: Final[set[tuple[Host | None, int]]] = set()
        self._foreseen: Final = (self._only,) if self._only is not None else self._pac.named if self._pac else ()
        for place in self._foreseen:
            self._meet(place, () if place.host.address is None else (place.host.address,))

    async def look_ahead(self) -> None:
        """Finds out where the proxy is, so that it is closed to tools before anything went through it."""
        for place in (*self._foreseen, *await self._usual()):
            self._meet(place, ())
            with contextlib.suppress(ResolveError):
                self._meet(place, await self._resolver.resolve(place.host))

    async def _usual(self) -> tuple[Place, ...]:
        """What a PAC file says for a host that it cannot know: names that it puts together do not stand in its text."""
        found: tuple[Place, ...] = ()
        for port, tunnel in ((443, True), (80, False)):
            with contextlib.suppress(UpstreamProxyError):
                found += () if self._pac is None else await self._pac.places(_NOWHERE, port, tunnel=tunnel)
        return found

    def close(self) -> None:
        if self._pac is not None:
            self._pac.close()

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
        if decision.names_its_host and decision.host in self._named:
            return self._own
        return _EVERYWHERE if self.closes(decision) else _Closed(self._own, self._met)

    def closes(self, decision: Decision) -> bool:
        """`closed_to` for a name that is not looked up here: whether it is that of a proxy in front."""
        return (decision.host, decision.request.port) in self._named_at and not decision.names_its_host

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

    def now(self) -> object:
        """Equal to what it was before: it is told the same, and the same places are closed to tools."""
        try:
            value = None if self._secret is None else self._secrets.value_of(self._secret)
        except StoreError:
            value = None
        return value, len(self._met), len(self._named_at)

    def lasts(self) -> float:
        """Seconds for which `known_addresses` will go on to answer as it does now."""
        return 0.0 if self._only is None else self._resolver.lasts(self._only.host)

    def server_speaks_first(self, grant: Grant) -> bool:
        """Whether the server may be the first to speak in this tunnel."""
        return not needs_hello(grant.decision) or grant.decision.mode is Mode.REPORT

    # The connection to it.

    def known_addresses(self) -> tuple[Address, ...] | None:
        """Where it can be dialled at once, at `port`. None: something has to be waited for, `connect` does that.

        Raises UpstreamProxyError when it is this proxy itself.
        """
        place = self._only
        if place is None or place.secure:
            return None
        addresses = self._resolver.known(place.host)
        return None if addresses is None else self._checked(place, addresses)

    @property
    def port(self) -> int:
        """The port of the addresses that are known at once."""
        if self._only is None:
            raise ValueError("no proxy is known at once")
        return self._only.port

    async def connect(self, grant: Grant, *, tunnel: bool) -> Socket:
        """A connection to the proxy itself, with its TLS if it has one, for a tunnel or for a request itself.

        Raises UpstreamProxyError, ExhaustedError.
        """
        failure = UpstreamProxyError(Trouble.NO_WAY, "no upstream proxy leads there")
        places = await self._places(grant, tunnel=tunnel)
        for place in places:
            try:
                async with asyncio.timeout(self.bounds.connect_timeout / len(places)):
                    return await self._connect(place, grant)
            except TimeoutError:
                failure = too_slow()
            except UpstreamProxyError as error:
                failure = error
        raise failure

    async def _places(self, grant: Grant, *, tunnel: bool) -> Sequence[Place]:
        if self._pac is None:
            return () if self._only is None else (self._only,)
        host = grant.decision.host
        if host is None:
            raise ValueError("a grant without a canonical host")
        return await self._pac.places(host, grant.decision.request.port, tunnel=tunnel)

    async def _connect(self, place: Place, grant: Grant) -> Socket:
        try:
            addresses = self._checked(place, await self._resolver.resolve(place.host))
        except ResolveError as error:
            trouble = Trouble.TIMED_OUT if error.timed_out else Trouble.UNREACHABLE
            raise UpstreamProxyError(trouble, "the name of the upstream proxy does not resolve") from error
        if self._is_met(grant):
            _log.warning(
                "the upstream proxy is no destination; a PAC file has named it only now", place=place.host.text
            )
            raise UpstreamProxyError(Trouble.NO_WAY, "no upstream proxy leads there")
        if place.secure and self._context is not None:
            return await secure_connection(addresses, place.port, place.host.text, self._context)
        try:
            return await dial(addresses, place.port, seconds=self.bounds.connect_timeout)
        except DialError as error:
            raise not_connected(error) from error

    def _checked(self, place: Place, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        if any((address, place.port) in self._own for address in addresses):
            _log.error("the upstream proxy is this proxy itself; mend `upstream` in config.yaml")
            raise UpstreamProxyError(Trouble.NO_WAY, "the upstream proxy is this proxy itself")
        self._meet(place, addresses)
        return addresses

    def _is_met(self, grant: Grant) -> bool:
        """Whether what the grant permits is a proxy in front, of which nobody knew when it was decided."""
        closed, port = self.closed_to(grant.decision), grant.decision.request.port
        return self.closes(grant.decision) or any((address, port) in closed for address in grant.addresses)

    def _meet(self, place: Place, addresses: tuple[Address, ...]) -> None:
        self._named.add(place.host)
        self._named_at.add((place.host, place.port))
        self._met.update((address, place.port) for address in addresses)


class _Everywhere:
    """For the name of a proxy in front, whatever it resolves to: that may not have been looked up yet."""

    def __contains__(self, item: object) -> bool:
        return True


_EVERYWHERE: Final = _Everywhere()


class _Closed:
    """The listeners of this process, and the proxies in front."""

    __slots__ = ("_met", "_own")

    def __init__(self, own: Container[tuple[Address, int]], met: set[tuple[Address, int]]) -> None:
        self._own = own
        self._met = met

    def __contains__(self, item: object) -> bool:
        return item in self._own or item in self._met


def not_connected(error: DialError) -> UpstreamProxyError:
    """A dial that failed, as what it was: one to the proxy in front."""
    if isinstance(error, UpstreamProxyError):
        return error
    trouble = Trouble.TIMED_OUT if error.timed_out else Trouble.UNREACHABLE
    return UpstreamProxyError(trouble, "the upstream proxy cannot be reached")


def basic(value: str) -> str:
    """RFC 7617. Raises UpstreamProxyError, which does not quote the value, for one that is not user:password."""
    if ":" not in value:
        _log.error("the upstream proxy is not asked: its credential in the vault is not user:password")
        raise UpstreamProxyError(Trouble.CREDENTIAL, "no credential for the upstream proxy")
    return f"Basic {base64.b64encode(value.encode()).decode('ascii')}"
