"""Work that cannot be taken back once begun, such as a request that the engine has received."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable


def to_its_end[T](work: Callable[[], T]) -> T:
    """Does the work in a thread of its own and returns its result, or raises what it raised.

    A signal handler's exception (SIGTERM, Ctrl-C) is raised only when the work has ended, or was never begun: in the
    main thread it would leave the work half done.
    """
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    thread = threading.Thread(target=_fulfil, args=(outcome, work), name="to-its-end", daemon=True)
    try:
        thread.start()
        return outcome.result()
    except BaseException:
        if not outcome.cancel():
            concurrent.futures.wait((outcome,))
        raise


def _fulfil[T](outcome: concurrent.futures.Future[T], work: Callable[[], T]) -> None:
    if not outcome.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001  raised by the caller, whatever it is
        outcome.set_exception(error)
    else:
        outcome.set_result(result)
