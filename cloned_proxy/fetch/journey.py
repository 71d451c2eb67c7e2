"""One request and the redirects that it meets: each decided before it is sent. Sends nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from cloned_proxy.fetch.errors import EgressBlockedError, blocked_by_proxy
from cloned_proxy.fetch.guide import Guide
from cloned_proxy.policy.terms.decision import Decision

MAX_REDIRECTS: Final = 20
_HEADERS_READ: Final = "http11.receive_response_headers.complete"


@dataclass(slots=True)
class Hop:
    """One request that may be sent."""

    decision: Decision
    scheme: str
    last_headers: dict[str, str] = field(default_factory=dict)
    """The fields of the newest response head on the connection, which may be that of a CONNECT."""

    @property
    def inspected(self) -> bool:
        """Whether the proxy opens the TLS: then it decides by method and path, as was done here."""
        return self.scheme == "https" and self.decision.request.method is not None

    @property
    def heard_by_proxy(self) -> bool:
        """Whether the answer went through the proxy's hands, and a header of the proxy's in it is the proxy's."""
        return self.scheme == "http" or self.inspected

    def refused(self) -> EgressBlockedError | None:
        """After httpx.ProxyError: what the proxy said to the CONNECT."""
        return blocked_by_proxy(self.decision, self.last_headers)

    def note(self, event: str, info: dict[str, Any]) -> None:
        """The `trace` of httpcore: httpx itself drops the head of a refused CONNECT."""
        if event == _HEADERS_READ and (told := info.get("return_value")) is not None:
            self.last_headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in told[3]}


class Journey:
    """One fetch, with its redirects, from the first request to the final response."""

    def __init__(self, guide: Guide, *, follow: bool, awaited: bool = False) -> None:
        self._guide = guide
        self._follow = follow
        self._awaited = awaited
        self._redirects = 0

    def depart(self, request: httpx.Request) -> Hop:
        """Decides the request. Raises EgressBlockedError, with nothing sent."""
        hop = Hop(self._guide.decide(request.method, request.url), request.url.scheme)

        async def awaited(event: str, info: dict[str, Any]) -> None:
            hop.note(event, info)

        request.extensions = {**request.extensions, "trace": awaited if self._awaited else hop.note}
        return hop

    def arrive(self, hop: Hop, response: httpx.Response) -> httpx.Request | None:
        """The request that a redirect asks for; None when this is the answer.

        Raises EgressBlockedError when the proxy has answered, and httpx.TooManyRedirects.
        """
        if hop.heard_by_proxy and (blocked := blocked_by_proxy(hop.decision, response.headers, response.content)):
            raise blocked
        if not self._follow or response.next_request is None:
            return None
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            raise httpx.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects", request=response.request)
        return response.next_request
