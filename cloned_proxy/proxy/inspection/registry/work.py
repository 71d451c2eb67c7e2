"""The one thread that reads documents: beside the event loop, one document at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial


class Work:
    """One for each process. One thread, because each has memory of its own that it does not give back to the others."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")

    async def done[**P, T](self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """The result of the work. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments, **options))
