"""WebSocket frames that an upstream sends (RFC 6455, section 5), searched for injected secrets: pure.

What the client sends goes on as it is. The frames of the upstream are read strictly, searched across their borders and
those of messages, and written anew: a part of a frame that may be the beginning of a secret waits for what follows,
while the rest of it and every control frame go on. Without extensions, which the offer of the client has lost on its
way, an intermediary may change how a message is fragmented (section 5.4).
"""

from __future__ import annotations

from typing import Final

from cloned_proxy.proxy.secrets.echo import ECHOED, REPEATED, EchoError, EchoFilter, EchoScanner
from cloned_proxy.proxy.transport.relay_guard import TurnedAwayError

EXTENSIONS: Final = "sec-websocket-extensions"
"""The field by which the two ends agree on compression, and on other frames than those that are read here."""

_FIN: Final = 0x80
_RSV: Final = 0x70
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_CONTINUATION: Final = 0x0
_DATA: Final = frozenset({0x1, 0x2})
_CLOSE: Final = 0x8
_CONTROL: Final = frozenset({_CLOSE, 0x9, 0xA})
_MAX_CONTROL: Final = 125
_SIZE_16: Final = 126
_SIZE_64: Final = 127
_WHOLE: Final = 65_536
"""Bytes of a frame that is waited for until it is whole, so that clients see it as it was sent; longer ones flow."""

_PROTOCOL_ERROR: Final = 1002
_POLICY_VIOLATION: Final = 1008
_ECHOED: Final = "secret_echoed: the server repeats a secret that the proxy injected"


class FrameError(ValueError):
    """Bytes that are no frame which could be searched. The message says why and is for the log only."""


class FrameScreen:
    """The upstream's side of one WebSocket."""

    __slots__ = ("_buffer", "_filter", "_fin", "_in_frame", "_in_message", "_left", "_opcode", "_scanner")

    def __init__(self, secrets: EchoFilter) -> None:
        self._filter: Final = secrets
        self._scanner: Final = EchoScanner(secrets)
        self._buffer = bytearray()
        self._in_frame = False
        self._in_message = False
        self._fin = False
        self._left = 0
        """Bytes of the frame at hand that have not been read."""
        self._opcode = _CONTINUATION
        """Opcode of the next frame that is written for the message at hand."""

    def feed(self, data: bytes, out: list[bytes]) -> None:
        """Appends the frames that may go on now. Raises EchoError and FrameError; what is in `out` then still may."""
        self._buffer += data
        while self._read_payload(out) if self._in_frame else self._read_header(out):
            pass

    def _read_header(self, out: list[bytes]) -> bool:
        """Whether a frame has begun, or a control frame has passed."""
        buffer = self._buffer
        if len(buffer) < 2:  # noqa: PLR2004  the shortest header
            return False
        first, size = buffer[0], buffer[1]
        _check(first, size)
        at = 2 + {_SIZE_16: 2, _SIZE_64: 8}.get(size, 0)
        if len(buffer) < at:
            return False
        length = int.from_bytes(buffer[2:at]) if at > 2 else size  # noqa: PLR2004
        if length >> 63:
            raise FrameError("a length of 64 bits whose first is set (section 5.2)")
        opcode = first & _OPCODE
        if len(buffer) < at + length <= at + _WHOLE:
            return False
        if opcode in _CONTROL:
            self._pass_control(opcode, bytes(buffer[at : at + length]), out)
            del buffer[: at + length]
            return True
        if (opcode == _CONTINUATION) is not self._in_message:
            raise FrameError("a fragment of no message, or a message inside another one (section 5.4)")
        del buffer[:at]
        self._opcode = self._opcode if self._in_message else opcode
        self._in_frame = self._in_message = True
        self._fin, self._left = bool(first & _FIN), length
        return True

    def _pass_control(self, opcode: int, payload: bytes, out: list[bytes]) -> None:
        if self._filter.finds(payload):
            raise EchoError(REPEATED)
        out.append(_frame(_FIN | opcode, payload))

    def _read_payload(self, out: list[bytes]) -> bool:
        """Whether the frame at hand has been read to its end."""
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: self._left]
        self._left -= len(piece)
        cleared = self._scanner.feed(piece)
        if self._left:
            self._write(cleared, out)
            return False
        self._in_frame = False
        if self._fin:
            self._in_message = False
            out.append(_frame(_FIN | self._opcode, cleared + self._scanner.rest()))
        else:
            self._write(cleared, out)
        return True

    def _write(self, cleared: bytes, out: list[bytes]) -> None:
        if cleared:
            out.append(_frame(self._opcode, cleared))
            self._opcode = _CONTINUATION


class EchoGuard:
    """A `FrameScreen` as the guard of a relay. It ends a WebSocket with a close frame that says why."""

    done: Final = False
    holds: Final = False

    def __init__(self, secrets: EchoFilter) -> None:
        self._screen = FrameScreen(secrets)

    def from_client(self, data: bytes) -> bytes:
        return data

    def from_server(self, data: bytes) -> bytes:
        """Raises TurnedAwayError, whose last words begin with what came before the fault."""
        out: list[bytes] = []
        try:
            self._screen.feed(data, out)
        except EchoError:
            out.append(close_frame(_POLICY_VIOLATION, _ECHOED))
            raise TurnedAwayError(ECHOED, b"".join(out)) from None
        except FrameError as error:
            out.append(close_frame(_PROTOCOL_ERROR, f"the proxy cannot read what the server sends: {error}"))
            raise TurnedAwayError("upstream_error:response", b"".join(out)) from None
        return b"".join(out)

    def release(self) -> bytes:
        return b""


def close_frame(code: int, reason: str) -> bytes:
    """Section 5.5.1; the reason is ASCII, and cut to what a control frame holds."""
    return _frame(_FIN | _CLOSE, (code.to_bytes(2) + reason.encode("ascii"))[:_MAX_CONTROL])


def _check(first: int, size: int) -> None:
    """The first two bytes of a frame. Raises FrameError."""
    opcode = first & _OPCODE
    if first & _RSV:
        raise FrameError("compressed, or of an extension that was not offered (section 5.2)")
    if size & _MASKED:
        raise FrameError("a masked frame of a server (section 5.1)")
    if opcode in _CONTROL:
        if size > _MAX_CONTROL or not first & _FIN:
            raise FrameError("a control frame that is long or fragmented (section 5.5)")
    elif opcode not in _DATA and opcode != _CONTINUATION:
        raise FrameError("an opcode that is reserved (section 5.2)")


def _frame(first: int, payload: bytes) -> bytes:
    """Unmasked, its length in the shortest form."""
    length = len(payload)
    if length <= _MAX_CONTROL:
        return bytes((first, length)) + payload
    if length < 1 << 16:
        return bytes((first, _SIZE_16)) + length.to_bytes(2) + payload
    return bytes((first, _SIZE_64)) + length.to_bytes(8) + payload
