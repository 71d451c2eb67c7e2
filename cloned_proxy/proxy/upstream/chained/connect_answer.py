"""CONNECT to the proxy in front, and its answer, read strictly (RFC 9110, section 9.3.6; RFC 9112): pure.

RFC 9110 has a client ignore Content-Length and Transfer-Encoding in a success, so that a proxy (or a captive portal)
which sends a page behind its 200 puts that page into the tunnel. Here such an answer is refused instead.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from cloned_proxy.policy.terms.host_port import host_port
from cloned_proxy.policy.terms.rule import Address, Host
from cloned_proxy.proxy.upstream.chained.failure import Trouble, UpstreamProxyError, refused_with
from cloned_proxy.proxy.wire.head import EMPTY_LINE
from cloned_proxy.proxy.wire.response import SWITCHING_PROTOCOLS, ResponseError, ResponseHead, parse_response

_MOST_INTERIM: Final = 8
_FIRST_FINAL: Final = HTTPStatus.OK.value
_LAST_SUCCESS: Final = 299


def connect_request(target: Host | Address, port: int, credential: str | None) -> bytes:
    """The whole head. `credential` is the value of Proxy-Authorization."""
    text = target.text if isinstance(target, Host) else str(target)
    authority = host_port(text, port)
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if credential is not None:
        lines.append(f"Proxy-Authorization: {credential}")
    return "\r\n".join((*lines, "", "")).encode("ascii")


class ConnectAnswer:
    """Told what has arrived, it says how much of that is the answer: what is behind it belongs to the tunnel."""

    __slots__ = ("_buffer", "_interim", "_max_bytes", "_max_fields", "_server_first", "open")

    def __init__(self, *, max_bytes: int, max_fields: int, server_first: bool) -> None:
        """`server_first`: the tunnel may begin with bytes of the server. TLS never does."""
        self._buffer = bytearray()
        self._interim = 0
        self._max_bytes = max_bytes
        self._max_fields = max_fields
        self._server_first = server_first
        self.open = False
        """The tunnel is there."""

    def feed(self, data: bytes) -> int:
        """How many bytes of `data` are used up; nothing is asked again once `open`. Raises UpstreamProxyError."""
        used = 0
        while used < len(data):
            taken, head = self._next_head(data[used:])
            used += taken
            if head is not None and self._is_final(head):
                self._check_opens(head, rest=len(data) - used)
                self.open = True
                return used
        return used

    def _next_head(self, data: bytes) -> tuple[int, ResponseHead | None]:
        before = len(self._buffer)
        self._buffer += data
        found = EMPTY_LINE.search(self._buffer, max(0, before - 2))
        end = found.end() if found is not None else len(self._buffer)
        if end > self._max_bytes:
            raise _malformed(f"its answer has more than {self._max_bytes} bytes")
        if found is None:
            return len(data), None
        try:
            head = parse_response(bytes(self._buffer[:end]), max_fields=self._max_fields)
        except ResponseError as error:
            raise _malformed(str(error)) from error
        self._buffer.clear()
        return end - before, head

    def _is_final(self, head: ResponseHead) -> bool:
        if head.status >= _FIRST_FINAL:
            return True
        self._interim += 1
        if head.status == SWITCHING_PROTOCOLS or self._interim > _MOST_INTERIM:
            raise _malformed("an interim answer that nobody can use (RFC 9110, section 15.2)")
        return False

    def _check_opens(self, head: ResponseHead, *, rest: int) -> None:
        if head.status > _LAST_SUCCESS:
            raise refused_with(head.status)
        if head.chunked or head.content_length or head.status in (HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT):
            raise _malformed("a success that is framed like a page (RFC 9110, section 9.3.6)", head.status)
        if rest and not self._server_first:
            raise _malformed("bytes behind its success, where the client speaks first", head.status)


def _malformed(why: str, status: int | None = None) -> UpstreamProxyError:
    return UpstreamProxyError(Trouble.MALFORMED, f"the upstream proxy sent what is refused: {why}", status=status)
