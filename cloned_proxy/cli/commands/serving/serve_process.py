"""What `serve` asks of the operating system: open files, an event loop, signals."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from cloned_proxy.proxy.serving.terminal import Terminal

_YOUNG_OBJECTS: Final = 50_000
"""New container objects before the collector looks: some thousand tunnels' worth."""


def raise_open_files() -> int:
    """Raises the soft limit of open files to the hard one; returns what is in force. Each tunnel takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop where that is installed: two to three times the set-ups of the standard one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@contextmanager
def signals_handled(*, stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGTERM and SIGINT call `stop` (once each time), SIGHUP calls `reload`, on the running loop.

    SIGHUP from a terminal that was closed calls `stop`: nobody would know what still serves there.
    """
    loop, terminal = asyncio.get_running_loop(), Terminal()
    handlers = {
        signal.SIGTERM: stop,
        signal.SIGINT: stop,
        signal.SIGHUP: lambda: stop() if terminal.hung_up() else reload(),
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def tame_garbage_collector() -> None:
    """Called once all modules are loaded: they are never garbage, and need not be looked through with each tunnel."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
