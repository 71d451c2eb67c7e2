"""The next request head on a kept connection: one that may be pipelined, and may not be a CONNECT."""

from __future__ import annotations

from cloned_proxy.proxy.body import Buffer, OversizeError, take_head
from cloned_proxy.proxy.head import FIRST_OF_TOKEN, Head, HeadError, parse_head
from cloned_proxy.store.config import ProxySettings


def next_head(buffer: Buffer, settings: ProxySettings) -> Head | None:
    """Takes one whole head from the buffer; None while there is none. Raises HeadError."""
    if not len(buffer):
        return None
    if not buffer.starts_with(FIRST_OF_TOKEN):
        raise HeadError("these bytes are not an HTTP request")
    try:
        data = take_head(buffer, settings.max_head_bytes)
    except OversizeError as error:
        raise HeadError(str(error), status=431) from error
    if data is None:
        return None
    head = parse_head(data, max_fields=settings.max_head_fields)
    if head.method == "CONNECT":
        raise HeadError("CONNECT must be the first request of its connection")
    return head
