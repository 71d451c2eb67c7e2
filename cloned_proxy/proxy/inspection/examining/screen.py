"""What an inspected response passes through under a rule that injects, so that no secret in it gets to the client."""

from __future__ import annotations

from typing import Final

from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.inspection.examining.examiners import (
    Admitted,
    BodyFilter,
    HeldFilter,
    RawFields,
    ResponseSeen,
    StreamFilter,
    UnfitError,
)
from cloned_proxy.proxy.secrets.echo import (
    CODED,
    ECHOED,
    HELD_BYTES,
    REPEATED,
    EchoError,
    EchoFilter,
    EchoScanner,
    is_encoded,
)
from cloned_proxy.proxy.secrets.frames import EXTENSIONS
from cloned_proxy.proxy.wire.response import SWITCHING_PROTOCOLS

_EXTENSIONS: Final = EXTENSIONS.encode("ascii")


class EchoExaminer:
    """The last of the examiners: what the others have made of a response is searched as well."""

    async def request_admitted(self, admitted: Admitted) -> None:
        """Nothing is wrong with any request: the secret goes where its rule wants it."""

    def response_came(self, admitted: Admitted, response: ResponseSeen) -> BodyFilter | None:
        secrets = admitted.injection.echo if admitted.injection is not None else None
        if secrets is None:
            return None
        response.phrase = secrets.redacted(response.phrase)
        response.fields = cleared(secrets, response.fields)
        if response.status == SWITCHING_PROTOCOLS:
            # From here on it is a WebSocket, whose frames `EchoGuard` looks at.
            if response.values(_EXTENSIONS):
                raise _unfit(admitted, CODED)
            return None
        if not response.has_body:
            return None
        if is_encoded(value.decode("latin-1") for value in response.values(b"content-encoding")):
            raise _unfit(admitted, CODED)
        if response.length is not None and response.length <= HELD_BYTES:
            return _Held(admitted, secrets)
        return _Scanned(admitted, secrets)


def cleared(secrets: EchoFilter, fields: RawFields) -> RawFields:
    """The fields with every secret in their values redacted; without those that have one in their name."""
    return [(name, secrets.redacted(value)) for name, value in fields if not secrets.finds(name)]


class _Held(HeldFilter):
    """A body of a known length that is seen whole before the first byte goes on."""

    limit = HELD_BYTES

    def __init__(self, admitted: Admitted, secrets: EchoFilter) -> None:
        self._admitted = admitted
        self._secrets = secrets

    async def whole(self, body: bytes) -> bytes:
        if self._secrets.finds(body):
            raise _unfit(self._admitted, REPEATED)
        return body

    def trailers(self, fields: RawFields) -> RawFields:
        return cleared(self._secrets, fields)

    def too_long(self) -> UnfitError:
        return _unfit(self._admitted, REPEATED)


class _Scanned(StreamFilter):
    """Any other body, as it passes."""

    def __init__(self, admitted: Admitted, secrets: EchoFilter) -> None:
        self._admitted = admitted
        self._secrets = secrets
        self._scanner = EchoScanner(secrets)

    def feed(self, piece: bytes) -> bytes:
        try:
            return self._scanner.feed(piece)
        except EchoError:
            raise _unfit(self._admitted, REPEATED) from None

    def rest(self) -> bytes:
        return self._scanner.rest()

    def trailers(self, fields: RawFields) -> RawFields:
        return cleared(self._secrets, fields)


def _unfit(admitted: Admitted, explanation: str) -> UnfitError:
    grant = admitted.grant
    return UnfitError(explanation, answer=answers.echoed(explanation, grant.decision, grant.id), cause=ECHOED)
