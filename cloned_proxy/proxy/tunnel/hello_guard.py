"""Holds a tunnel to its server name until the server has taken a ClientHello: the watch, decided and on record."""

from __future__ import annotations

from typing import Final

from cloned_proxy.policy.deciding.decide import decide_tunnel
from cloned_proxy.policy.terms.decision import Decision
from cloned_proxy.policy.terms.vocabulary import Mode
from cloned_proxy.proxy.transport.relay_guard import TurnedAwayError
from cloned_proxy.proxy.tunnel.last_words import ACCESS_DENIED
from cloned_proxy.proxy.tunnel.open_tunnel import OpenTunnel
from cloned_proxy.proxy.wire.client_hello import ServerNames
from cloned_proxy.proxy.wire.hello_watch import HelloWatch

_REPORTED_SILENCE: Final = 1.0
"""Seconds that a silent tunnel waits for its ClientHello in report mode."""


def hello_seconds(decision: Decision, seconds: float) -> float:
    """How long a ClientHello is waited for: `seconds`, as the settings say, or less."""
    if decision.mode is Mode.ENFORCE:
        return seconds
    # Where silence will pass anyway, a protocol whose server speaks first must not wait for long to be recorded.
    return min(seconds, _REPORTED_SILENCE) if decide_tunnel(decision, None).passes else seconds


class HelloGuard(HelloWatch):
    """Guards the relay of one tunnel whose first ClientHello passes; the relay forgets the guard once `done`."""

    __slots__ = ("_tunnel", "_waits")

    def __init__(self, tunnel: OpenTunnel, judged: int) -> None:
        super().__init__(judged)
        self._tunnel = tunnel
        self._waits = False

    def from_client(self, data: bytes) -> bytes:
        """The part of `data` that goes upstream now. Raises TurnedAwayError."""
        passed = super().from_client(data)
        if self._waits is not self.holds:
            self._waits = not self._waits
            if self._waits:
                client = self._tunnel.client
                client.arm(client.services.settings.client_hello_timeout, self._late)
            else:
                self._tunnel.client.disarm()
        return passed

    def from_server(self, data: bytes) -> bytes:
        """All of `data`. Raises TurnedAwayError."""
        self.look_at_server(data)
        return data

    def judge(self, names: ServerNames | None) -> bool:
        """Raises TurnedAwayError."""
        grant = self._tunnel.grant
        granted = grant.decision
        decision = decide_tunnel(granted, names)
        self._tunnel.client.services.enforcer.amend(grant, decision)
        if not decision.passes:
            raise TurnedAwayError(f"refused:{decision.reason.value}", b"" if names is None else ACCESS_DENIED)
        return decision is granted  # where a mismatch is only reported, once is enough

    def release(self) -> bytes:
        """What waited. Nothing is asked of the guard any more."""
        if self._waits:
            self._tunnel.client.disarm()
        return self.held

    def _late(self) -> None:
        """The rest of a hello does not come."""
        relay = self._tunnel.relay
        if relay is None:
            return
        try:
            self.judge(None)
        except TurnedAwayError as refused:
            relay.cut(refused.cause)
        else:
            relay.end_guard()
