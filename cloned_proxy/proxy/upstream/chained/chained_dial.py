"""A connection to a target through the proxy in front: dial that, CONNECT, read its answer and not a byte more.

The answer is looked at before it is taken (MSG_PEEK), so that what follows it is still in the socket when the socket
is handed on: whoever gets it can't tell it from one that was dialled directly.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import structlog

from cloned_proxy.policy.terms.rule import Address, Host
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.upstream.chained.connect_answer import ConnectAnswer, connect_request
from cloned_proxy.proxy.upstream.chained.failure import Trouble, UpstreamProxyError, too_slow
from cloned_proxy.proxy.upstream.chained.front import UpstreamProxy, not_connected
from cloned_proxy.proxy.upstream.dial import Dial, DialError, DialOutcome, ExhaustedError

_log = structlog.get_logger(__name__)

_PIECE: Final = 65_536
_UNREACHABLE_THERE: Final = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)
"""What proxies answer when they cannot reach a target: another address of it may be reachable."""


class ChainedDial:
    """In the place of a `Dial`, with the same promises: `on_end` is called once, and not behind `cancel`."""

    __slots__ = ("_answer", "_asked", "_deadline", "_dial", "_grant", "_loop", "_on_end", "_port", "_seconds", "_sock",
                 "_targets", "_task", "_upstream")  # fmt: skip

    def __init__(
        self,
        upstream: UpstreamProxy,
        grant: Grant,
        *,
        on_end: Callable[[DialOutcome], None],
        asked: tuple[socket.socket, float] | None = None,
    ) -> None:
        """`asked`: a connection on which the first target was asked for already, and the seconds that are left."""
        self._upstream = upstream
        self._grant = grant
        self._port = grant.decision.request.port
        self._asked: socket.socket | None = None if asked is None else asked[0]
        self._seconds = upstream.bounds.connect_timeout if asked is None else asked[1]
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._targets: deque[Host | Address] = deque(upstream.targets(grant))
        self._deadline: asyncio.TimerHandle | None = None
        self._dial: Dial | None = None
        self._task: asyncio.Task[None] | None = None
        self._sock: socket.socket | None = None
        """Connected to the proxy, and asked for the target."""
        self._answer: ConnectAnswer | None = None

    def start(self) -> None:
        self._deadline = self._loop.call_later(self._seconds, self._timed_out)
        self._sock, self._asked = self._asked, None
        if self._sock is None:
            self._begin()
        else:
            self._sock.setblocking(False)
            self._targets.popleft()
            self._await_answer(self._sock)

    def cancel(self) -> None:
        """Drops everything; `on_end` will not be called."""
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if self._sock is not None:
            self._let_go().close()
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.close()

    # A connection to the proxy.

    def _begin(self) -> None:
        try:
            addresses = self._upstream.known_addresses()
        except UpstreamProxyError as error:
            self._end(error)
            return
        if addresses is None:
            self._task = self._loop.create_task(self._connect())
            return
        self._dial = Dial(addresses, self._upstream.port, seconds=self._seconds, on_end=self._connected)
        self._dial.start()

    async def _connect(self) -> None:
        try:
            outcome: DialOutcome = await self._upstream.connect(self._grant, tunnel=True)
        except (DialError, ExhaustedError) as error:
            outcome = error
        self._task = None
        self._connected(outcome)

    def _connected(self, outcome: DialOutcome) -> None:
        self._dial = None
        if not isinstance(outcome, socket.socket):
            self._end(not_connected(outcome) if isinstance(outcome, DialError) else outcome)
            return
        self._sock = outcome
        try:
            self._ask(outcome)
        except UpstreamProxyError as error:
            self._end(error)
        except OSError:
            self._end(UpstreamProxyError(Trouble.UNREACHABLE, "the upstream proxy broke off"))

    # CONNECT, and the answer.

    def _ask(self, sock: socket.socket) -> None:
        request = connect_request(self._targets.popleft(), self._port, self._upstream.credential())
        # The first bytes of a connection: less than any send buffer, so that they go at once or never.
        if sock.send(request) != len(request):
            raise UpstreamProxyError(Trouble.UNREACHABLE, "the upstream proxy takes no request")
        self._await_answer(sock)

    def _await_answer(self, sock: socket.socket) -> None:
        bounds = self._upstream.bounds
        self._answer = ConnectAnswer(
            max_bytes=bounds.max_head_bytes,
            max_fields=bounds.max_head_fields,
            server_first=self._upstream.server_speaks_first(self._grant),
        )
        self._loop.add_reader(sock, self._readable)

    def _readable(self) -> None:
        sock, answer = self._sock, self._answer
        if sock is None or answer is None:
            return
        try:
            data = sock.recv(_PIECE, socket.MSG_PEEK)
            if not data:
                raise ConnectionResetError  # noqa: TRY301  an end here is no better than a reset
            used = answer.feed(data)
            _take(sock, used)
        except BlockingIOError:
            return
        except OSError:
            self._end(UpstreamProxyError(Trouble.UNREACHABLE, "the upstream proxy broke off"))
        except UpstreamProxyError as error:
            self._refused(error)
        except Exception:  # noqa: BLE001  logged; whatever it was, a socket that is never read would ring for ever
            _log.exception("the answer of the upstream proxy could not be looked at")
            self._end(UpstreamProxyError(Trouble.MALFORMED, "the upstream proxy sent what cannot be read"))
        else:
            if answer.open:
                self._end(self._let_go())

    def _refused(self, error: UpstreamProxyError) -> None:
        if error.status in _UNREACHABLE_THERE and self._targets:
            self._let_go().close()
            self._begin()
        else:
            self._end(error)

    # The ends.

    def _timed_out(self) -> None:
        self._end(too_slow())

    def _let_go(self) -> socket.socket:
        sock, self._sock = self._sock, None
        if sock is None:
            raise ValueError("no connection to let go of")
        self._loop.remove_reader(sock)
        return sock

    def _end(self, outcome: DialOutcome) -> None:
        self.cancel()
        self._on_end(outcome)


def _take(sock: socket.socket, count: int) -> None:
    """Reads `count` bytes that were seen to be there."""
    while count:
        count -= len(sock.recv(count))
