"""What the clients of a gate share, and who serves those whose requests are plain HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cloned_proxy.policy.callers.identity import TokenVerifier
from cloned_proxy.proxy.enforce.enforcer import Enforcer
from cloned_proxy.proxy.enforce.known_refusals import KnownRefusals
from cloned_proxy.proxy.enforce.tunnels import Tunnels
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection import Inspector
from cloned_proxy.proxy.own.requests_api import RequestsApi
from cloned_proxy.proxy.secrets.injection import Injector
from cloned_proxy.proxy.secrets.leak import LeakWatch
from cloned_proxy.proxy.transport.bulk import Splicer
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.store.settings.config import ProxySettings
from cloned_proxy.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from cloned_proxy.proxy.http1.underway import Underway
    from cloned_proxy.proxy.tunnel.client import Client


@dataclass(frozen=True, slots=True)
class GateServices:
    """What every client is served with."""

    enforcer: Enforcer
    tokens: TokenVerifier
    settings: ProxySettings
    metrics: Metrics
    inspector: Inspector | None
    injector: Injector
    leaks: LeakWatch
    clock: Callable[[], float]
    """Wall clock, for the expiry of credentials."""
    tunnels: Tunnels
    ways: Ways
    splicer: Splicer | None
    """None where bytes stay on the transports: `os.splice` is Linux only."""
    requests: RequestsApi | None
    """Answers at `http://cloned.internal`. None: that name is refused like any other."""
    arrived: Callable[[Client], None]
    """Called with a new client, whose place is taken already."""
    keep: Callable[[Client], None]
    """Counts a client that the native plane has admitted."""
    forget: Callable[[Client], None]
    """Called when the client's connection, and all that came of the client, are closed."""
    stopping: Callable[[], bool]
    refusals: KnownRefusals
    plain: PlainRequests
    publish: Callable[[Listener, Head, Grant], bool]
    """Tells the native plane of a grant that injects nothing. True: the plane gives the same grant again by itself."""
    give_back: Callable[[Client], bool]
    """Gives a client that asks for more such requests to the native plane. True: the plane has the client."""
    plane_idle: Callable[[], None]
    """Called when the native plane has no connection any more."""
    plane_failed: Callable[[], None]


class PlainRequests(Protocol):
    """Serves the clients whose requests are plain HTTP: `PlainHttp`."""

    def serve(self, client: Client, head: Head) -> None:
        """Takes over a client whose first head is not a CONNECT."""

    def resume(self, client: Client, at: bytes | Underway) -> None:
        """Goes on with plain requests that the native plane has served so far: the bytes of the next, or one."""
