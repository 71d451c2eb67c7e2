"""A response on its way to the client: read strictly from what the upstream sends, framed anew for who asked."""

from __future__ import annotations

from typing import Final

from cloned_proxy.proxy.http1.screen import Screen
from cloned_proxy.proxy.secrets.echo import EchoFilter
from cloned_proxy.proxy.upstream.chained.traces import without_traces
from cloned_proxy.proxy.wire.body import BodyReader, Buffer, ChunkedBody, SizedBody, UnsizedBody, take_head
from cloned_proxy.proxy.wire.fields import asks_for_websocket
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.proxy.wire.response import (
    FIRST_FINAL,
    SWITCHING_PROTOCOLS,
    ResponseError,
    ResponseHead,
    parse_response,
    trailers_of,
)
from cloned_proxy.store.settings.config import ProxySettings

LAST_CHUNK: Final = b"0\r\n"


class Incoming:
    """The response to one request. What goes to the client is appended to the caller's `out`, piece by piece."""

    __slots__ = ("_body", "_buffer", "_rechunks", "_request", "_screen", "_settings", "chained", "head", "started",
                 "told")  # fmt: skip

    def __init__(self, request: Head, settings: ProxySettings) -> None:
        self._request = request
        self._settings = settings
        self._buffer = Buffer()
        """What the upstream sent and nobody has read yet."""
        self._body: BodyReader | None = None
        self._rechunks = False
        self._screen: Screen | None = None
        self.chained = False
        """Whether the response comes from the proxy in front, which may also speak in its own name."""
        self.head: ResponseHead | None = None
        """The final one."""
        self.started = False
        """Whether anything of the upstream's answer, an interim response included, has been read."""
        self.told = False
        """Whether a part of the final response is for the client to see."""

    def look_for(self, secrets: EchoFilter | None) -> None:
        """No secret in the response will get to the client: `read_head`, `begin` and `read_body` raise EchoError."""
        self._screen = Screen(secrets) if secrets is not None else None

    @property
    def secrets(self) -> EchoFilter | None:
        """What nothing of the upstream's may tell the client."""
        return self._screen.secrets if self._screen is not None else None

    @property
    def untouched(self) -> bool:
        """Whether the upstream has sent nothing at all."""
        return not self.started and self.head is None and not len(self._buffer)

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the upstream's connection is the end of the body (RFC 9112, section 6.3, rule 8)."""
        return isinstance(self._body, UnsizedBody)

    @property
    def leaves_upstream_clean(self) -> bool:
        """Whether the connection that the complete response came on can carry another."""
        head = self.head
        if head is None or not head.keep_alive or len(self._buffer):
            return False
        # Chunks announced and none allowed (an answer to HEAD): whether some follow is anybody's guess.
        return not (head.chunked and self._body is None)

    def add(self, data: bytes, out: list[bytes]) -> None:
        """Takes in what the upstream sent; bulk of a body goes straight to `out`."""
        body = self._body
        if body is not None and self._screen is None and not len(self._buffer) and body.pass_by(data):
            out.append(chunk(data) if self._rechunks else data)
        else:
            self._buffer += data

    def take_rest(self) -> bytes:
        """What came behind a `101`: the first bytes of the other protocol."""
        return self._buffer.take(len(self._buffer))

    def read_head(self, out: list[bytes]) -> ResponseHead | None:
        """The final head, or a wanted `101`; None when more is needed.

        Raises ResponseError, OversizeError and UpstreamProxyError.

        Interim heads go on as they come (RFC 9110, section 15.2).
        """
        settings, request = self._settings, self._request
        while (data := take_head(self._buffer, settings.max_head_bytes)) is not None:
            response = parse_response(data, max_fields=settings.max_head_fields)
            if self.chained:
                response = without_traces(response)
            if response.status >= FIRST_FINAL:
                return response
            self.started = True
            if response.status == SWITCHING_PROTOCOLS:
                if response.upgrade != b"websocket" or not asks_for_websocket(request):
                    raise ResponseError("101 for an upgrade that nobody asked for (RFC 9110, section 15.2.2)")
                return response if self._screen is None else self._screen.switched(response)
            if self._screen is not None:
                response = self._screen.cleared(response)
            if request.minor:
                out.append(response.encode(None, minor=1, close=False))
        return None

    def begin(self, head: ResponseHead, out: list[bytes], *, close: bool) -> None:
        """Passes the final head on; `close` tells the client that its connection ends behind the response."""
        self.head = head
        minor = self._request.minor
        self._body = body = head.body(self._request.method)
        self._rechunks = body is not None and not isinstance(body, SizedBody) and minor == 1
        self.told = self._screen is None
        if self._screen is not None:
            head = self._screen.begin(head, body)
        out.append(head.encode(body, minor=minor, close=close))

    def read_body(self, out: list[bytes]) -> bool:
        """Whether the response is complete. Raises BodyError."""
        body, screen = self._body, self._screen
        if body is None:
            return True
        while piece := body.read(self._buffer):
            self._pass(piece if screen is None else screen.feed(piece), out)
        if piece is not None:
            return False
        if screen is not None:
            self._pass(screen.rest(), out)
        if isinstance(body, ChunkedBody) and self._rechunks:
            trailers = trailers_of(body)
            out += (LAST_CHUNK, trailers if screen is None else screen.trailers(trailers), b"\r\n")
        return True

    def _pass(self, piece: bytes, out: list[bytes]) -> None:
        if piece:
            out.append(chunk(piece) if self._rechunks else piece)

    def released(self, out: list[bytes], *, ended: bool) -> list[bytes]:
        """What of `out` the client gets now: nothing while the whole body has to be seen first."""
        if self._screen is not None:
            out = self._screen.released(out, ended=ended)
            self.told = self.told or (self.head is not None and bool(out))
        return out

    def end_with_connection(self) -> list[bytes]:
        """What the client gets at the end of a body that `ends_with_connection`."""
        out: list[bytes] = []
        if self._screen is not None:
            self._pass(self._screen.rest(), out)
        return [*out, LAST_CHUNK, b"\r\n"] if self._rechunks else out


def chunk(piece: bytes) -> bytes:
    """RFC 9112, section 7.1."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)
