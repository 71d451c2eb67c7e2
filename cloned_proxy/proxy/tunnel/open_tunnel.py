"""A granted CONNECT as the gate, the record and its guards know it: what it carries, and how it ends."""

from __future__ import annotations

import time

from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.transport.relay import Relay
from cloned_proxy.proxy.tunnel.client import Client
from cloned_proxy.proxy.tunnel.last_words import turn_away
from cloned_proxy.proxy.wire.client_hello import ServerNames, Unread


class OpenTunnel:
    """A `Tunnel` of the registry from its grant on. Whoever has it calls `end` exactly once: the grant goes back."""

    __slots__ = ("_counted", "_since", "client", "established", "grant", "relay", "server_names")

    def __init__(self, client: Client, grant: Grant) -> None:
        self.client = client
        self.grant = grant
        self.relay: Relay | None = None
        self.server_names: ServerNames | Unread = Unread.NEED_MORE
        self.established = False
        """The client was told 200."""
        self._since = time.monotonic()
        self._counted = False
        client.owner = self
        client.parts.tunnels.add(self)

    def establish(self) -> None:
        """Tells the client that its CONNECT was granted."""
        self.established = True
        self.client.established()

    def count(self) -> None:
        """It carries something from now on."""
        self._counted = True
        self.client.parts.metrics.tunnel_opened(self.grant.caller.tool)

    def end(self, cause: str) -> None:
        parts = self.client.parts
        parts.tunnels.discard(self)
        if self._counted:
            self._counted = False
            parts.metrics.tunnel_closed(self.grant.caller.tool)
        parts.enforcer.finish(self.grant, cause)

    def refuse(self, decision: Decision) -> str:
        """Puts the refusal on record and tells the client. Returns the cause of the end."""
        refusal = self.client.parts.enforcer.amend(self.grant, decision)
        self.turn_away(answers.refused(refusal) if refusal is not None else answers.unavailable())
        return f"refused:{decision.reason.value}"

    def turn_away(self, answer: Answer) -> None:
        """Tells the client why nothing comes of it, as far as it can be told now."""
        if self.established:
            turn_away(self.client, self.server_names, answer)
        else:
            self.client.answer(answer)

    # For the gate and its registry of tunnels.

    @property
    def quiet(self) -> bool:
        return False

    @property
    def quiet_since(self) -> float:
        return self._since

    def cut(self, cause: str) -> None:
        if self.relay is not None and self.relay.started:
            self.relay.cut(cause)
        else:
            self.client.reset()

    def cut_off(self, cause: str) -> None:
        self.client.cut(cause)

    def last_byte(self) -> float:
        if self.relay is not None:
            return self.relay.last_byte
        # Before the relay the deadlines of the hello and the dial hold; an inspection watches its own flow.
        return time.monotonic() if self._counted else self._since
