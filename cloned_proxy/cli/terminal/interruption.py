"""A signal ends a command that has containers to remove on its way out, and a second one does not disturb it there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end the command by an exception: what it has started is removed.

    The exit code is 128 and the signal's number. Further signals are ignored from then on: impatient clients send one
    after the other. A signal that whoever started us has ignored (nohup(1), a shell's `&`) stays ignored.
    """
    ending = False

    def stop(number: int, _frame: object) -> None:
        nonlocal ending
        if not ending:
            ending = True
            raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        if not ending:
            for number, handler in before.items():
                signal.signal(number, handler)
