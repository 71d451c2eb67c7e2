"""The policy file of one machine that narrows what its fleet allows (`fleet: {local: narrow}`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from cloned_proxy.fleet.signed.errors import FleetError
from cloned_proxy.policy.model.model import Policy
from cloned_proxy.policy.reading.narrow import narrowed
from cloned_proxy.store.policyfile.live_policy import LivePolicy, LoadError


class NarrowingFile:
    """The narrowing file, followed from `start` to `stop`; without one, and with `local: none`, nothing is narrowed."""

    def __init__(self, live: LivePolicy | None) -> None:
        self._live: Final = live

    async def start(self, *, on_change: Callable[[], None], on_reject: Callable[[LoadError], None]) -> None:
        """Reads the file and follows it. Raises what is wrong with a file that is there."""
        live = self._live
        if live is None:
            return
        # A link to nowhere is a mistake, not the absence of a policy.
        there = await asyncio.to_thread(os.path.lexists, live.path)
        await live.start()
        if there and live.current is None:
            await live.stop()
            raise live.last_error or FleetError(f"{live.path}: no policy was loaded; see the log")
        live.on_change = lambda _policy: on_change()
        live.on_reject = on_reject

    async def stop(self) -> None:
        if self._live is not None:
            await self._live.stop()

    async def reload(self) -> None:
        if self._live is not None:
            await self._live.reload()

    def problems(self) -> tuple[str, ...]:
        """Why the file as it is now does not narrow; empty when it does, and where there is none and never was."""
        live = self._live
        if live is None or live.last_error is None:
            return ()
        if live.current is None and not os.path.lexists(live.path):
            return ()
        return tuple(str(live.last_error).splitlines())

    def narrowed(self, fleets: Policy) -> Policy:
        """What is decided by where the fleet's policy is this one."""
        local = self._live.current if self._live is not None else None
        return fleets if local is None else narrowed(fleets, local)
