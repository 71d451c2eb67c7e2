"""A plain request that the native plane has begun to serve, and that goes on in Python."""

from __future__ import annotations

import enum
import socket
from dataclasses import dataclass
from typing import NamedTuple

from cloned_proxy.proxy.enforce.answers import UpstreamFailure
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.upstream.dial import DialError, ExhaustedError


class BodyStage(enum.IntEnum):
    """Where the body of a request stands: as `abi/handed.rs` has it."""

    COMPLETE = 0
    SIZED = 1
    AT_CHUNK = 2
    """The size of a chunk comes next."""
    IN_CHUNK = 3
    """Data of a chunk, or the CRLF behind it."""


class BodyLeft(NamedTuple):
    """What is to come of it."""

    stage: BodyStage
    left: int
    """Bytes, of the body or of the chunk."""
    extras: int
    """Bytes of chunk padding so far."""


@dataclass(frozen=True, slots=True)
class Underway:
    """Granted, and nothing of the final response was told to the client."""

    grant: Grant
    head: bytes
    unread: bytes
    """What the client has sent behind the head, and nobody has taken."""
    body: BodyLeft
    upstream: socket.socket | None
    """Connected, with what was taken of the request on its way."""
    unsent: bytes
    """The part of that which the kernel has not taken."""
    answer: bytes
    """What the upstream has sent, and nobody has read."""
    started: bool
    """An interim response was passed on."""
    failure: DialError | ExhaustedError | UpstreamFailure | None = None
    """Why there is no upstream. None without one: it was not dialled yet."""
