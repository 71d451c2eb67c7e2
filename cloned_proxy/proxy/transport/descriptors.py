"""Whether the process has descriptors for one client more, which needs others besides its own: of an upstream, say."""

from __future__ import annotations

import os
import resource
from typing import Final

_RESERVE: Final = 64
"""Descriptors that are kept for those who have been accepted; an eighth of all where a process may have few."""


def is_among_the_last(fd: int) -> bool:
    """Whether this one, the newest, is one of those that are kept.

    The lowest that is free is given out (POSIX.1-2024, XSH 2.6): all below it are in use.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most != resource.RLIM_INFINITY and fd >= most - min(_RESERVE, most // 8)


def are_scarce(fd: int) -> bool:
    """Whether nobody should be accepted now. `fd` is any that is open."""
    try:
        newest = os.dup(fd)
    except OSError:
        return True
    os.close(newest)
    return is_among_the_last(newest)
