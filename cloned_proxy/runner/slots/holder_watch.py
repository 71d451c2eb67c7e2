"""A run whose slot loses its holder ends: what held the namespace is gone, and with it the promise of a sealed slot."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

from cloned_proxy.runner.values.errors import SandboxError, SlotError

_LOOK_SECONDS: Final = 0.5


@contextlib.contextmanager
def while_held(alive: Callable[[], bool], end: Callable[[], None]) -> Iterator[None]:
    """Calls `end` when the holder is not `alive` any more. Raises SlotError then, whatever else came of it."""
    ending, lost = threading.Event(), threading.Event()

    def watch() -> None:
        while not ending.wait(_LOOK_SECONDS):
            if not alive():
                lost.set()
                with contextlib.suppress(SandboxError):
                    end()
                return

    watcher = threading.Thread(target=watch, name="holder-watch", daemon=True)
    watcher.start()
    try:
        yield
    except SandboxError as error:
        if lost.is_set():
            raise _problem() from error
        raise
    finally:
        ending.set()
        watcher.join()
    if lost.is_set():
        raise _problem()


def _problem() -> SlotError:
    return SlotError("the holder of the slot (cloned_slot_…) was ended from outside; the tool was killed: run it again")
