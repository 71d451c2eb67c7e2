"""What mitmproxy is for: plain HTTP, and tunnels whose rule needs methods, paths or header injection."""

from __future__ import annotations

import asyncio
from typing import Protocol

from cloned_proxy.policy.model import Principal
from cloned_proxy.proxy.enforcer import Grant


class Inspector(Protocol):
    """Takes over a client connection from the gate, in the same process. Each call ends when the connection has."""

    async def serve_http(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener: Principal | None
    ) -> None:
        """A client connection of plain HTTP requests.

        `reader` starts at the first byte of the first head, which the
        gate has read but not decided; every request, the first included, is identified and authorised here.
        """

    async def serve_tunnel(self, grant: Grant, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A CONNECT that was granted with `inspect`.

        It was answered 200, and whose ClientHello (at the start of `reader`)
        passed `decide_tunnel`. Each request in it is authorised with the grant's caller and pinned addresses. The
        inspector calls `finish` on the grants of the requests, the gate on the tunnel's.
        """

    def sweep(self) -> None:
        """Cuts every open request that the policy in force, or a limit, no longer lets pass."""

    async def close(self) -> None:
        """Aborts what is still open and frees everything."""
