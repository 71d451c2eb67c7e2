"""SIGTERM and Ctrl-C end a command that has containers to remove on its way out."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from cloned_proxy.cli.errors import TERMINATED


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, by an exception: what it has started is removed on the way out."""

    def stop(_number: int, _frame: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
