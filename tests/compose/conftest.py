from __future__ import annotations

import pytest

from tests.compose.images import say_what_stands_in
from tests.runner.conftest import engine

__all__ = ["engine"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test waits for the images (minutes); only tests themselves are timed."""
    for item in items:
        if item.get_closest_marker("docker") is not None:
            item.add_marker(pytest.mark.timeout(180, func_only=True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran = [report for report in terminalreporter.getreports("passed") if "compose/test_stack" in report.nodeid]
    if ran:
        say_what_stands_in(terminalreporter)
