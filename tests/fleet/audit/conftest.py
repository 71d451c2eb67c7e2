"""A replica beside a store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fleet.audit.shipping import Replica
from tests.fleet.conftest import RedisServer


@pytest.fixture
async def replica(store: RedisServer, tmp_path: Path) -> AsyncIterator[Replica]:
    made = Replica.make(tmp_path, store.url, "r1")
    yield made
    await made.link.close()
