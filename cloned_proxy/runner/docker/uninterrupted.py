"""Work that cannot be taken back once begun, such as a request that the engine has received."""

from __future__ import annotations

import threading
from collections.abc import Callable


def to_its_end[T](work: Callable[[], T]) -> T:
    """Does the work in a thread of its own and returns its result, or raises what it raised.

    A signal handler's exception (SIGTERM, Ctrl-C) is raised only when the work has ended, or was never begun: in the
    main thread it would leave the work half done.
    """
    attempt = _Attempt(work)
    try:
        threading.Thread(target=attempt.make, name="to-its-end", daemon=True).start()
        attempt.ended.wait()
    except BaseException:
        if not attempt.call_off():
            attempt.ended.wait()
        raise
    return attempt.outcome()


class _Attempt[T]:
    """`concurrent.futures.Future` as far as it is needed here: its import is as long as a request to the engine."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._begun = False
        self._off = False
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.ended = threading.Event()

    def make(self) -> None:
        with self._lock:
            if self._off:
                return
            self._begun = True
        try:
            self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001  raised by the caller, whatever it is
            self._error = error
        finally:
            self.ended.set()

    def call_off(self) -> bool:
        """Whether it will never begin."""
        with self._lock:
            self._off = not self._begun
            return self._off

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result[0]
