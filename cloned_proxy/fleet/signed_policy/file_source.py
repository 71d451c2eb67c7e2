"""The policy from a file that holds an envelope: a ConfigMap's, or one in a git checkout."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from cloned_proxy.fleet.signed.envelope import MAX_BYTES
from cloned_proxy.fleet.signed.pause import Pause
from cloned_proxy.fleet.signed_policy.source import Taker
from cloned_proxy.store.files.directory_watch import DirectoryWatch
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import Signature, read_regular_file, signature_of

_log = structlog.get_logger(__name__)

_DEBOUNCE_SECONDS: Final = 0.02
_POLL_SECONDS: Final = 1.0


class FileSource:
    """Follows the file through replaced links and directories, as the live policy of one machine does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._dirty = asyncio.Event()
        self._watch = DirectoryWatch(path.parent, self._dirty)
        self._seen: Signature | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._taker: Taker | None = None
        self._pause = Pause()
        self.connected = False
        self.problem = ""

    async def start(self, taker: Taker) -> None:
        self._taker = taker
        self._watch.refresh(asyncio.get_running_loop())
        await self.read()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._poll())]

    async def read(self) -> None:
        if self._taker is None:
            return
        self._seen = signature_of(self._path)
        try:
            raw = await asyncio.to_thread(
                read_regular_file, self._path, limit=MAX_BYTES, what="envelope of the fleet's policy"
            )
        except StoreError as error:
            self.connected, self.problem = False, str(error)
            return
        self.connected = True
        began = self._pause.now()
        taken = await self._taker.offer(raw)
        self.problem = "" if taken else f"{self._path}: not accepted; see the log"
        if not taken:
            self._pause.after(began)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._watch.stop)

    async def _follow(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_DEBOUNCE_SECONDS)
            self._dirty.clear()
            await self._pause.over()
            try:
                self._watch.refresh(asyncio.get_running_loop())
                await self.read()
            except Exception:  # noqa: BLE001  what one change broke must not end the following of the next
                _log.exception("a change of the fleet's policy could not be followed to its end")

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if self._watch.outdated or signature_of(self._path) != self._seen:
                self._dirty.set()
            elif self.connected and not self.problem and self._taker is not None:
                self._taker.heard()  # a file that is there and unchanged is as new as its file system can say
