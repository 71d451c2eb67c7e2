from __future__ import annotations

import pytest

from tests.runner.conftest import engine

__all__ = ["engine"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test waits for the images (minutes); only tests themselves are timed."""
    for item in items:
        if item.get_closest_marker("docker") is not None:
            item.add_marker(pytest.mark.timeout(180, func_only=True))
