"""What can go wrong with the proxy in front. None of it names that proxy: a tool may read what becomes of it."""

from __future__ import annotations

import enum
from http import HTTPStatus
from typing import ClassVar, Final

from cloned_proxy.proxy.upstream.dial import DialError

_TIMEOUTS: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT})


class Trouble(enum.StrEnum):
    """A label of `cloned_proxy_upstream_proxy_failures_total`."""

    UNREACHABLE = "unreachable"
    """No connection to it, or one that it broke off."""
    TLS = "tls"
    """The proxy's certificate does not hold, or it speaks no TLS."""
    TIMED_OUT = "timed_out"
    CREDENTIAL = "credential"
    """The proxy in front answered 407, or the vault has no credential for it."""
    REFUSED = "refused"
    """Another status than success."""
    MALFORMED = "malformed"
    """The proxy's answer cannot be read, or is more than an answer to CONNECT may be."""
    NO_WAY = "no_way"
    """What `pac` says of this destination is none that may be taken."""


class UpstreamProxyError(DialError):
    """`status` is what it answered, None when it did not; on record, and never told to a tool."""

    phase: ClassVar[str] = "upstream_proxy"

    def __init__(self, trouble: Trouble, message: str, *, status: int | None = None) -> None:
        timed_out = trouble is Trouble.TIMED_OUT or status in _TIMEOUTS
        super().__init__(message, timed_out=timed_out)
        self.trouble: Final = trouble
        self.status = status


def too_slow() -> UpstreamProxyError:
    """The error for a proxy that keeps everybody waiting."""
    return UpstreamProxyError(Trouble.TIMED_OUT, "the upstream proxy did not answer in time")


def refused_with(status: int) -> UpstreamProxyError:
    """The error for an answer of the proxy in its own name."""
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return UpstreamProxyError(Trouble.CREDENTIAL, "the upstream proxy wants another credential", status=status)
    return UpstreamProxyError(Trouble.REFUSED, f"the upstream proxy answered {status}", status=status)
