"""A connection to a synthetic address: what a program that knows no proxy sends when it dials a name.

It is taken as `CONNECT name:port`, or as requests for `http://name:port/…`, by the identity of the listener. Every
verdict is the gate's, from the same functions; what this module knows is the name and the port that were dialled.
"""

from __future__ import annotations

import asyncio
import enum
import re
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import Final

from cloned_proxy.policy.callers.caller import IdentityRefusal
from cloned_proxy.policy.deciding.decide import needs_hello
from cloned_proxy.policy.terms.decision import Request
from cloned_proxy.policy.terms.http_token import MAX_METHOD, TOKEN
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.transport.listener import Listener
from cloned_proxy.proxy.transport.reset import reset
from cloned_proxy.proxy.tunnel.closing import ClosingOnFailure
from cloned_proxy.proxy.tunnel.connect_tunnel import ConnectTunnel
from cloned_proxy.proxy.tunnel.connection import ClientConnection
from cloned_proxy.proxy.tunnel.gate_services import GateServices
from cloned_proxy.proxy.tunnel.last_words import ACCESS_DENIED
from cloned_proxy.proxy.wire.head import Head, TargetForm, parse_head

_SILENCE: Final = 0.5
"""Seconds that a client may be silent where it will be refused anyway: a protocol whose server speaks first."""
_HANDSHAKE: Final = 0x16
"""RFC 8446, section 5.1: the first byte of every ClientHello."""
_METHOD: Final = TOKEN.removesuffix(b"+") + b"{1,%d}" % MAX_METHOD
_REQUEST_LINE: Final = re.compile(rb"%b [!-~]+ HTTP/1\.[01]\r?\n" % _METHOD)
_MAY_BECOME_ONE: Final = re.compile(rb"%b(?: (?:[!-~]+(?: [ -~]*)?)?)?\r?" % _METHOD)
_REFUSED: Final = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS})


class _Speech(enum.Enum):
    UNKNOWN = enum.auto()
    """Nothing came, or too little to tell."""
    TLS = enum.auto()
    HTTP = enum.auto()
    OTHER = enum.auto()


class TransparentConnection(ClientConnection):
    """Tells by the first bytes what the client speaks; where a rule allows anything, nothing is waited for.

    Refusals are said in the client's own language: an alert, the 403, or a reset.
    """

    __slots__ = ("_dialled", "_speech")

    def __init__(self, services: GateServices, listener: Listener) -> None:
        super().__init__(services, listener)
        self._dialled: tuple[str, int] | None = None
        """The name and the port that the client dialled; None for a client of the proxy itself, on a shared port."""
        self._speech = _Speech.UNKNOWN

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        host, port = transport.get_extra_info("sockname")[:2]
        tags, asks_proxy = self.listener.names, self.listener.asks_proxy(host)
        name = None if tags is None else tags.name_of(IPv4Address(host))
        self._dialled = None if name is None else (name, port)
        self._speech = _Speech.HTTP if asks_proxy else _Speech.UNKNOWN
        super().connection_made(transport)
        if transport.is_closing() or asks_proxy:
            return
        if name is None:
            self.cut("no_such_name")  # an address that was never given, or has been taken back
        else:
            self._arrived(name, port)

    def eof_received(self) -> bool:
        if self._dialled is not None and self._speech is _Speech.UNKNOWN and self.buffer:
            self.eof = True
            self._head_timed_out()  # all that will come is there
        return super().eof_received()

    def read_head(self, data: bytes) -> Head:
        if self._dialled is None:
            return super().read_head(data)
        return parse_head(data, dialled=self._dialled, max_fields=self.services.settings.max_head_fields)

    def established(self) -> None:
        """Says nothing to a client that dialled a name: for that client the connection stands already."""
        if self._dialled is None:
            super().established()

    def answer(self, answer: Answer) -> None:
        if self._speech is _Speech.HTTP:
            super().answer(answer)
        elif self._speech is _Speech.TLS and answer.status in _REFUSED:
            self.close_after(ACCESS_DENIED)
        else:
            reset(self.transport)

    def _arrived(self, name: str, port: int) -> None:
        services, principal = self.services, self.listener.principal
        caller = principal or IdentityRefusal(Reason.IDENTITY_MISSING)
        outlook = services.enforcer.outlook(caller, Request(name, port))
        if outlook.passes and not outlook.inspect and not needs_hello(outlook):
            self._dial()
            return
        seconds = services.settings.client_hello_timeout
        self.arm(seconds if outlook.passes else min(seconds, _SILENCE), self._head_timed_out)

    def _look_for_head(self) -> bool:
        if self._dialled is None:
            return super()._look_for_head()
        if self._speech is _Speech.UNKNOWN:
            self._speech = _speech_of(self.buffer, self.services.settings.max_head_bytes)
        if self._speech is _Speech.HTTP:
            return super()._look_for_head()
        if self._speech is _Speech.UNKNOWN:
            return False
        self._dial()
        return True

    def _head_timed_out(self) -> None:
        if self._speech is _Speech.HTTP:
            super()._head_timed_out()
            return
        with ClosingOnFailure(self):
            self._dial()  # what waits for the server to speak first goes on record like everything else

    def _dial(self) -> None:
        if self._dialled is None:
            raise ValueError("nobody dialled anything here")
        host, port = self._dialled
        self.disarm()
        self.asked = True
        head = Head("CONNECT", f"{host}:{port}", TargetForm.AUTHORITY, host, port, "", 1, (), None, chunked=False)
        ConnectTunnel(self).start(head)


def _speech_of(data: bytearray, longest: int) -> _Speech:
    """HTTP/1 is told by a whole request line: many protocols begin with a letter."""
    if data[0] == _HANDSHAKE:
        return _Speech.TLS
    if _REQUEST_LINE.match(data) is not None:
        return _Speech.HTTP
    unfinished = b"\n" not in data and len(data) <= longest and _MAY_BECOME_ONE.fullmatch(data) is not None
    return _Speech.UNKNOWN if unfinished else _Speech.OTHER
