"""What a plain response passes through under a rule that injects, so that no secret in it gets to the client."""

from __future__ import annotations

from typing import Final

from cloned_proxy.proxy.secrets.echo import CODED, HELD_BYTES, REDACTED, EchoError, EchoFilter, EchoScanner, is_encoded
from cloned_proxy.proxy.secrets.frames import EXTENSIONS
from cloned_proxy.proxy.wire.body import BodyReader, SizedBody
from cloned_proxy.proxy.wire.response import ResponseHead

_EXTENSIONS: Final = EXTENSIONS.encode("ascii")


class Screen:
    """One response."""

    __slots__ = ("_held", "_scanner", "secrets")

    def __init__(self, secrets: EchoFilter) -> None:
        self.secrets: Final = secrets
        self._scanner: Final = EchoScanner(secrets)
        self._held: list[bytes] | None = None
        """What waits for the end of a body that is short enough to be seen whole."""

    def cleared(self, head: ResponseHead) -> ResponseHead:
        """The head with every secret in it redacted."""
        lines = [self._clear_line(line) for line in head.lines]
        return head._replace(phrase=self.secrets.redacted(head.phrase), lines=lines)

    def begin(self, head: ResponseHead, body: BodyReader | None) -> ResponseHead:
        """The final head, cleared. Raises EchoError for a body that cannot be searched."""
        if body is not None:
            fields = (line.partition(b":") for line in head.lines)
            codings = [
                value.decode("latin-1").strip() for name, _, value in fields if name.lower() == b"content-encoding"
            ]
            if is_encoded(codings):
                raise EchoError(CODED)
            if isinstance(body, SizedBody) and (head.content_length or 0) <= HELD_BYTES:
                self._held = []
        return self.cleared(head)

    def switched(self, head: ResponseHead) -> ResponseHead:
        """The head of a `101`, cleared. Raises EchoError for a WebSocket whose frames could not be searched."""
        if any(line.partition(b":")[0].lower() == _EXTENSIONS for line in head.lines):
            raise EchoError(CODED)
        return self.cleared(head)

    def feed(self, piece: bytes) -> bytes:
        """What of the body may go on now. Raises EchoError."""
        return self._scanner.feed(piece)

    def rest(self) -> bytes:
        """At the end of the body."""
        return self._scanner.rest()

    def trailers(self, lines: bytes) -> bytes:
        return b"".join(self._clear_line(line) for line in lines.splitlines(keepends=True))

    def released(self, out: list[bytes], *, ended: bool) -> list[bytes]:
        """What the client gets of `out`: nothing until a body that is held has come to its end."""
        if self._held is None:
            return out
        self._held += out
        if not ended:
            return []
        out, self._held = self._held, None
        return out

    def _clear_line(self, line: bytes) -> bytes:
        name, colon, value = line.partition(b":")
        if self.secrets.finds(name):
            return b""  # a name with a mark in its place would be none
        if self.secrets.finds(value):
            return name + colon + b" " + REDACTED + b"\r\n"
        return line
