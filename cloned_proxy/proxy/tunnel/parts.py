"""What the connections of a gate share, and what they hand themselves over to."""

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
    from cloned_proxy.proxy.tunnel.connection import ClientConnection


@dataclass(frozen=True, slots=True)
class GateParts:
    """What every connection works with."""

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
    """What answers at `http://cloned.internal`; without it that name is refused like any other."""
    arrived: Callable[[ClientConnection], None]
    """A new connection, which has its place already."""
    keep: Callable[[ClientConnection], None]
    """Counts a connection that the native plane has admitted."""
    forget: Callable[[ClientConnection], None]
    """The connection and all that came of it are closed."""
    stopping: Callable[[], bool]
    refusals: KnownRefusals
    serve: Callable[[ClientConnection, Head, bytes], None]
    """What follows the head of a CONNECT: `connect.serve`."""
    serve_plain: Callable[[ClientConnection, Head], None]
    """What follows every other head: `PlainHttp.serve`."""
    resume_plain: Callable[[ClientConnection, bytes | Underway], None]
    """Goes on with plain requests that the native plane has served so far: `PlainHttp.resume`."""
    publish: Callable[[Listener, Head, Grant], bool]
    """Told of each grant that is no injection: the native plane may give the same one again. Whether it will."""
    give_back: Callable[[ClientConnection], bool]
    """Gives a client that asks for more such requests to the native plane. True: that has it, and here it is gone."""
    plane_idle: Callable[[], None]
    """The native plane has no connection any more."""
    plane_failed: Callable[[], None]


class Successor(Protocol):
    """Who has the transport of a connection whose requests are plain HTTP."""

    @property
    def over(self) -> bool: ...

    @property
    def quiet(self) -> bool: ...

    @property
    def begun(self) -> bool: ...

    @property
    def quiet_since(self) -> float: ...

    def let_go(self) -> None: ...

    def cut(self, cause: str) -> None: ...


class Settling(Protocol):
    """A granted CONNECT that is not a tunnel yet: told what its client does meanwhile."""

    def client_sent(self) -> bool:
        """The buffer holds more than before. Whether it is to grow on."""

    def client_ended(self) -> None:
        """FIN."""

    def client_lost(self) -> None:
        """The connection is closed."""
