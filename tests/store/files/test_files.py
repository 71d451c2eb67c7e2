from __future__ import annotations

import multiprocessing
import os
import resource
import stat
from pathlib import Path

import pytest

from cloned_proxy.policy.reading.parse import PolicyError
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.private_file import create_private
from cloned_proxy.store.policyfile.policy_file import load_policy
from cloned_proxy.store.workspaces.keys import load_key, load_or_create_key

FORK = multiprocessing.get_context("fork")


def test_a_replaced_file_keeps_its_mode_and_a_new_one_is_private(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("1")
    old.chmod(0o640)
    write_atomically(old, b"2")
    write_atomically(new, b"2")
    assert (old.read_text(), stat.S_IMODE(old.stat().st_mode)) == ("2", 0o640)
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("1")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", b"2")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "2"


def _write_with_little_space(path: Path, answers: multiprocessing.Queue[str]) -> None:
    import signal  # noqa: PLC0415  only in the child

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        write_atomically(path, b"x" * 100_000)
    except StoreError as error:
        answers.put(str(error))
    else:
        answers.put("written")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("old")
    answers: multiprocessing.Queue[str] = FORK.Queue()
    process = FORK.Process(target=_write_with_little_space, args=(file, answers))
    process.start()
    message = answers.get(timeout=60)
    process.join()
    assert "the old content stands" in message
    assert "\n" not in message
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["policy.yaml"]


def _make_key(path: Path, answers: multiprocessing.Queue[bytes]) -> None:
    answers.put(load_or_create_key(path))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_processes_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    answers: multiprocessing.Queue[bytes] = FORK.Queue()
    processes = [FORK.Process(target=_make_key, args=(tmp_path / "identity.key", answers)) for _ in range(8)]
    for process in processes:
        process.start()
    keys = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(keys) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["identity.key"]
    assert stat.S_IMODE((tmp_path / "identity.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused_with_the_command(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    load_or_create_key(path)
    path.chmod(mode)
    with pytest.raises(StoreError, match=f"chmod 600 {path}"):
        load_or_create_key(path)


def test_a_key_that_is_short_or_a_link_is_refused(tmp_path: Path) -> None:
    load_or_create_key(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "short").write_bytes(b"123")
    (tmp_path / "short").chmod(0o600)
    with pytest.raises(StoreError, match="not a link"):
        load_key(tmp_path / "link")
    (tmp_path / "directory").mkdir()
    with pytest.raises(StoreError, match="not a regular file"):
        load_key(tmp_path / "directory")
    with pytest.raises(StoreError, match="not 32 bytes"):
        load_or_create_key(tmp_path / "short")
    assert (tmp_path / "short").read_bytes() == b"123"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    load_or_create_key(tmp_path / "identity.key")
    os.chown(tmp_path / "identity.key", 12345, 12345)
    with pytest.raises(StoreError, match="belongs to user 12345"):
        load_key(tmp_path / "identity.key")


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)


def _make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(50 * 1024 * 1024)


BAD_POLICY_FILES = [
    pytest.param(lambda _: None, "no policy file here", id="missing"),
    pytest.param(lambda p: p.symlink_to("nowhere"), "no policy file here", id="dangling link"),
    pytest.param(lambda p: p.symlink_to(p.name), "cannot be read", id="link to itself"),
    pytest.param(lambda p: p.mkdir(), "not a regular file", id="directory"),
    pytest.param(_make_fifo, "not a regular file", id="fifo"),
    pytest.param(_make_huge, "52428800 bytes", id="50 MB"),
    pytest.param(lambda p: p.write_bytes(os.urandom(4096)), ":", id="garbage"),
    pytest.param(lambda p: p.write_bytes(b"a: &a [*a]"), "anchors", id="cycle"),
    pytest.param(lambda p: p.write_bytes(b"- a list\n"), ":1:", id="a list"),
    pytest.param(lambda p: p.write_bytes(b"version: 2\n"), ":1:", id="unknown version"),
]


@pytest.mark.parametrize(("make", "message"), BAD_POLICY_FILES)
def test_a_bad_policy_file_is_one_clear_line(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "policy.yaml"
    make(path)  # type: ignore[operator]  # rows of a table
    with pytest.raises((StoreError, PolicyError)) as caught:
        load_policy(path, 0)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failing_test_in_the_file_rejects_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\ntests:\n  - {tool: demo@v1, allow: ['https://example.com/']}\n")
    with pytest.raises(PolicyError, match="tests"):
        load_policy(path, 0)


def test_a_key_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first = load_or_create_key(path)
    create_private(path, b"other")
    assert load_key(path) == first
