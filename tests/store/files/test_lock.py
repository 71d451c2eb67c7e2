from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from cloned_proxy.store.files.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_edit_waits_for_the_first_and_then_gives_up_with_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with (
        locked(path),
        pytest.raises(StoreError, match=r"policy.yaml: another edit holds the lock for 0 s; end it"),
        locked(path, seconds=0.1),
    ):
        pass
    with locked(path, seconds=0):
        assert (tmp_path / ".policy.yaml.lock").stat().st_mode & 0o777 == 0o600


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError), locked(path, seconds=0.1):
            pass
        holder.send_signal(signal.SIGKILL)
        with locked(path, seconds=30):
            pass


def test_a_link_leads_to_one_lock_beside_its_target(tmp_path: Path) -> None:
    target, link = tmp_path / "there" / "policy.yaml", tmp_path / "policy.yaml"
    target.parent.mkdir()
    link.symlink_to(target)
    with locked(link), pytest.raises(StoreError), locked(target, seconds=0):
        pass


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / ".policy.yaml.lock").symlink_to(elsewhere)
    with pytest.raises(StoreError, match="cannot be locked"), locked(tmp_path / "policy.yaml"):
        pass
    assert not elsewhere.exists()


def test_of_many_threads_one_is_inside(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def edit() -> None:
        with locked(tmp_path / "policy.yaml", seconds=30):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            inside[0] -= 1

    threads = [threading.Thread(target=edit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert [path.name for path in tmp_path.iterdir()] == [".policy.yaml.lock"]
