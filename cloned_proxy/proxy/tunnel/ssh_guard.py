"""Holds a tunnel under `protocols: [ssh]` to SSH: nothing passes either way before that side has identified itself."""

from __future__ import annotations

from typing import Final

from cloned_proxy.policy.deciding.decide import decide_tunnel
from cloned_proxy.policy.terms.vocabulary import Mode
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.transport.relay_guard import TurnedAwayError
from cloned_proxy.proxy.tunnel.last_words import ACCESS_DENIED, last_words
from cloned_proxy.proxy.tunnel.open_tunnel import OpenTunnel
from cloned_proxy.proxy.wire.client_hello import Unread
from cloned_proxy.proxy.wire.ssh_watch import MAX_WAITING, Identification, NotSshError

_HANDSHAKE: Final = b"\x16"
"""RFC 8446, section 5.1: the first byte of every ClientHello."""


class SshGuard:
    """A `RelayGuard` for the relay of one tunnel.

    What the client sends behind its identification waits for the server's, so that a server of another protocol that
    skips a line which it does not know gets nothing but that line. The tunnel learns what it carries.
    """

    __slots__ = ("_client", "_held", "_server", "_told_client", "_tunnel", "done")

    def __init__(self, tunnel: OpenTunnel) -> None:
        self.done = False
        self._tunnel = tunnel
        self._client = Identification(server=False)
        self._server = Identification(server=True)
        self._held = b""
        """What the client has sent behind its identification."""
        self._told_client = False
        """The client has been sent something of the server's: no other answer can be put into the tunnel."""
        tunnel.client.arm(tunnel.client.services.settings.client_hello_timeout, self._late)

    @property
    def holds(self) -> bool:
        """Whether something of the client's waits that must not pass as it is."""
        return bool(self._client.waiting or self._held)

    def from_client(self, data: bytes) -> bytes:
        """What goes upstream now. Raises TurnedAwayError."""
        if self._client.complete:
            self._held += data
            if len(self._held) > MAX_WAITING:
                self._judge(b"")
            return b""
        try:
            passed, self._held = self._client.feed(data)
        except NotSshError:
            self._judge(self._client.waiting)
            return b""
        if self._client.complete:
            self._tunnel.client.disarm()
            self._settle()
        if self.done:
            passed, self._held = passed + self._held, b""
        return passed

    def from_server(self, data: bytes) -> bytes:
        """What goes to the client now. Raises TurnedAwayError."""
        if not self._server.complete:
            reported = self._tunnel.grant.decision.mode is Mode.REPORT
            try:
                passed, behind = self._server.feed(data)
            except NotSshError:
                self._judge(b"")
                return data
            # Where everything passes nothing is held back: what waited would be lost when it turns out to be no SSH.
            data = data if reported else passed + behind
            self._settle()
        self._told_client = self._told_client or bool(data)
        return data

    def release(self) -> bytes:
        """What still waits for the upstream. Nothing is asked of the guard any more."""
        self._tunnel.client.disarm()
        return self._client.waiting + self._held

    def _settle(self) -> None:
        if self._client.complete and self._server.complete:
            self.done = True
            self._tunnel.server_names = Unread.SSH

    def _judge(self, first: bytes) -> None:
        """What came is no SSH; `first` is what the client began with. Raises TurnedAwayError, but in report mode."""
        grant = self._tunnel.grant
        decision = decide_tunnel(grant.decision, None)
        refusal = self._tunnel.client.services.enforcer.amend(grant, decision)
        self._tunnel.server_names = Unread.NOT_TLS
        if decision.passes:
            self.done = True
            return
        answer = answers.refused(refusal) if refusal is not None else answers.unavailable()
        last = ACCESS_DENIED if first.startswith(_HANDSHAKE) else last_words(Unread.NOT_TLS, first, answer)
        last = b"" if self._told_client else last
        raise TurnedAwayError(f"refused:{decision.reason.value}", last)

    def _late(self) -> None:
        """The client does not say what it speaks."""
        relay = self._tunnel.relay
        if relay is None:
            return
        try:
            self._judge(self._client.waiting)
        except TurnedAwayError as refused:
            relay.cut(refused.cause)
        else:
            relay.end_guard()
