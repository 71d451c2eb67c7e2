from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net import namespace
from tests.net.world import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The fake internet, one for the session."""
    if reason := namespace.why_not():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the fake internet is required in CI: {reason}")
        pytest.skip(f"NO FAKE INTERNET, attack and client tests did not run: {reason}")
    directory: Path = tmp_path_factory.mktemp("world") / "w"
    made = World(directory)
    yield made
    assert made.stop() == [], "processes outlived the fake internet"


@pytest.fixture
def fresh_world(world: World) -> World:
    """The fake internet with nothing remembered."""
    world.reset()
    return world
