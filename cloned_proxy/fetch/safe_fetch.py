"""HTTP for a tool written in Python: decided here, then sent through the proxy under the tool's name.

    with SafeFetch("cloned.mcp.web.search@v1") as fetch:
        answer = fetch.get("https://api.search.brave.com/res/v1/web/search", params={"q": "egress"})

A program that does not want to be held back imports something else: what holds it is the sandbox.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from cloned_proxy.fetch.guide import TOKEN_SECONDS, Guide
from cloned_proxy.fetch.journey import Journey

_RENEW_SECONDS: Final = TOKEN_SECONDS / 2


class SafeFetch:
    """Requests of one tool; `get` and its kin wait, `aget` and its kin are awaited.

    Every request, and every redirect that it meets, is decided by the policy file before anything is sent: a no is
    raised as EgressBlockedError, as is a no of the proxy. Proxy variables of the environment are not looked at.
    """

    def __init__(
        self,
        tool: str,
        *,
        workspace: Path | str | None = None,
        policy: Path | str | None = None,
        proxy: str | None = None,
        timeout: float = 30.0,
        extra_ca: Path | str | None = None,
    ) -> None:
        """`workspace`, `policy` and `proxy` default to what the command line would use.

        The proxy is that of `CLONED_EGRESS_PROXY`, else of config.yaml, else the one that serves the workspace.
        `extra_ca` is a PEM file of roots beside the system's. Raises ValueError and StoreError.
        """
        self._guide = Guide(
            tool, workspace=_path(workspace), policy=_path(policy), proxy=proxy, extra_ca=_path(extra_ca)
        )
        self._timeout = timeout
        # By whether TLS is opened, the newest last: a tunnel needs other roots than a host that is inspected.
        self._clients: dict[bool, list[tuple[float, httpx.Client]]] = {False: [], True: []}
        self._async_clients: dict[bool, list[tuple[float, httpx.AsyncClient]]] = {False: [], True: []}

    # Waiting.

    def request(self, method: str, url: str, *, follow_redirects: bool = True, **options: Any) -> httpx.Response:
        """`options` are those of httpx: params, headers, content, data, files, json, timeout and so on.

        Raises EgressBlockedError; httpx's own errors for what goes wrong on the way.
        """
        journey = Journey(self._guide, follow=follow_redirects)
        request = self._client(inspected=False).build_request(method, url, **options)
        while True:
            hop = journey.depart(request)
            try:
                response = self._client(inspected=hop.inspected).send(request)
            except httpx.ProxyError as error:
                raise hop.refused() or error from error
            following = journey.arrive(hop, response)
            if following is None:
                return response
            request = following

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Any) -> httpx.Response:
        return self.request("HEAD", url, **options)

    def post(self, url: str, **options: Any) -> httpx.Response:
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> httpx.Response:
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Any) -> httpx.Response:
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", url, **options)

    def close(self) -> None:
        """Closes the connections of `get` and its kin."""
        for made in self._clients.values():
            while made:
                made.pop()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    # Awaited.

    async def arequest(self, method: str, url: str, *, follow_redirects: bool = True, **options: Any) -> httpx.Response:
        """Does what `request` does, for an event loop."""
        journey = Journey(self._guide, follow=follow_redirects, awaited=True)
        request = self._async_client(inspected=False).build_request(method, url, **options)
        while True:
            hop = journey.depart(request)
            try:
                response = await self._async_client(inspected=hop.inspected).send(request)
            except httpx.ProxyError as error:
                raise hop.refused() or error from error
            following = journey.arrive(hop, response)
            if following is None:
                return response
            request = following

    async def aget(self, url: str, **options: Any) -> httpx.Response:
        return await self.arequest("GET", url, **options)

    async def ahead(self, url: str, **options: Any) -> httpx.Response:
        return await self.arequest("HEAD", url, **options)

    async def apost(self, url: str, **options: Any) -> httpx.Response:
        return await self.arequest("POST", url, **options)

    async def aput(self, url: str, **options: Any) -> httpx.Response:
        return await self.arequest("PUT", url, **options)

    async def apatch(self, url: str, **options: Any) -> httpx.Response:
        return await self.arequest("PATCH", url, **options)

    async def adelete(self, url: str, **options: Any) -> httpx.Response:
        return await self.arequest("DELETE", url, **options)

    async def aclose(self) -> None:
        """Closes the connections of `aget` and its kin."""
        for made in self._async_clients.values():
            while made:
                await made.pop()[1].aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # A client is replaced before its credential expires; what is under way on the old one goes on.

    def _client(self, *, inspected: bool) -> httpx.Client:
        made = self._clients[inspected]
        if not made or time.monotonic() - made[-1][0] > _RENEW_SECONDS:
            made.append((time.monotonic(), httpx.Client(**self._settings(inspected=inspected))))
        return made[-1][1]

    def _async_client(self, *, inspected: bool) -> httpx.AsyncClient:
        made = self._async_clients[inspected]
        if not made or time.monotonic() - made[-1][0] > _RENEW_SECONDS:
            made.append((time.monotonic(), httpx.AsyncClient(**self._settings(inspected=inspected))))
        return made[-1][1]

    def _settings(self, *, inspected: bool) -> dict[str, Any]:
        return {
            "proxy": self._guide.proxy(),
            "verify": self._guide.trust(inspected=inspected),
            "timeout": self._timeout,
            "trust_env": False,
            "follow_redirects": False,
        }


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)
