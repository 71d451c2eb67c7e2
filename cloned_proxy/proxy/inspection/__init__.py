"""Tunnels whose TLS is opened, because their rule needs methods, paths or header injection."""

from __future__ import annotations

import asyncio
from typing import Protocol

from cloned_proxy.proxy.grants.grant import Grant


class Inspector(Protocol):
    """Takes over a client connection from the gate, in the same process. Each call ends when the connection has."""

    async def serve_tunnel(self, grant: Grant, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A CONNECT that was granted with `inspect`, whose client has had its 200.

        `reader` starts with the client's ClientHello, which has passed `decide_tunnel`. Each request in the tunnel is
        authorised with the grant's caller and pinned addresses. The inspector calls `finish` on the grants of the
        requests, the gate on the tunnel's.
        """

    def sweep(self) -> None:
        """Cuts every open request that the policy in force, or a limit, no longer lets pass."""

    def drain(self) -> None:
        """The process is about to end: whoever can be told to take further requests elsewhere is told."""

    async def close(self) -> None:
        """Aborts what is still open and frees everything."""
