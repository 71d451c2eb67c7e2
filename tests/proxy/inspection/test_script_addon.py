"""`addons/egress.py` in a real mitmdump."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloned_proxy.share import share_path
from tests.free_port import free_port
from tests.proxy.inspection.support import Upstream, exchange


@pytest.fixture
async def mitmdump(tmp_path: Path) -> AsyncIterator[tuple[int, Upstream]]:
    upstream = Upstream()
    server = await upstream.start()
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nanonymous: global\nglobal:\n"
        f"  allow: [{{host: localhost, ports: [{upstream.port}], addresses: [private], paths: ['/ok/**']}}]\n"
    )
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "mitmdump"),
        "-q",
        "--set",
        f"confdir={tmp_path}",
        "--listen-host",
        "127.0.0.1",
        "-p",
        str(port),
        "-s",
        str(share_path("addons", "egress.py")),
        env={**os.environ, "CLONED_POLICY": str(policy)},
    )
    async with asyncio.timeout(90):
        while True:
            assert process.returncode is None
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.transport.abort()
                break
            except OSError:
                await asyncio.sleep(0.05)
    yield port, upstream
    process.terminate()
    await process.wait()
    server.close()


async def ask(port: int, url: str, host: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET {url} HTTP/1.1\r\nHost: {host}\r\nX-Cloned-Tool: x\r\nConnection: close\r\n\r\n"
    return await exchange(reader, writer, head.encode())


async def test_the_script_gives_the_same_decisions(mitmdump: tuple[int, Upstream]) -> None:
    port, upstream = mitmdump
    target = f"localhost:{upstream.port}"
    assert b" 200 " in await ask(port, f"http://{target}/ok/1", target)
    assert "x-cloned" not in upstream.text.lower()
    assert upstream.text.count("GET") == 1
    for url in (f"http://{target}/other", f"http://127.0.0.1:{upstream.port}/ok/1", "http://evil.test/"):
        assert b" 403 " in await ask(port, url, target)
    assert upstream.text.count("GET") == 1
