"""What an inspected response passes through under a rule that injects, so that no secret in it gets to the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from mitmproxy import http

from cloned_proxy.proxy import answers
from cloned_proxy.proxy.echo import (
    CODED,
    ECHOED,
    HELD_BYTES,
    REPEATED,
    EchoError,
    EchoFilter,
    EchoScanner,
    is_encoded,
)
from cloned_proxy.proxy.grant import Grant
from cloned_proxy.proxy.inspection.exchange import Exchange

_log = structlog.get_logger(__name__)

_WITHOUT_BODY: Final = frozenset({204, 304})

type RawFields = list[tuple[bytes, bytes]]


def cleared(secrets: EchoFilter, fields: RawFields) -> RawFields:
    """The fields with every secret in their values redacted; without those that have one in their name."""
    return [(name, secrets.redacted(value)) for name, value in fields if not secrets.finds(name)]


def begin(exchange: Exchange, secrets: EchoFilter, response: http.Response, cut: Callable[[str], None]) -> bool:
    """Lets the body through as far as it holds no secret; False when it cannot be searched, and the answer is set.

    `cut` ends the connection of a body that is on its way when a secret turns up in it.
    """
    grant = _granted(exchange)
    response.reason = secrets.redacted(response.reason.encode("latin-1")).decode("latin-1")
    if exchange.head.method == "HEAD" or response.status_code in _WITHOUT_BODY:
        return True
    if is_encoded(response.headers.get_all("content-encoding")):
        _turn_away(exchange, grant, CODED)
        return False
    length = response.headers.get("content-length", "")
    if length.isdigit() and int(length) <= HELD_BYTES:
        return True  # read whole, and looked at by `passes` before the first byte goes on
    scanner = EchoScanner(secrets)

    def screened(piece: bytes) -> list[bytes]:
        try:
            passed = scanner.feed(piece) if piece else scanner.rest()
        except EchoError:
            _note(exchange, grant, REPEATED)
            cut(ECHOED)
            # Nothing may follow, not even the end of the body: the client would take it for whole.
            raise
        grant.charge.down(len(passed))
        # An empty piece would be the last chunk.
        return [passed] if passed else []

    response.stream = screened
    return True


def passes(exchange: Exchange, secrets: EchoFilter, response: http.Response) -> bool:
    """Whether a body that was read whole may go on; the answer is set when not."""
    grant, body = _granted(exchange), response.raw_content or b""
    if secrets.finds(body):
        _turn_away(exchange, grant, REPEATED)
        return False
    grant.charge.down(len(body))
    return True


def _granted(exchange: Exchange) -> Grant:
    if exchange.grant is None:
        raise ValueError("a response that nothing was asked for")
    return exchange.grant


def _turn_away(exchange: Exchange, grant: Grant, explanation: str) -> None:
    _note(exchange, grant, explanation)
    exchange.answer = answers.echoed(explanation, grant.decision, grant.id)


def _note(exchange: Exchange, grant: Grant, problem: str) -> None:
    exchange.failure, exchange.cause = None, ECHOED
    _log.info("an upstream's response was refused", problem=problem, decision=grant.id)
