"""What a tool has put on this machine's disk: counted without leaving its own directory, and bounded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.runner.files.disk import Bound, DiskGuard, Floor, bounds_of, disk_usage
from cloned_proxy.runner.values.errors import ToolLimitError
from cloned_proxy.runner.values.spec import Mount
from tests.runner.values.test_spec import SPEC

BIG = 4_000_000


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host that a count must not enter."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_bytes(b"x" * BIG)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "tool"
    path.mkdir()
    return path


def test_bytes_and_entries_are_counted(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(b"x" * BIG)
    usage = disk_usage(root)
    assert (usage.entries, BIG <= usage.size < BIG * 1.1, usage.closed, usage.too_deep) == (3, True, 0, False)
    assert disk_usage(root / "missing").entries == 0


def test_links_are_counted_and_not_followed(root: Path, outside: Path) -> None:
    (root / "directory").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    assert (disk_usage(root).entries, disk_usage(root).size < BIG) == (2, True)


@pytest.mark.parametrize("replace", [Path.symlink_to, lambda path, _: os.mkfifo(path)], ids=["link", "fifo"])
def test_a_directory_that_becomes_something_else_while_it_is_counted_is_not_entered(
    root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, replace: Callable[[Path, Path], None]
) -> None:
    (root / "trap").mkdir()
    opened = os.open
    swapped: list[str] = []

    def open_after_the_tool_acted(path: str, flags: int, *arguments: Any, **names: Any) -> int:
        if names.get("dir_fd") is not None and not swapped:
            swapped.append(path)
            (root / "trap").rmdir()
            replace(root / "trap", outside)
        return opened(path, flags, *arguments, **names)

    monkeypatch.setattr(os, "open", open_after_the_tool_acted)
    usage = disk_usage(root)
    assert (swapped, usage.entries, usage.size < BIG) == (["trap"], 1, True)


def test_a_tree_that_hides_bytes_below_the_longest_path_is_over_every_bound(root: Path) -> None:
    deep = os.open(root, os.O_RDONLY)
    for _ in range(200):  # each name is long: no path of the host reaches the end
        os.mkdir("d" * 100, dir_fd=deep)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    assert disk_usage(root).too_deep
    assert "deep" in Bound(root, "/sandbox", 10 * BIG, 1000, "write less").check()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_this_user_may_not_read_is_said(root: Path) -> None:
    (root / "closed").mkdir(mode=0o700)
    root.chmod(0o755)
    for parent in root.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    os.seteuid(65532)
    try:
        usage = disk_usage(root)
    finally:
        os.seteuid(0)
    assert (usage.entries, usage.closed) == (1, 1)


@pytest.mark.parametrize("by", ["bytes", "entries"])
def test_the_guard_ends_the_run_that_writes_too_much(root: Path, by: str) -> None:
    ended = threading.Event()
    bound = Bound(root, "/sandbox", BIG // 2, 100, "write less")
    with DiskGuard((bound,), ended.set) as guard:
        if by == "bytes":
            (root / "file").write_bytes(b"x" * BIG)
        else:
            for number in range(2000):  # as many as a file system tells at once
                (root / str(number)).touch()
        assert ended.wait(60)
    with pytest.raises(ToolLimitError, match=r"entries are in /sandbox; 1 MiB and 100 entries are allowed: write less"):
        guard.check()


def test_a_run_within_its_bound_is_left_alone(root: Path) -> None:
    ended = threading.Event()
    with DiskGuard((Bound(root, "/sandbox", BIG, 100, "write less"),), ended.set) as guard:
        (root / "file").write_bytes(b"x" * (BIG // 2))
        assert not ended.wait(0.6)
    guard.check()


def test_a_disk_that_the_tool_fills_ends_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floor = Floor.of(tmp_path)
    assert floor.check() == ""
    facts = os.statvfs(tmp_path)
    full = os.statvfs_result((*facts[:4], 1, *facts[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    ended = threading.Event()
    with DiskGuard((floor,), ended.set) as guard:
        assert ended.wait(60)
    with pytest.raises(ToolLimitError, match=f"only 0 MiB are free where {tmp_path} lies"):
        guard.check()
    # One that was as good as full before is no reason to end a run that writes little.
    assert Floor.of(tmp_path).check() == ""


def test_each_disk_that_is_written_is_watched_once(tmp_path: Path) -> None:
    spec = replace(SPEC, scratch=str(tmp_path), binds=(
        Mount(str(tmp_path), "/workspace", read_only=False), Mount(str(tmp_path), "/same", read_only=False),
        Mount("/proc", "/mnt/proc"),
    ))  # fmt: skip
    assert [type(bound) for bound in bounds_of(spec)] == [Bound, Floor]
