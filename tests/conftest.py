"""What holds for the whole suite: its two passes, a clock that is no judge, and signals as a terminal's.

`tests/run.sh` runs it in two passes: `--pass alone`, one test after the other on a machine that does nothing else, then
`--pass together`, several processes side by side.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings

from tests.groups import ByGroup, rank_of
from tests.kept_logging import logging_kept

MISSING: Final = {
    "no engine:": "sandbox tests were skipped: no container engine answers here",
    "no model:": "tests with a real model were skipped: it could not be downloaded",
    "no packages:": "tests of baked images were skipped: npm or PyPI gave no packages",
}
"""What a reason to skip begins with, and the line that counts them."""
collect_ignore: Final = [] if "TESTED_WHEEL" in os.environ and "BARE_ENV" in os.environ else ["wheel"]
"""The tests of an installed wheel; `make test-wheel` names the wheel and its environment."""
IMAGES_FAILED: Final = pytest.StashKey[str]()
"""Why the images of the sandbox could not be built; set by the first test that needs them."""

settings.register_profile("suite", deadline=None)  # a busy machine takes its time; that is no failure
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pass",
        dest="suite_pass",
        choices=["together", "alone"],
        help="together: what may run beside other tests; alone: the rest (default: all)",
    )


def pytest_configure() -> None:
    # Started with `nohup … &` the suite inherits ignored signals, and every program that it starts would, too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where only the few that measure are wanted, the files that have none need not be imported (nine seconds)."""
    if config.getoption("suite_pass") != "alone" or collection_path.suffix != ".py":
        return None
    return True if b"pytest.mark.alone" not in collection_path.read_bytes() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("suite_pass")
    if wanted is not None:
        chosen = [item for item in items if (item.get_closest_marker("alone") is not None) is (wanted == "alone")]
        kept = set(chosen)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = chosen
    items.sort(key=lambda item: rank_of(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Ten thousand tests are there to the end: no search for garbage goes through them, neither now nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    return ByGroup(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Images that could not be built fail one test, which says why; the others that need them are skipped."""
    if "images" in getattr(item, "fixturenames", ()) and (reason := item.config.stash.get(IMAGES_FAILED, "")):
        pytest.skip(f"no images, as the first test that needed them says: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What could not be tested here, and what was tested against something else, in one loud line each."""
    reports = [str(report.longrepr) for report in terminalreporter.getreports("skipped")]
    counts = {told: sum(sign in text for text in reports) for sign, told in MISSING.items()}
    if any(counts.values()):
        terminalreporter.section("NOT TESTED", red=True)
    for told, count in counts.items():
        if count:
            terminalreporter.line(f"{count} {told}")
    if any(report.nodeid.startswith("tests/compose/test_stack") for report in terminalreporter.getreports("passed")):
        terminalreporter.section("STAND-INS")
        terminalreporter.line(
            "compose stack: Grafana and LocalAI were stand-ins (tests/compose/stand_ins, tests/runner);"
        )
        terminalreporter.line(
            "Prometheus was the distribution's binary; ports were reached in the rooms, not on the host."
        )


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Whatever a test sets up to be logged, the next one finds the logging of a fresh process."""
    with logging_kept():
        yield
