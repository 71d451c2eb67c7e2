"""The identification strings with which both sides of an SSH connection begin (RFC 4253, section 4.2): pure.

A client sends its own and nothing before it; a server may send other lines first. Either may be the first to speak.
"""

from __future__ import annotations

import re
from typing import Final

MAX_LINE: Final = 255
"""Bytes of an identification string, CR LF included (RFC 4253, section 4.2)."""
MAX_PREAMBLE: Final = 8_192
"""Bytes of a server's lines before it."""
MAX_WAITING: Final = 65_536
"""Bytes of a client behind its own, until the server's has come: more than a key exchange begins with (section 6.1)."""

# Section 4.2 forbids "-" in the software version; GitHub's servers send one, and clients take it. Section 5.1: 1.99 is
# a server that speaks version 1 as well. Old implementations end the line with LF alone.
_IDENTIFICATION: Final = re.compile(rb"SSH-(?:2\.0|1\.99)-[!-~][ -~]*\r?\n")
_PREFIX: Final = b"SSH-"


class NotSshError(ValueError):
    """What came can be no SSH connection."""


class Identification:
    """One side's first bytes, however they were cut."""

    __slots__ = ("_at", "_seen", "_server", "complete")

    def __init__(self, *, server: bool) -> None:
        self._server = server
        self._seen = b""
        """Bytes of the line at hand; for a server, of the lines before it too."""
        self._at = 0
        """Where in it the line at hand begins: no line is read twice, however many pieces come."""
        self.complete = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """What passes now, and what came behind it: both are b"" until the string is complete. Raises NotSshError."""
        seen = self._seen = self._seen + data
        at = self._at
        while True:
            end = seen.find(b"\n", at) + 1
            line = seen[at : end or None]
            if self._is_other_line(line):
                if end == 0 or end > MAX_PREAMBLE:
                    break
                at = self._at = end
                continue
            if not end:
                _check_beginning(line)
                return b"", b""
            if len(line) > MAX_LINE or _IDENTIFICATION.fullmatch(line) is None:
                raise NotSshError
            self.complete = True
            self._seen = b""
            return seen[:end], seen[end:]
        if len(seen) > MAX_PREAMBLE:
            raise NotSshError
        return b"", b""

    def _is_other_line(self, line: bytes) -> bool:
        """Whether a line, or what there is of it, is one that a server may send first."""
        return self._server and not (line.startswith(_PREFIX) or _PREFIX.startswith(line))

    @property
    def waiting(self) -> bytes:
        """What has come of it."""
        return self._seen


def _check_beginning(line: bytes) -> None:
    """Raises NotSshError for bytes without a line end that no identification string begins with."""
    if len(line) >= MAX_LINE or _IDENTIFICATION.fullmatch(_completed(line)) is None:
        raise NotSshError


def _completed(line: bytes) -> bytes:
    """A beginning with the least that makes a whole line of it."""
    text = line.removesuffix(b"\r")
    for version in (b"SSH-2.0-x", b"SSH-1.99-x"):
        if len(text) < len(version) and version.startswith(text):
            return version + b"\n"
    return text + b"\n"
