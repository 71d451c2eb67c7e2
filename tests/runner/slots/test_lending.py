"""Ready slots that `serve` keeps and lends: to one run at a time, and no living borrower's is taken for a leftover."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.namespaces.netns import may_enter
from cloned_proxy.runner.slots.owner import process_of, remove_leftovers
from cloned_proxy.runner.values.errors import GoneError
from cloned_proxy.runner.values.spec import WORKSPACE_LABEL, workspace_mark
from tests.cli.program import eventually
from tests.runner.conftest import start_serving, write_policy
from tests.runner.runs.test_ends import is_up, start
from tests.runner.warm import TYPED

pytestmark = [pytest.mark.docker, pytest.mark.skipif(not may_enter(), reason="only entered slots are lent")]


@pytest.fixture(scope="module")
def place(images: Engine, tmp_path_factory: pytest.TempPathFactory, origin: int) -> Iterator[Path]:
    """A workspace whose proxy has slots ready; judged at the end: they go with it."""
    workspace = tmp_path_factory.mktemp("lending") / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    write_policy(workspace, origin)
    serving = start_serving(workspace)
    with pytest.MonkeyPatch.context() as patch:
        # A container that waits for the next command would have one of the slots.
        patch.setenv("PYTHONPATH", TYPED["PYTHONPATH"])
        with ExitStack() as stack:
            assert start(stack, workspace, "true").wait(60) == 0
        ready(images, workspace)
        yield workspace
    serving.stop()
    eventually(lambda: slots(images, workspace) == {}, 60, "the end of the ready slots")


def slots(engine: Engine, workspace: Path) -> dict[str, str]:
    """Container id to name, of this workspace's slots."""
    found = {}
    for container, mark in engine.owned(WORKSPACE_LABEL):
        try:
            name = str(engine.inspect(container)["Name"]).lstrip("/")
        except GoneError:
            continue
        if mark == workspace_mark(workspace) and name.startswith("cloned_slot_"):
            found[container] = name
    return found


def ready(engine: Engine, workspace: Path) -> set[str]:
    """Waits until some are, and none is lent or on its way; returns their ids."""

    def settled() -> bool:
        found = slots(engine, workspace)
        return len(found) >= 2 and all("." not in name for name in found.values())

    eventually(settled, 60, "ready slots")
    return set(slots(engine, workspace))


def lent(engine: Engine, workspace: Path) -> tuple[str, int]:
    """Waits for the slot that is lent; returns its id and the pid in its name."""
    found: list[tuple[str, int]] = []

    def one() -> bool:
        for container, name in slots(engine, workspace).items():
            pid = process_of(name.partition(".")[2])
            if pid is not None:
                found.append((container, pid))
        return bool(found)

    eventually(one, 60, "a slot that is lent")
    return found[0]


def test_a_run_has_a_ready_slot_and_gives_it_back(place: Path, images: Engine) -> None:
    before = ready(images, place)
    with ExitStack() as stack:
        process = start(stack, place, "sh", "-c", "echo up; exec sleep 600")
        is_up(process)
        slot, borrower = lent(images, place)
        assert (slot in before, borrower) == (True, process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        eventually(lambda: slot not in slots(images, place), 60, "the end of a slot whose run was ended by force")
        assert start(stack, place, "true").wait(60) == 0
    assert ready(images, place) & before


def test_a_killed_borrower_takes_its_slot_with_it(place: Path, images: Engine) -> None:
    ready(images, place)
    with ExitStack() as stack:
        process = start(stack, place, "sh", "-c", "echo up; exec sleep 600")
        is_up(process)
        slot, _ = lent(images, place)
        process.kill()
        eventually(lambda: slot not in slots(images, place), 60, "the end of the slot")


def test_a_slot_outlives_the_caretaker_as_long_as_its_borrower(place: Path, images: Engine, tmp_path: Path) -> None:
    """Its label names the caretaker, which is dead then; any command of any workspace looks for leftovers."""
    ready(images, place)
    with ExitStack() as stack:
        process = start(stack, place, "sh", "-c", "echo up; exec sleep 600")
        is_up(process)
        slot, _ = lent(images, place)
        killed = caretaker(place)
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: caretaker(place) not in (0, killed), 60, "another caretaker")
        remove_leftovers(images, tmp_path)
        assert set(slots(images, place)) == {slot}  # those that were ready have gone with it
        process.kill()
        eventually(lambda: slot not in slots(images, place), 60, "the end of the slot")
        assert start(stack, place, "true").wait(60) == 0
    ready(images, place)


def caretaker(workspace: Path) -> int:
    """The pid of the workspace's; 0 for none."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"cloned_proxy.runner.slots.caretaker" in words and os.fsencode(workspace / "run") in words:
            return int(directory.name)
    return 0
