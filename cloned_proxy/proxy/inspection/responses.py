"""The upstream's side: mitmproxy's reader of responses, made to pass what real servers send.

It takes every 1xx for the final response, and crashes on trailers with the body already on its way.
"""

from __future__ import annotations

import re
from typing import Any, Final

import h11
from h11._readers import ChunkedReader
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import _http1

# RFC 9110, section 15.2: any number of them may come first. 101 is no interim response: it ends HTTP.
_INTERIM: Final = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9]{2}[ \r][^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n")


class InterimHttp1Client(_http1.Http1Client):
    """Drops interim responses: nobody here has asked for one, the 100 that a client waits for comes from the proxy."""

    def read_headers(self, event: events.ConnectionEvent) -> layer.CommandGenerator[None]:
        while self.request is not None and _INTERIM.match(bytes(self.buf)):
            self.buf.maybe_extract_lines()
        yield from super().read_headers(event)

    def mark_done(self, *, request: bool = False, response: bool = False) -> layer.CommandGenerator[None]:
        yield from super().mark_done(request=request, response=response)
        if self.response_done and not self.request_done:
            # An early answer: no more is read, and when the upstream has gone nobody takes the rest of the request.
            self.state = self.wait
            if not self.conn.state & ConnectionState.CAN_READ:
                yield from self.wait(events.ConnectionClosed(self.conn))


class _WithoutTrailers(ChunkedReader):
    """Trailers need no receiver to understand them (RFC 9110, section 6.5.1), so they may end here."""

    def __call__(self, buf: Any) -> Any:
        event = super().__call__(buf)
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) else event


_make_body_reader = _http1.make_body_reader


def _make_reader(expected_size: int | None) -> Any:
    return _WithoutTrailers() if expected_size is None else _make_body_reader(expected_size)


def install() -> None:
    """Puts both where mitmproxy's layers look for theirs."""
    setattr(http, "Http1Client", InterimHttp1Client)  # noqa: B010  mypy sees a class
    setattr(_http1, "make_body_reader", _make_reader)  # noqa: B010  mypy sees a function
