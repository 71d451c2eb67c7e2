"""What a sandbox is about to be shown is looked through whole; what cannot be is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cloned_proxy.runner.project import survey
from cloned_proxy.runner.project.survey import Look, look_through
from cloned_proxy.runner.values.errors import SandboxInputError


def test_secrets_doors_and_repositories_at_every_depth(tmp_path: Path) -> None:
    for path in (".cloned/run", "a/b/.cloned", "a/b/c/d/.cloned", "repo/.git", "node_modules/x/.git", "ws"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "a/.cloned").write_text("a file")
    (tmp_path / "module").mkdir()
    (tmp_path / "module/.git").write_text("gitdir: ../repo/.git/modules/module\n")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/.cloned").symlink_to("../ws")
    os.mkfifo(tmp_path / "a/b/c/fifo")
    os.mkfifo(tmp_path / ".cloned/run/fifo")
    with socket.socket(socket.AF_UNIX) as door:
        here = Path.cwd()
        os.chdir(tmp_path / "repo/.git")  # a name that fits an address
        door.bind("door")
        os.chdir(here)
    info = (tmp_path / "ws").stat()
    found = look_through(tmp_path, secrets={(info.st_dev, info.st_ino)})
    assert found.secret_directories == [".cloned", "a/b/.cloned", "a/b/c/d/.cloned", "ws"]
    assert found.secret_files == ["a/.cloned"]
    assert found.secret_links == ["linked/.cloned"]
    assert found.doors == ["a/b/c/fifo", "repo/.git/door"], "what lies in a workspace is masked with it"
    assert found.repositories == ["module", "node_modules/x", "repo"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside/.cloned").mkdir(parents=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/out").symlink_to("../outside")
    (tmp_path / "in/loop").symlink_to(".")
    assert look_through(tmp_path / "in").secret_directories == []


def test_a_directory_that_turns_into_a_link_while_it_is_looked_at_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    os.mkfifo(outside / "deep/fifo")
    root = tmp_path / "root"
    (root / "first").mkdir(parents=True)
    swapped: list[str] = []

    def swap(look: Look) -> None:
        (root / "first").rename(root / "second")
        (root / "first").symlink_to(outside)
        swapped.append(look.path)

    assert look_through(root, visit=swap).doors == []
    assert swapped == ["first"]


@pytest.mark.parametrize("bound", ["entries", "seconds", "depth"])
def test_what_cannot_be_looked_through_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    deep = tmp_path
    for _ in range(12):
        deep /= "d"
    deep.mkdir(parents=True)
    if bound == "entries":
        monkeypatch.setattr(survey, "MAX_ENTRIES", 10)
    if bound == "depth":
        monkeypatch.setattr(survey, "MAX_DEPTH", 10)
    with pytest.raises(SandboxInputError, match=r"more than|in time"):
        look_through(tmp_path, seconds=0 if bound == "seconds" else 60)
    monkeypatch.undo()
    assert look_through(tmp_path).entries == 12


def test_a_directory_that_is_closed_to_us_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    program = "import sys; from pathlib import Path; from cloned_proxy.runner.project.survey import look_through\n"
    if os.geteuid() != 0:
        with pytest.raises(SandboxInputError, match="cannot be searched"):
            look_through(tmp_path)
        return
    # Root may read everything; without its capabilities it is like anybody else.
    words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", sys.executable, "-c"]
    os.chown(tmp_path / "closed", 1234, 1234)
    done = subprocess.run([*words, f"{program}look_through(Path({str(tmp_path)!r}))"], capture_output=True, check=False)
    assert b"cannot be searched: Permission denied; make it readable or move it out" in done.stderr


def _descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_no_descriptor_and_no_thread_is_left(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"d{number}/e/f").mkdir(parents=True)
    before = _descriptors(), threading.active_count()
    look_through(tmp_path)
    with pytest.raises(SandboxInputError):
        look_through(tmp_path, seconds=0)
    with pytest.raises(SandboxInputError):
        look_through(tmp_path / "nothing")
    assert (_descriptors(), threading.active_count()) == before


def test_what_the_visitor_raises_is_raised(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)

    def refuse(look: Look) -> None:
        raise ZeroDivisionError(look.path)

    with pytest.raises(ZeroDivisionError):
        look_through(tmp_path, visit=refuse)


def test_others_help_a_walk_that_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_ALONE_SECONDS", 0)
    for number in range(4):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}" / "file").touch()
    first, helped = threading.get_ident(), threading.Event()

    def wait(look: Look) -> None:
        if threading.get_ident() != first:
            helped.set()
        elif look.path.endswith("file"):  # the directory above has been read by then, and nothing but waiting was done
            assert helped.wait(60)

    monkeypatch.setattr(time, "thread_time", lambda: 0.0)  # a disk that takes its time
    assert look_through(tmp_path, visit=wait).entries == 8
    assert helped.is_set()
