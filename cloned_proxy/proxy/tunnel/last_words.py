"""How a tunnel that is open already is refused: in the words of the protocol that its client speaks, where we know one.

A client that is reset says "connection reset", and nobody learns what was refused and how to allow it.
"""

from __future__ import annotations

import re
from typing import Final

from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.transport.reset import reset
from cloned_proxy.proxy.tunnel.client import Client
from cloned_proxy.proxy.wire.client_hello import ServerNames, Unread

ACCESS_DENIED: Final = b"\x15\x03\x03\x00\x02\x02\x31"
"""A fatal `access_denied` alert (RFC 8446, section 6.2): a TLS client says so instead of "connection reset"."""

_REQUEST_LINE: Final = re.compile(rb"[A-Z]{1,24} [^ ]+ HTTP/1\.[01]\r?")
_ITS_BEGINNING: Final = re.compile(rb"[A-Z]{1,24}(?: [^ ]*(?: [HTP/1.0]*)?)?\r?")
_LONGEST: Final = 16_384
"""At most so many bytes of the client are looked at: as many as of a ClientHello."""


def turn_away(client: Client, names: ServerNames | Unread, answer: Answer) -> None:
    """Ends a tunnel that was established, with its last words if there are any; `names` as of `last_words`."""
    if last := last_words(names, bytes(client.buffer), answer):
        client.close_after(last)
    else:
        reset(client.transport)


def last_words(names: ServerNames | Unread, first: bytes, answer: Answer) -> bytes:
    """What the client is told before its tunnel ends; b"" for a client that would not understand anything: a reset.

    `names` are those of its ClientHello, or why it has none; `first` is what the client has sent.
    """
    if isinstance(names, tuple):
        return ACCESS_DENIED
    line, newline, _ = first[:_LONGEST].partition(b"\n")
    if not line or (_REQUEST_LINE if newline else _ITS_BEGINNING).fullmatch(line) is None:
        return b""
    return answer.encode(with_body=not first.startswith(b"HEAD "))
