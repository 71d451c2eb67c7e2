"""Which workspaces are served: found while they are, gone however the process ended, nobody else's taken for ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.serving import Serving, announced, server_of, serving_now

HOLDER = """
import sys, time
from pathlib import Path
from cloned_proxy.store.workspaces.serving import Serving, announced
with announced(Serving(Path(sys.argv[1]), Path("/p"), "127.0.0.1:1", None, None, 7, 1.0)):
    print("held", flush=True)
    time.sleep(60)
"""


def _serving(workspace: Path, since: float = 1.0) -> Serving:
    return Serving(workspace, workspace / "policy.yaml", "127.0.0.1:8081", "127.0.0.1:8082", None, os.getpid(), since)


def _environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(tmp_path)}


def test_it_is_found_while_it_runs_and_by_any_spelling_of_its_place(tmp_path: Path) -> None:
    one, other, environ = tmp_path / "one", tmp_path / "other", _environ(tmp_path)
    one.mkdir()
    (tmp_path / "link").symlink_to(one)
    with announced(_serving(one), environ=environ), announced(_serving(other, since=2.0), environ=environ):
        assert [found.workspace for found in serving_now(environ=environ)] == [other, one]
        assert server_of(tmp_path / "link", environ=environ) == _serving(one)
        assert server_of(tmp_path / "never", environ=environ) is None
    assert serving_now(environ=environ) == []
    assert list((tmp_path / "cloned-proxy").iterdir()) == []


def test_the_file_of_a_killed_one_says_nothing_and_is_swept_away(tmp_path: Path) -> None:
    environ = os.environ | _environ(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "ws")], env=environ, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert [found.workspace for found in serving_now(environ=environ)] == [tmp_path / "ws"]
        holder.send_signal(signal.SIGKILL)
    assert list((tmp_path / "cloned-proxy").glob("*.json")), "it could not clean up"
    assert serving_now(environ=environ) == []
    assert list((tmp_path / "cloned-proxy").iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"workspace": 1}', b"\xff"])
def test_a_file_that_says_nothing_is_passed_over(tmp_path: Path, text: bytes) -> None:
    environ = _environ(tmp_path)
    with announced(_serving(tmp_path), environ=environ):
        (file,) = (tmp_path / "cloned-proxy").glob("*.json")
        file.write_bytes(text)
        assert serving_now(environ=environ) == []


def test_a_runtime_directory_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    environ, directory = _environ(tmp_path), tmp_path / "cloned-proxy"
    directory.mkdir(mode=0o700)
    with announced(_serving(tmp_path), environ=environ):
        directory.chmod(0o777)
        assert serving_now(environ=environ) == []
        with pytest.raises(StoreError, match="XDG_RUNTIME_DIR"), announced(_serving(tmp_path), environ=environ):
            pass
        directory.chmod(0o700)
        assert len(serving_now(environ=environ)) == 1


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "cloned-proxy").symlink_to(elsewhere)
    with pytest.raises(StoreError), announced(_serving(tmp_path), environ=_environ(tmp_path)):
        pass
    assert list(elsewhere.iterdir()) == []
