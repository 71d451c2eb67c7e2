"""What enforcement says once a name is resolved, by the functions that it asks: the rest of the way of a decision."""

from __future__ import annotations

import contextlib
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cloned_proxy.policy.deciding.decide_addresses import decide_addresses
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.host import is_loopback_name
from cloned_proxy.policy.terms.rule import Address, Host
from cloned_proxy.proxy.transport.listener import OwnListeners
from cloned_proxy.proxy.upstream.chained.place import Place, place_of, places_named_in, read_pac
from cloned_proxy.proxy.upstream.lookup import Addresses, in_hosts_file, look_up
from cloned_proxy.store.workspaces.serving import server_of
from cloned_proxy.store.workspaces.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Enforced:
    """A decision, and as far as it was looked at, what the name resolves to."""

    decision: Decision
    addresses: Addresses | None = None
    """None: not looked up."""
    failure: str = ""
    """Why the name has no address: the proxy answers 502 or 504."""
    in_front: bool = False
    """The proxy in front alone looks the name up, and nobody checks what it finds."""


def as_enforced(
    decision: Decision, own: Container[tuple[Address, int]], *, ask: bool, known: Addresses | None = None
) -> Enforced:
    """The decision with the addresses of its host taken into account; `own` are the listeners of the proxy.

    Literals, loopback names and names of the hosts file cost nothing to look up; others are asked for in DNS, from
    here, only with `ask`. `known` are those of a name that is not to be looked up.
    """
    host = decision.host
    if host is None or not decision.passes:
        return Enforced(decision)
    try:
        addresses = known or _addresses_of(host, ask=ask)
    except OSError as error:
        return Enforced(decision, failure=f"{host.text} does not resolve: {error.strerror or error}")
    if addresses is None:
        return Enforced(decision)
    return Enforced(decide_addresses(decision, addresses, own), addresses)


def _addresses_of(host: Host, *, ask: bool) -> Addresses | None:
    if host.address is not None:
        return (host.address,)
    if ask or is_loopback_name(host.text):
        return look_up(host.text)
    return in_hosts_file(host.text) or None


def closed_in(workspace: Workspace, decision: Decision, *, ask: bool) -> Container[tuple[Address, int]]:
    """Where a decision may not lead: to the listeners of the proxy, and to the proxies in front but by their own rules.

    As `UpstreamProxy.closed_to`, for proxies that the settings name, or the text of their PAC file.
    """
    own = listeners_of(workspace)
    fronts = fronts_of(workspace)
    if decision.names_its_host and any(front.host == decision.host for front in fronts):
        return own
    for front in fronts:
        with contextlib.suppress(OSError):
            for address in _addresses_of(front.host, ask=ask) or ():
                own.add_address(str(address), front.port)
    return own


def is_front(workspace: Workspace, decision: Decision) -> bool:
    """Whether a name is that of a proxy in front, and the rule at hand does not name it: `UpstreamProxy.closes`."""
    here = decision.host, decision.request.port
    return not decision.names_its_host and any((front.host, front.port) == here for front in fronts_of(workspace))


def fronts_of(workspace: Workspace) -> tuple[Place, ...]:
    """The proxies in front that the settings name. Raises StoreError."""
    settings = workspace.upstream_settings()
    if settings.proxy is not None:
        return (place_of(settings.proxy),)
    if settings.pac is None:
        return ()
    return places_named_in(read_pac(workspace.root / Path(settings.pac).expanduser()))


def listeners_of(workspace: Workspace) -> OwnListeners:
    """Where the proxy that serves this workspace listens: it never dials itself. Nowhere while nothing serves it."""
    own = OwnListeners()
    serving = server_of(workspace.root)
    for place in (serving.proxy, serving.control, serving.metrics) if serving is not None else ():
        parts = urlsplit(f"//{place}") if place else None
        if parts is not None and parts.hostname and parts.port:
            own.add_address(parts.hostname, parts.port)
    return own
