from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloned_proxy.store.settings.config import ProxySettings
from tests.proxy.inspection.support import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    settings = ProxySettings(
        head_timeout=1.0, keep_alive_timeout=2.0, connect_timeout=1.0, response_timeout=1.0, idle_timeout=5.0
    )
    made = World.make(tmp_path, settings)
    upstream = await made.start()
    front = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = front.sockets[0].getsockname()[1]
    yield made
    await made.inspector.close()
    front.close()
    upstream.close()
