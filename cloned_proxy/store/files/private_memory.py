"""Memory that holds secrets: no core dump of it, and no debugger of the same user in it."""

from __future__ import annotations

import contextlib
import ctypes
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # prctl.h


def keep_memory_private() -> None:
    """No core dump of this process and of those it forks: secrets are in their memory.

    The limit alone does not bind a handler that core dumps are piped to (core(5)). Not dumpable means as well that
    other programs of the same user cannot read the memory through /proc or a debugger.
    """
    with contextlib.suppress(OSError, ValueError):  # forbidden where the service manager has set it already
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
