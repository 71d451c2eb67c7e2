"""The live stream, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import anyio
import structlog
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cloned_proxy.control.endpoints.decisions import Host, Tool, Verdict
from cloned_proxy.control.errors import ApiError
from cloned_proxy.control.feed import TooSlowError, wants
from cloned_proxy.control.operation import Call, Operation, Query
from cloned_proxy.control.record import DecisionFilter
from cloned_proxy.store.files.errors import StoreError

_log = structlog.get_logger(__name__)

_MAX_LISTENERS: Final = 32
_MAX_BACKLOG: Final = 1000
"""Entries that a listener which comes back is given; the rest it finds under /decisions."""
_LOOK_SECONDS: Final = 0.5
"""How often a stream asks whether its device is still paired."""
_HEARTBEAT_SECONDS: Final = 15.0
_STUCK_SECONDS: Final = 10.0
"""A listener that takes no bytes for so long is dropped."""


class StreamQuery(Query):
    tool: Tool | None = None
    host: Host | None = None
    verdict: Verdict | None = None


class _EventStream(StreamingResponse):
    """Ends when the listener is gone, stuck, or not paired any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_or_drop(message: object) -> None:
            with anyio.fail_after(_STUCK_SECONDS):
                await send(message)  # type: ignore[arg-type]

        try:
            await super().__call__(scope, receive, send_or_drop)
        except TimeoutError:
            _log.info("a listener of the stream took nothing any more, and was dropped")
        except Exception:  # noqa: BLE001  the answer has begun: it can only end, and be told here
            _log.exception("a stream failed")


async def _stream(call: Call) -> Response:
    if call.services.feed.listeners >= _MAX_LISTENERS:
        raise ApiError(503, f"{_MAX_LISTENERS} streams are open; close one", headers={"retry-after": "5"})
    query: StreamQuery = call.query
    last = call.request.headers.get("last-event-id", "")
    after = int(last) if last.isascii() and last.isdecimal() and len(last) < 19 else None  # noqa: PLR2004  64 bits
    events = _events(call, DecisionFilter(query.tool, query.host, query.verdict), after)
    return _EventStream(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _events(call: Call, wanted: DecisionFilter, after: int | None) -> AsyncIterator[bytes]:
    feed = call.services.feed
    loop = asyncio.get_running_loop()
    async with feed.listen() as now:
        yield b"retry: 1000\n\n"
        at = now
        if after is not None and after < now:
            missed = [piece for piece in await feed.backlog(after, _MAX_BACKLOG) if piece.seq <= now]
            yield b"".join(piece.text for piece in missed if wants(wanted, piece))
        spoke = looked = loop.time()
        while not feed.closed:
            try:
                pieces, at = await feed.after(at, _LOOK_SECONDS)
            except TooSlowError:
                return
            if loop.time() - looked >= _LOOK_SECONDS:
                looked = loop.time()
                if not await _still_paired(call):
                    return
            if data := b"".join(piece.text for piece in pieces if wants(wanted, piece)):
                yield data
                spoke = loop.time()
            elif loop.time() - spoke >= _HEARTBEAT_SECONDS:
                yield b": still here\n\n"
                spoke = loop.time()


async def _still_paired(call: Call) -> bool:
    if call.device is None:
        return False
    try:
        return await anyio.to_thread.run_sync(call.services.devices.valid, call.device)
    except StoreError:
        return False  # who cannot be vouched for hears nothing more


OPERATIONS: Final = (
    Operation(
        "GET",
        "/stream",
        "Decisions and changes as they happen",
        _stream,
        None,
        query=StreamQuery,
        media_type="text/event-stream",
    ),
)
