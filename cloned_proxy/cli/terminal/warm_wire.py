"""What a typed `exec` and the process that runs it say to each other: unix(7) messages, the first with descriptors.

Imported by every `exec` before anything else: it costs next to nothing.
"""

from __future__ import annotations

import os
import sys

from cloned_proxy import __file__ as _package
from cloned_proxy import __version__

SOCKET = ("run", "exec.sock")
"""Below the workspace."""
MOST_BYTES = 131_072
"""The longest request, in bytes. A longer one is run by the process that was typed."""
DESCRIPTORS = 4
"""Standard input, output and error, and the directory in which the command was typed."""

HELLO = b"hello"
"""First, from whoever takes requests: what lies in the queue of a process that is stopped keeps its descriptors open,
and whoever waits for the end of the command's output would wait for that process."""
BEGUN = b"begun"
"""With a descriptor (pidfd_open(2)) of the process that would run it."""
GO = b"go"
"""The answer to that, before which nothing runs: whoever typed the command may have given up waiting, and run it."""
DECLINED = b"declined"
"""Nothing was done: the typed process has to do it."""
ENDED = b"ended "
"""Tells that the command has ended; the exit code follows."""

_NAMESPACES = ("mnt", "net", "pid", "user")
_BETWEEN = b"\0"


def here() -> bytes:
    """The installation, and what its processes see of the machine; both ends must be the same."""
    seen = [os.stat(f"/proc/self/ns/{name}").st_ino for name in _NAMESPACES]  # noqa: PTH116  see above: no pathlib
    root = os.stat("/")  # noqa: PTH116
    # The engine answers whoever is in its group: a command may do no more than the process that was typed.
    groups = (os.getegid(), *sorted(os.getgroups()))
    program = (__version__, _package, sys.executable, os.environ.get("PYTHONPATH", ""))
    return repr((program, groups, seen, root.st_dev, root.st_ino)).encode(errors="surrogateescape")


class WarmRequest:
    """One command as it was typed, with what it inherits from whoever typed it."""

    def __init__(self, *, mark: bytes, umask: int, ignored: list[int], cwd: str, argv: list[str]) -> None:
        self.mark = mark
        self.umask = umask
        self.ignored = ignored
        """Signals."""
        self.cwd = cwd
        self.argv = argv
        self.environment: list[bytes] = []
        """NAME=VALUE each."""

    def encode(self) -> bytes:
        fields = [self.mark, b"%d" % self.umask, b"%d" % len(self.ignored), b"%d" % len(self.argv)]
        fields += [b"%d" % number for number in self.ignored]
        fields += [os.fsencode(text) for text in (self.cwd, *self.argv)]
        return _BETWEEN.join([*fields, *self.environment])

    @classmethod
    def decode(cls, data: bytes) -> WarmRequest:
        """Raises ValueError."""
        mark, umask, signals, words, *rest = data.split(_BETWEEN)
        behind = int(signals) + 1 + int(words)
        if len(rest) < behind or int(words) < 1:
            raise ValueError("a request that is cut short")
        ignored, (cwd, *argv) = rest[: int(signals)], rest[int(signals) : behind]
        found = cls(
            mark=mark,
            umask=int(umask),
            ignored=[int(number) for number in ignored],
            cwd=os.fsdecode(cwd),
            argv=[os.fsdecode(word) for word in argv],
        )
        found.environment = rest[behind:]
        return found

    @property
    def kind(self) -> tuple[str, ...]:
        """Alike for two requests that differ in their commands alone."""
        options = self.argv[: self.argv.index("--")] if "--" in self.argv else self.argv
        return (self.cwd, *options)
