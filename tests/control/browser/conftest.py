"""One Chromium for each module: kept open longer, its event loop would be in the way of asynchronous tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.cli.program import Origin
from tests.control.browser.scene import Scene, headless_shell, launch, workspace_in


@pytest.fixture(scope="module")
def program() -> str:
    """Which Chromium the tests of a module have."""
    return headless_shell()


@pytest.fixture(scope="module")
def browser(program: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = launch(playwright.chromium, program=program)
        yield opened
        opened.close()


@pytest.fixture
def scene(request: pytest.FixtureRequest, browser: Browser, tmp_path: Path) -> Iterator[Scene]:
    """A fresh `serve`. An indirect parameter is its policy; `$PORT` in it is the origin's.

    No page may complain of anything, and none may ask another address than the control server's.
    """
    origin, workspace = Origin(), workspace_in(tmp_path / "ws")
    made = Scene.start(workspace, origin, browser, getattr(request, "param", "").replace("$PORT", str(origin.port)))
    yield made
    made.close()
    workspace.close()
    origin.close()
    assert made.complaints == []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One loud line for what could not be tested here."""
    skipped = [report for report in terminalreporter.getreports("skipped") if "no Chromium:" in str(report.longrepr)]
    if skipped:
        terminalreporter.section("NOT TESTED", red=True)
        terminalreporter.line(f"{len(skipped)} tests of the control UI were skipped: there is no Chromium here")
