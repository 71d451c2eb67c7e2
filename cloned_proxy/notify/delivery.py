"""From the log to people: one task that looks, one for each channel that delivers, and bounded queues between them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import structlog

from cloned_proxy.notify.desktop import DesktopError
from cloned_proxy.notify.notice import Notice
from cloned_proxy.notify.webhook import WebhookError
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.telemetry.events import NotifyEvent

_log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 0.5
QUEUE: Final = 100
"""Notices of one channel that wait; with a dead receiver the rest is dropped, and put on record as that."""

type Channel = Callable[[Notice], Awaitable[None]]


class NoticeSource(Protocol):
    """`news.NewsReader`."""

    def look(self) -> list[Notice]: ...


class Delivery:
    """`record` puts what failed into the audit log; it may block, and is called in a thread."""

    def __init__(
        self,
        source: NoticeSource,
        channels: Mapping[str, Channel],
        record: Callable[[NotifyEvent], None],
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._channels = channels
        self._record = record
        self._clock = clock
        self._queues = {name: asyncio.Queue[Notice](QUEUE) for name in channels}
        self._dropped = dict.fromkeys(channels, 0)

    async def run(self) -> None:
        """Runs until it is cancelled.

        A failure becomes a line in the log and an entry on record, and never ends the task.
        """
        async with asyncio.TaskGroup() as tasks:
            for name, channel in self._channels.items():
                tasks.create_task(self._deliver(name, channel))
            tasks.create_task(self._look())

    async def _look(self) -> None:
        failed = False
        while True:
            try:
                for notice in await asyncio.to_thread(self._source.look):
                    self._put(notice)
                failed = False
            except StoreError as error:
                if not failed:
                    _log.warning("the log cannot be read, so nobody is notified; tried again", reason=str(error))
                failed = True
            await asyncio.sleep(LOOK_SECONDS)

    def _put(self, notice: Notice) -> None:
        for name, queue in self._queues.items():
            try:
                queue.put_nowait(notice)
            except asyncio.QueueFull:
                self._dropped[name] += 1

    async def _deliver(self, name: str, channel: Channel) -> None:
        queue = self._queues[name]
        while True:
            notice = await queue.get()
            try:
                await channel(notice)
            except (DesktopError, WebhookError) as error:
                await self._failed(name, notice, str(error))
            except Exception as error:  # noqa: BLE001  the next one may well arrive
                _log.exception("a notification failed unexpectedly", channel=name)
                await self._failed(name, notice, f"{type(error).__name__}; see the log of serve")

    async def _failed(self, name: str, notice: Notice, reason: str) -> None:
        dropped, self._dropped[name] = self._dropped[name], 0
        _log.warning("a notification did not arrive", channel=name, about=notice.id, reason=reason, dropped=dropped)
        event = NotifyEvent(self._clock(), name, notice.occasion, notice.id, reason, dropped)
        try:
            await asyncio.to_thread(self._record, event)
        except StoreError as error:
            _log.warning("that could not be put on record", reason=str(error))
