"""Where further rules look at an exchange of an opened tunnel, whichever version of HTTP carries it.

The one place: an examiner is listed in `Admission` and knows of no version of HTTP. Its two
moments are an admitted request (decided, on record, its secret filled in, nothing dialled yet) and the head of the
final response. At either it may turn the exchange away, and it may hang a filter on the body that follows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from cloned_proxy.policy.terms.registry import Age
from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection.examining.held import HeldBody
from cloned_proxy.proxy.secrets.injection import Injection
from cloned_proxy.proxy.wire.head import Head

type RawFields = list[tuple[bytes, bytes]]


@dataclass(slots=True, eq=False)
class Admitted:
    """One request that may go upstream, and what its response belongs to."""

    grant: Grant
    head: Head
    """The request head as the client sent it. One of HTTP/2 has the same shape: `host` and `port` come from
    `:authority`."""
    injection: Injection | None
    forwarded: Head = field(init=False)
    """What goes upstream: `head`, unless an examiner replaces its `path` or its `fields`."""

    def __post_init__(self) -> None:
        self.forwarded = self.head


@dataclass(slots=True)
class ResponseSeen:
    """The head of a final response. An examiner may change `phrase` and `fields`."""

    status: int
    phrase: bytes
    """b"" in HTTP/2, which has none."""
    fields: RawFields
    """End-to-end fields without those that frame the body; names in the spelling of the upstream."""
    length: int | None
    """Bytes of the body as announced; None where nobody has said."""
    has_body: bool
    """False for an answer to HEAD, for 204 and 304."""

    def values(self, name: bytes) -> list[bytes]:
        """The values of all fields with this lower-case name."""
        return [value for found, value in self.fields if found.lower() == name]


class RefusedError(Exception):
    """An admitted request must not go upstream: it is put on record as denied for `reason`, answered like any other.

    The message becomes the `hint`; "" takes the reason's own. `age` belongs to `too_young`.
    """

    def __init__(self, reason: Reason, message: str = "", *, age: Age | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.age = age


class UnfitError(Exception):
    """What passes, body or head, must not go on. The message is for the log and holds nothing of it.

    `answer` is what the client is told where nothing of the response has been sent; otherwise its stream or connection
    is cut. `cause` ends the flow on record.
    """

    def __init__(self, message: str, *, answer: Answer, cause: str) -> None:
        super().__init__(message)
        self.answer = answer
        self.cause = cause


class StreamFilter(ABC):
    """A body piece by piece, in its order; nothing is kept that need not be."""

    resizes: bool = False
    """Whether what comes out may have another length, so that no Content-Length can be announced."""

    @abstractmethod
    def feed(self, piece: bytes) -> bytes:
        """What of it may go on now. Raises UnfitError."""

    @abstractmethod
    def rest(self) -> bytes:
        """What was kept back, at the end of the body. Raises UnfitError."""

    def trailers(self, fields: RawFields) -> RawFields:
        """The trailers that go on behind it; HTTP/1.1 clients get none."""
        return fields


class HeldFilter(ABC):
    """A body that is read whole before the client gets anything of the response, its head included."""

    limit: int
    """Bytes; a longer body is answered by `too_long`."""
    held: HeldBody | None = None
    """The filter's share of what may be held in all; None for bodies that are too small to count."""

    @abstractmethod
    async def whole(self, body: bytes) -> bytes:
        """The body that goes on instead. Raises UnfitError."""

    def trailers(self, fields: RawFields) -> RawFields:
        """The trailers that go on behind it; HTTP/1.1 clients get none."""
        return fields

    @abstractmethod
    def too_long(self) -> UnfitError:
        """Why a body over the limit does not pass."""


type BodyFilter = StreamFilter | HeldFilter


class Examiner(Protocol):
    """One for each process; what belongs to an exchange is in the filters that it makes."""

    async def request_admitted(self, admitted: Admitted) -> StreamFilter | None:
        """A filter for the request's body, or None. Raises RefusedError."""

    def response_came(self, admitted: Admitted, response: ResponseSeen) -> BodyFilter | None:
        """A filter for the response's body, or None. Raises UnfitError."""


class Filters:
    """The filters of one body as one, in the order of their examiners."""

    __slots__ = ("_chain", "_rested", "limit", "resizes")

    def __init__(self, chain: Sequence[BodyFilter]) -> None:
        self._chain: Final = chain
        self._rested = False
        self.limit: Final = min((one.limit for one in self._holding()), default=0)
        """Bytes up to which the body is held; 0: nothing is held, and `feed` and `rest` apply instead of `whole`."""
        self.resizes: Final = any(one.resizes for one in chain if isinstance(one, StreamFilter))

    def feed(self, piece: bytes) -> bytes:
        for one in self._chain:
            if isinstance(one, StreamFilter):
                piece = one.feed(piece)
        return piece

    def rest(self) -> bytes:
        """Once: a request that is sent again has been through its filters."""
        out = b""
        if self._rested:
            return out
        self._rested = True
        for one in self._chain:
            if isinstance(one, StreamFilter):
                out = (one.feed(out) if out else b"") + one.rest()
        return out

    async def whole(self, body: bytes) -> bytes:
        for one in self._chain:
            body = one.feed(body) + one.rest() if isinstance(one, StreamFilter) else await one.whole(body)
        return body

    def came(self, count: int) -> None:
        """Says how many bytes of the body are held by now; 0: the body was sent, or its exchange is over."""
        for one in self._holding():
            if one.held is not None:
                one.held.note(count)

    async def room(self) -> None:
        """Waits until more of the body may be held; nothing is read meanwhile."""
        for one in self._holding():
            if one.held is not None:
                await one.held.room()

    def _holding(self) -> Iterator[HeldFilter]:
        return (one for one in self._chain if isinstance(one, HeldFilter))

    def trailers(self, fields: RawFields) -> RawFields:
        for one in self._chain:
            fields = one.trailers(fields)
        return fields

    def too_long(self) -> UnfitError:
        """The error of the filter that may hold the least."""
        return next(one for one in self._holding() if one.limit == self.limit).too_long()
