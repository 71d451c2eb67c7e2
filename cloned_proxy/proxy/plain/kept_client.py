"""A client of plain HTTP as the gate knows it: the phase it is in, when it may make room, and how it ends."""

from __future__ import annotations

import enum
import time
from typing import Final

from cloned_proxy.proxy.http1.intake import Intake
from cloned_proxy.proxy.transport.linger import LINGER_SECONDS, send_fin
from cloned_proxy.proxy.transport.settled import has_more, is_settled, unsent
from cloned_proxy.proxy.tunnel.client import Client

NEVER: Final = float("inf")


class RequestPhase(enum.Enum):
    HEAD = enum.auto()
    """The next head is read. The body of a refused request is read and thrown away before it."""
    DECIDING = enum.auto()
    EXCHANGE = enum.auto()
    OWN_BODY = enum.auto()
    """The body of a request to the proxy itself is read."""
    CLOSING = enum.auto()
    """The last byte has been written; what still comes is not looked at."""


class KeptClient:
    """Owns a client that may ask again (`Owner`), but for `cut`, which ends a request that is under way."""

    __slots__ = ("_connection", "_head_began", "_phase", "deadline", "eof", "intake", "listener", "services",
                 "transport")  # fmt: skip

    def __init__(self, connection: Client) -> None:
        self.services = connection.services
        self.listener = connection.listener
        self.transport = connection.transport
        self.intake = Intake(connection.transport, connection.services.settings, connection.read_head)
        self.eof = connection.eof
        self.deadline = NEVER
        """When the phase must have ended, monotonic; the sweep looks at it once a second."""
        self._connection = connection
        self._phase = RequestPhase.HEAD
        self._head_began = False

    @property
    def source_address(self) -> str:
        """As of `Client`."""
        return self._connection.source_address

    # For a call that waits for a person.

    @property
    def gone(self) -> bool:
        """Whether nobody is there to hear the answer."""
        return self.eof

    def watch(self) -> None:
        """The client is read all the time, up to the bound of its buffer."""

    # For the gate: as of `Owner`.

    @property
    def over(self) -> bool:
        """Whether no request is under way: what was answered may still be on its way, or what comes next."""
        return self._phase in {RequestPhase.HEAD, RequestPhase.CLOSING}

    @property
    def quiet(self) -> bool:
        return self._phase is RequestPhase.HEAD and not self.intake.expects_more

    @property
    def begun(self) -> bool:
        """Whether a head has begun and is not whole, or a body is still to come that goes nowhere.

        That of a request that is answered, or of one to the proxy itself.
        """
        return self._phase is RequestPhase.OWN_BODY or (self._phase is RequestPhase.HEAD and self._head_began)

    @property
    def quiet_since(self) -> float:
        settings = self.services.settings
        return self.deadline - (settings.head_timeout if self._head_began else settings.keep_alive_timeout)

    def let_go(self) -> None:
        """FIN, to a client that is quiet. One that has not got the whole of the last response does get it."""
        # The rest of a body that meets no socket would be answered by a reset, which destroys what was not read yet.
        # A request to the proxy itself has no answer yet.
        answered = self._phase is not RequestPhase.OWN_BODY
        if is_settled(self.transport) and (self.intake.body.complete or not answered):
            self._phase = RequestPhase.CLOSING
            self.transport.close()
        elif answered and not has_more(self.transport):
            self._close()

    # For a request to the proxy itself.

    def read_own_body(self) -> float:
        """Begins to read the body of a request to the proxy itself; until when it must be whole, monotonic."""
        self._phase, self._head_began = RequestPhase.OWN_BODY, True
        self.deadline = time.monotonic() + self.services.settings.head_timeout
        return self.deadline

    def own_body_read(self) -> None:
        """The body is whole, and the answer is on its way."""
        self._phase, self.deadline = RequestPhase.EXCHANGE, NEVER

    # The end.

    def _close(self) -> None:
        """FIN, then reads on for a moment, as `transport.linger` says. The sweep ends that; no timer does."""
        self._phase = RequestPhase.CLOSING
        self.intake.close()
        if self.transport.is_closing():
            return
        slow = self.transport.get_write_buffer_size() > 0
        self.deadline = time.monotonic() + (self.services.settings.idle_timeout if slow else LINGER_SECONDS)
        if self.eof:
            self.transport.close()  # behind what waits for the client, which may take none of it
        else:
            send_fin(self.transport)

    def _look_at_end(self, now: float) -> None:
        """The longer patience was for what the client had still to take; behind that the short one holds."""
        if self._phase is RequestPhase.CLOSING and not unsent(self.transport):
            self.deadline = min(self.deadline, now + LINGER_SECONDS)
