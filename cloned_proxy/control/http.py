"""The HTTP server of the control process: uvicorn on h11, with deadlines, and our headers on its own answers, too."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from cloned_proxy.control.feed import Feed
from cloned_proxy.control.guard import HEADERS

_HEAD_SECONDS: Final = 10.0
_MAX_HEAD: Final = 16_384
_MAX_CONNECTIONS: Final = 128
_STOP_SECONDS: Final = 2


class _Protocol(H11Protocol):
    """uvicorn waits for a head for ever, and its own refusals do not come through the application."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
            return
        self._deadline = self.loop.call_later(_HEAD_SECONDS, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        waiting = self.conn.their_state is h11.IDLE
        if not waiting and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        elif waiting and self._deadline is None and self.conn.trailing_data[0]:
            self._deadline = self.loop.call_later(_HEAD_SECONDS, self._too_late)

    def _too_late(self) -> None:
        self.transport.abort()

    def _should_upgrade(self) -> bool:
        return False  # no protocol but this one; the request is answered as if nobody had asked

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  as the base class has it
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = b'{"error":"bad_request","message":"this is not an HTTP request","fields":[]}'
            length = str(len(body)).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
            for event in (
                h11.Response(status_code=400, headers=[*headers, *HEADERS], reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class ControlServer(uvicorn.Server):
    """Stops within two seconds, whoever still listens to the stream."""

    def __init__(self, app: ASGIApp, feed: Feed) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                loop="none",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_STOP_SECONDS,
                h11_max_incomplete_event_size=_MAX_HEAD,
            )
        )
        self._feed = feed
        self._ending: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.end()

    def end(self) -> None:
        """Begins to stop."""
        self.should_exit = True
        self._feed.closed = True


async def serve(app: ASGIApp, feed: Feed, listening: socket.socket, lifeline: int | None) -> None:
    """Serves until SIGTERM, or until the other end of `lifeline` is gone."""
    server = ControlServer(app, feed)
    loop: Any = asyncio.get_running_loop()
    if lifeline is not None:
        loop.add_reader(lifeline, server.end)
    try:
        await server.serve(sockets=[listening])
    finally:
        if lifeline is not None:
            loop.remove_reader(lifeline)
