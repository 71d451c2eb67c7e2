"""The three standard streams of this program, as those of what runs in the sandbox."""

from __future__ import annotations

import os
import sys
from typing import Final, Self

from cloned_proxy.runner.docker.stream import Attached, OutputStream

_STDIN: Final = 0
_CHUNK: Final = 65_536


class StandardStreams:
    """Has the methods of `HostTerminal`; nothing here needs to be given back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def feed(self, stream: Attached) -> None:
        """Sends what comes on stdin, and its end."""
        while data := os.read(_STDIN, _CHUNK):
            stream.write(data)
        stream.end_input()

    def show(self, kind: OutputStream, piece: bytes) -> None:
        """Raises OSError when nobody reads."""
        target = sys.stderr if kind is OutputStream.STDERR else sys.stdout
        target.buffer.write(piece)
        target.buffer.flush()
