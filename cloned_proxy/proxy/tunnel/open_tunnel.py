"""A granted CONNECT as the gate, the record and its guards know it: what it carries, and how it ends."""

from __future__ import annotations

import time
from socket import socket as Socket  # noqa: N812  the type, beside variables of that name

from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.transport.relay import Relay
from cloned_proxy.proxy.tunnel.client import Client
from cloned_proxy.proxy.tunnel.last_words import turn_away
from cloned_proxy.proxy.upstream.dial import DialAttempt
from cloned_proxy.proxy.wire.client_hello import ServerNames, Unread


class OpenTunnel:
    """A `Tunnel` of the registry and the `Owner` of its client, from `open` to `end`: then the grant has gone back."""

    __slots__ = ("_counted", "_since", "attempt", "client", "established", "finished", "grant", "relay", "server_names",
                 "upstream")  # fmt: skip

    def __init__(self, client: Client) -> None:
        self.client = client
        self.grant: Grant
        """Set by `open`."""
        self.attempt: DialAttempt | None = None
        """Set while the tunnel dials."""
        self.upstream: Socket | None = None
        """The socket of the upstream: connected, and not in a relay yet."""
        self.relay: Relay | None = None
        self.server_names: ServerNames | Unread = Unread.NEED_MORE
        self.established = False
        """The client was told 200."""
        self.finished = False
        self._since = 0.0
        self._counted = False

    def open(self, grant: Grant) -> None:
        """The grant is this tunnel's to give back from now on, and whatever revokes it cuts the tunnel."""
        self.grant = grant
        self._since = time.monotonic()
        self.client.owner = self
        self.client.services.tunnels.add(self)

    def establish(self) -> None:
        """Tells the client that its CONNECT was granted."""
        self.established = True
        self.client.established()

    def count(self) -> None:
        """Counts the tunnel among those that carry something."""
        self._counted = True
        self.client.services.metrics.tunnel_opened(self.grant.caller.tool)

    def end(self, cause: str) -> None:
        """Leaves nothing open that no relay has, gives the grant back, and puts the cause on record. Once."""
        self.finished, self.relay = True, None
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.cancel()
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.close()
        services = self.client.services
        services.tunnels.discard(self)
        if self._counted:
            self._counted = False
            services.metrics.tunnel_closed(self.grant.caller.tool)
        services.enforcer.finish(self.grant, cause)

    def refuse(self, decision: Decision) -> str:
        """Puts the refusal on record and tells the client. Returns the cause of the end."""
        refusal = self.client.services.enforcer.amend(self.grant, decision)
        self.turn_away(answers.refused(refusal) if refusal is not None else answers.unavailable())
        return f"refused:{decision.reason.value}"

    def turn_away(self, answer: Answer) -> None:
        """Tells the client why nothing comes of it, as far as it can be told now."""
        if self.established:
            turn_away(self.client, self.server_names, answer)
        else:
            self.client.answer(answer)

    # For the registry of tunnels.

    def cut_off(self, cause: str) -> None:
        """As of `Tunnel`."""
        self.client.cut(cause)

    def last_byte(self) -> float:
        """As of `Tunnel`."""
        if self.relay is not None:
            return self.relay.last_byte
        # Before the relay the deadlines of the hello and the dial hold; an inspection watches its own flow.
        return time.monotonic() if self._counted else self._since

    # For the gate: as of `Owner`. Something is under way until it ends, so nobody lets go of one.

    @property
    def over(self) -> bool:
        return False

    @property
    def quiet(self) -> bool:
        return False

    @property
    def begun(self) -> bool:
        return False

    @property
    def quiet_since(self) -> float:
        return self._since

    def let_go(self) -> None:
        pass

    def cut(self, cause: str) -> None:
        if self.relay is not None and self.relay.started:
            self.relay.cut(cause)
        else:
            self.client.reset()
