"""Running out of file descriptors: refuse, recover, and do not spin. And an upstream that never says a word."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.upstream import dial
from tests.proxy.support import HOST, allow, connect_head, hello, policy, upstream, world


def highest_descriptor() -> int:
    return max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())


async def test_no_descriptor_for_the_upstream_is_503_and_passes() -> None:
    def exhausted(*_: object) -> object:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with upstream() as server, world(allow(HOST, server.port), known=False) as w:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dial, "_begin", exhausted)
            reply = await w.ask(connect_head(server.port))
            assert (reply.status, reply.json["reason"]) == (503, "internal_error")
        reader, writer = await w.tunnel(server.port)
        await reader.readexactly(len(hello()))
        writer.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_no_descriptor_to_accept_with_does_not_spin_and_recovers() -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # asyncio reports each refused accept
    async with upstream() as server, world(allow(HOST, server.port)) as w:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        reader, writer = await w.tunnel(server.port)
        await reader.readexactly(len(hello()))
        hog: list[int] = []
        waiting = socket.socket()
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest_descriptor() + 8, hard))
        try:
            while True:
                try:
                    hog.append(os.dup(0))
                except OSError:
                    break
            waiting.setblocking(False)
            waiting.connect_ex(w.address)
            waiting.send(connect_head(443, "waiting.example"))
            gc.disable()  # One collection of a long suite's heap takes as long as what is judged here.
            before = time.thread_time()
            await asyncio.sleep(0.3)
            assert time.thread_time() - before < 0.15
            writer.write(b"still works")
            assert await reader.readexactly(11) == b"still works"
        finally:
            gc.enable()
            for fd in hog:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with waiting:  # who came meanwhile was not turned away
            async with asyncio.timeout(60):
                assert await asyncio.get_running_loop().sock_recv(waiting, 12) == b"HTTP/1.1 403"
        async with asyncio.timeout(60):
            assert (await w.ask(connect_head(443, "other.example"))).status == 403
        writer.close()


async def test_an_upstream_that_accepts_and_says_nothing_holds_its_place_until_it_is_idle_too_long() -> None:
    async def mute(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass

    limited = Limits(concurrent=1)
    async with upstream(mute) as server:
        current = policy(allow(HOST, server.port), limits=limited)
        async with world(current=current, principal=Principal("demo@v1"), idle_timeout=0.15) as w:
            reader, writer = await w.tunnel(server.port)
            assert (await w.ask(connect_head(server.port))).status == 429
            await asyncio.sleep(0.2)
            w.gate.sweep()
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            writer.transport.abort()
            await w.settled()
            assert w.audit.ends[0].cause == "idle"
            _, writer = await w.tunnel(server.port)
            writer.transport.abort()
