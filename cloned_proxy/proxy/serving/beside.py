"""A process beside this one, kept alive on its event loop: started, replaced when it dies, ended with it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import structlog

from cloned_proxy.store.files.errors import StoreError

_log = structlog.get_logger(__name__)

_FIRST_DELAY: Final = 0.25
_LONGEST_DELAY: Final = 30.0
_STEADY_SECONDS: Final = 5.0
"""One that lived so long is replaced at once when it dies; one that dies sooner, again and again, ever later."""
_STOP_SECONDS: Final = 5.0


def python_module(name: str) -> list[str]:
    """The words that run one of our modules as a program."""
    # -P: what lies in the directory in which somebody typed `serve` is not ours to import.
    return [sys.executable, "-P", "-m", name]


async def keep_running(
    what: str, command: Callable[[int], Sequence[str]], *, environ: Mapping[str, str], descriptors: Sequence[int] = ()
) -> None:
    """Runs the process and replaces it when it dies; until cancelled, and then it is gone.

    `command` is given the lifeline: the reading end of a pipe whose other end only this process has. What goes wrong
    in here is a line in the log: the proxy does not depend on it.
    """
    lifeline, alive = os.pipe()
    try:
        quick = 0
        while True:
            began = time.monotonic()
            await _run_once(what, partial(command, lifeline), environ, (*descriptors, lifeline))
            if time.monotonic() - began >= _STEADY_SECONDS:
                quick = 0
            await asyncio.sleep(min(_FIRST_DELAY * 2**quick, _LONGEST_DELAY) if quick else 0)
            quick += 1
    finally:
        os.close(alive)
        os.close(lifeline)


async def _run_once(
    what: str, command: Callable[[], Sequence[str]], environ: Mapping[str, str], descriptors: Sequence[int]
) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command(),
            stdin=asyncio.subprocess.DEVNULL,
            env=dict(environ),
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C in the terminal is for `serve`, which ends this one
        )
    except (OSError, StoreError) as error:
        _log.error(f"the {what} process could not be started; tried again", reason=str(error))
        return
    try:
        code = await process.wait()
        _log.error(f"the {what} process died and is replaced", exit=code)
    finally:
        if process.returncode is None:
            await end_process(process)


async def end_process(process: asyncio.subprocess.Process, patience: float = _STOP_SECONDS) -> None:
    """Tells it to end, and kills it when it has not done so after `patience` seconds."""
    process.terminate()
    try:
        async with asyncio.timeout(patience):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
