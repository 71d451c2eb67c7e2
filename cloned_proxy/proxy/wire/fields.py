"""Which header fields pass the proxy (RFC 9110, section 7.6.1), and which it writes itself: pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from cloned_proxy.policy.terms.host_port import in_brackets
from cloned_proxy.policy.terms.rule import Host
from cloned_proxy.proxy.wire.head import Head

VIA: Final = "Via: 1.1 cloned-proxy\r\n"
"""RFC 9110, section 7.6.3. A pseudonym, the same everywhere: it tells no host, no version and no tool."""


@dataclass(frozen=True, slots=True)
class ProxyHop:
    """The next one that reads the request is a proxy."""

    credential: str | None = field(repr=False)
    """The value of Proxy-Authorization."""


type Fields = Sequence[tuple[str, str]]
type RawFields = tuple[tuple[bytes, bytes], ...]


class FieldWriter(Protocol):
    """Writes fields of its own into a request: `proxy.secrets.injection.Injection`."""

    def applied(self, fields: Fields) -> list[tuple[str, str]]: ...


_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "te", "trailer", "upgrade"})
OURS: Final = ("proxy-", "x-cloned-")
"""Between the caller and the proxy: credentials and what the proxy says; never upstream, never from upstream."""
_TRAILERS: Final = re.compile(r"(?:^|[,\t ])trailers(?:$|[,\t ])", re.IGNORECASE)
_FOR_THE_NEXT_PROXY: Final = frozenset({"max-forwards"})
"""By RFC 9110, section 7.6.2, it makes the next proxy answer itself, to TRACE with what it was sent. Whether it leaves
the credential out (section 9.3.8) is up to it. Without the field the request goes to its server."""
_FRAMING: Final = frozenset({"content-length", "transfer-encoding"})


def options_of(fields: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The connection options, which name the fields that end here."""
    return frozenset(
        option.strip(" \t").lower() for name, value in fields if name == "connection" for option in value.split(",")
    )


def asks_for_websocket(head: Head) -> bool:
    """RFC 6455, section 4.1. Every other upgrade is dropped: the request goes on as plain HTTP/1.1."""
    upgrades = [value.lower() for name, value in head.fields if name == "upgrade"]
    return (
        head.method == "GET"
        and head.minor == 1
        and not head.chunked
        and not head.content_length
        and upgrades == ["websocket"]
        and "upgrade" in options_of(head.fields)
    )


def request_fields(head: Head, host: Host, *, default_port: int, injection: FieldWriter | None = None) -> RawFields:
    """What is sent upstream: Host rewritten to the target that was decided on, end-to-end fields in their order."""
    kept = _kept(head, host, default_port, injection)
    return tuple((name.encode("ascii"), value.encode("latin-1")) for name, value in kept)


def encode_request(head: Head, host: Host, injection: FieldWriter | None = None, hop: ProxyHop | None = None) -> bytes:
    """The whole head of a plain request as it goes upstream: to its server, or to the proxy that is the next `hop`."""
    kept = _kept(head, host, 80, injection)
    target = head.path
    if hop is not None:
        # RFC 9112, section 3.2.4: OPTIONS for the server as a whole has no path in absolute form.
        target = f"http://{authority(host, head.port, default_port=80)}{head.path if head.path != '*' else ''}"
        kept = [(name, value) for name, value in kept if name not in _FOR_THE_NEXT_PROXY]
        kept += [] if hop.credential is None else [("proxy-authorization", hop.credential)]
    lines = [f"{head.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in kept)]
    if any(name == "te" and _TRAILERS.search(value) for name, value in head.fields):
        lines.append("te: trailers\r\nconnection: te")
    return "\r\n".join((*lines, VIA, "")).encode("latin-1")


def _kept(head: Head, host: Host, default_port: int, injection: FieldWriter | None) -> list[tuple[str, str]]:
    # A connection option must not remove what the proxy relies on: framing is decided by the head, Host by the policy.
    named = options_of(head.fields) - _FRAMING
    kept = [("host", authority(host, head.port, default_port=default_port))]
    kept += [(name, value) for name, value in head.fields if name not in ("host", "expect") and passes(name, named)]
    kept += [("expect", value) for name, value in head.fields if name == "expect" and value.lower() == "100-continue"]
    if asks_for_websocket(head):
        kept += [("connection", "Upgrade"), ("upgrade", "websocket")]
    return kept if injection is None else injection.applied(kept)


def passes(name: str, named: frozenset[str]) -> bool:
    """Whether a field (lower-case name) goes to the other side; `named` are the connection options beside it."""
    return name not in _HOP_BY_HOP and name not in named and not name.startswith(OURS)


def authority(host: Host, port: int, *, default_port: int) -> str:
    """The value of Host (RFC 9110, section 7.2)."""
    text = in_brackets(host.text)
    return text if port == default_port else f"{text}:{port}"
