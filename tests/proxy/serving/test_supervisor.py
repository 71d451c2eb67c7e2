"""The parts of the supervisor that are not processes; those are in tests/cli/commands/serving/test_workers.py."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cloned_proxy.proxy.grants.workers import Worker, forget_report, make_directory, problems_of, remove_directory
from cloned_proxy.proxy.serving.child import ChildProcess


def deaths(*lifetimes: float) -> list[float]:
    """Seconds until each successor, for children that lived so long."""
    child, now, waits = ChildProcess("worker 0", lambda _: None, lambda: None), 0.0, []
    for lifetime in lifetimes:
        child.pid, child.since = 4711, now
        now += lifetime
        child.died(now)
        assert child.pid == 0
        waits.append(child.due - now)
        now = child.due
    return waits


def test_the_first_death_is_answered_at_once_and_quick_ones_ever_later() -> None:
    assert deaths(*[0.1] * 10) == pytest.approx([0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30])


def test_a_child_that_lived_long_is_replaced_at_once_whatever_came_before() -> None:
    assert deaths(0.1, 0.1, 0.1, 60.0, 0.1) == pytest.approx([0, 0.5, 1, 0, 0.5])


def test_what_a_dead_child_had_is_cleaned_up_before_the_next() -> None:
    cleaned: list[str] = []
    child = ChildProcess("worker 0", lambda _: None, lambda: cleaned.append("worker 0"))
    child.died(1.0)
    assert cleaned == ["worker 0"]


_NO_WORKER_STARTS = """
import sys
from pathlib import Path
from cloned_proxy.proxy.serving.options import ServeOptions
from cloned_proxy.proxy.serving.supervisor import Supervisor
from cloned_proxy.store.workspaces.workspace import Workspace

def broken():
    raise OSError("no more files")

options = ServeOptions(("127.0.0.1", 0), None)
supervisor = Supervisor(Workspace(Path(sys.argv[1])), options, workers=2, loop_factory=broken)
print(supervisor.run(on_ready=lambda: print("ready")))
"""


def test_a_proxy_whose_workers_cannot_start_gives_up_instead_of_trying_for_ever(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NO_WORKER_STARTS, str(tmp_path / "ws")],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    assert "ready" not in done.stdout.splitlines()
    assert "no more files" in done.stdout + done.stderr


@pytest.fixture
def workers(tmp_path: Path) -> list[Worker]:
    with socket.socket() as listening:
        return [Worker(number, 2, tmp_path, listening, None) for number in range(2)]


def test_the_proxy_is_ready_when_every_seat_says_so(workers: list[Worker], tmp_path: Path) -> None:
    workers[0].report(())
    assert problems_of(tmp_path, 2) == ("worker 1 is not running",)
    workers[1].report(())
    assert problems_of(tmp_path, 2) == ()
    workers[1].report(("the policy is bad", "the disk is full"))
    assert problems_of(tmp_path, 2) == ("worker 1: the policy is bad", "worker 1: the disk is full")
    forget_report(tmp_path, 1)
    forget_report(tmp_path, 1)
    assert problems_of(tmp_path, 2) == ("worker 1 is not running",)


def test_a_report_that_has_become_old_is_a_problem(workers: list[Worker], tmp_path: Path) -> None:
    for worker in workers:
        worker.report(())
    place = tmp_path / "status-0.json"
    report = json.loads(place.read_text())
    place.write_text(json.dumps(report | {"at": report["at"] - 6}))
    assert problems_of(tmp_path, 2) == ("worker 0 does not respond",)


def test_one_worker_leads(workers: list[Worker]) -> None:
    assert [worker.leads for worker in workers] == [True, False]


def test_the_shared_directory_is_private_and_can_be_removed() -> None:
    directory = make_directory()
    assert directory.stat().st_mode & 0o777 == 0o700
    (directory / "file").touch()
    remove_directory(directory)
    assert not directory.exists()
