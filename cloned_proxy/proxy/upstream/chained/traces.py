"""What the proxy in front leaves of itself in the responses to plain HTTP, and its answers in its own name: pure.

RFC 9110, section 7.6.3: a portal through a firewall should not tell the names of hosts within it. In a tunnel there is
nothing of the kind; here the proxy reads and writes the whole head.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from cloned_proxy.proxy.upstream.chained.failure import Trouble, UpstreamProxyError, refused_with
from cloned_proxy.proxy.wire.response import SWITCHING_PROTOCOLS, ResponseHead

_TRACES: Final = frozenset({b"via", b"x-cache", b"x-cache-lookup", b"cache-status"})
"""`Proxy-*` and hop-by-hop fields are gone by now."""
_OWN_FIELDS: Final = frozenset({b"x-squid-error"})
_OWN_SERVERS: Final = re.compile(rb"(?:squid|tinyproxy|mitmproxy)(?:[/ ]|$)", re.IGNORECASE)
"""`Server` of an answer in the proxy's own name. They leave that of a server's answer alone."""


def without_traces(response: ResponseHead) -> ResponseHead:
    """The response as its server meant it. Raises UpstreamProxyError for one that the proxy in front made itself.

    An error page of a proxy that marks it in no way that is known here can't be told from a server's.
    """
    if response.status == SWITCHING_PROTOCOLS:
        raise UpstreamProxyError(Trouble.MALFORMED, "the upstream proxy upgrades what did not ask for it")
    kept: list[bytes] = []
    for line in response.lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        own = name in _OWN_FIELDS or (name == b"server" and _OWN_SERVERS.match(value.strip(b" \t")) is not None)
        if own and response.status >= HTTPStatus.BAD_REQUEST:
            raise refused_with(response.status)
        if name not in _TRACES:
            kept.append(line)
    if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        raise refused_with(response.status)
    return response._replace(lines=kept)
