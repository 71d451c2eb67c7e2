"""A program that knows no proxy, in a slot whose proxy has another one in front."""

from __future__ import annotations

import asyncio

from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from cloned_proxy.proxy.transport.name_tags import NameTags
from tests.proxy.slots.dns import NETWORK
from tests.proxy.support import HOST, allow, hello, world
from tests.proxy.upstream.chained.fronts import TARGET, front

TOOL = Principal("demo@v1", run="cafe", source=CallerSource.LISTENER)


async def test_a_name_that_was_dialled_goes_through_the_front_too() -> None:
    tags = NameTags(NETWORK)
    sock = bind_tcp(str(tags.address_of(HOST)), 0)
    port = sock.getsockname()[1]
    async with front() as ahead, world(allow(HOST, port), front=ahead.settings(), addresses=(TARGET,)) as w:
        await w.gate.open(Listener(sock, TOOL, "slot", tags))
        reader, writer = await asyncio.open_connection(str(tags.address_of(HOST)), port)
        writer.write(hello())
        assert len(await reader.readexactly(len(hello())))
        writer.close()
        await w.settled()
    assert [head.split()[1] for head in ahead.heads] == [f"93.184.216.10:{port}".encode()]
