"""The sandbox's settings come from the cache for a text that was read before, and for no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import ConfigError
from cloned_proxy.store.workspaces.workspace import Workspace


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / ".cloned")
    workspace.create()
    return workspace


def plain(settings: object) -> dict[str, object]:
    """As `model_dump` has it."""
    return {name: plain(value) if hasattr(value, "__dict__") else value for name, value in vars(settings).items()}


def _write(place: Workspace, text: str) -> None:
    place.config_file.write_text(text, encoding="utf-8")
    place.config_file.chmod(0o600)


def test_what_was_read_before_reads_the_same(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "sandbox: {images: {a@v1: 'i:1'}, memory_mib: 1024, cpus: 0.5, name_addresses_of: {b@v1: off}}\n"):
        _write(place, text)
        wanted = place.config().sandbox.model_dump()
        assert place.sandbox_settings().model_dump() == wanted
        with monkeypatch.context() as patch:
            patch.setattr(Workspace, "config", lambda _self: pytest.fail("read again"))
            assert plain(place.sandbox_settings()) == wanted


def test_the_models_settings_are_kept_beside_them_but_no_variables(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(place, "llm: {engine: ollama, gpus: all, cpus: 2}\n")
    place.sandbox_settings()
    wanted = place.config().llm.model_dump()
    assert place.llm_settings().model_dump() == wanted
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "config", lambda _self: pytest.fail("read again"))
        assert plain(place.llm_settings()) == wanted
    _write(place, "llm: {env: {TOKEN: hunter2}}\n")
    assert [place.llm_settings().env for _ in range(2)] == [{"TOKEN": "hunter2"}] * 2
    assert not [
        file for file in (place.root / "cache").rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()
    ]


def test_an_edit_acts_at_once_and_a_mistake_is_said_each_time(place: Workspace) -> None:
    _write(place, "sandbox: {cpus: 2}\n")
    assert [place.sandbox_settings().cpus for _ in range(2)] == [2.0, 2.0]
    _write(place, "sandbox: {cpus: 3}\n")
    assert place.sandbox_settings().cpus == 3.0
    _write(place, "sandbox: {cpu: 3}\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match="did you mean"):
            place.sandbox_settings()


def test_a_pipe_in_the_place_of_the_file_is_refused_and_not_waited_for(place: Workspace) -> None:
    os.mkfifo(place.config_file)
    with pytest.raises(StoreError, match="not a regular file"):
        place.llm_settings()


def test_a_cache_that_others_can_write_is_not_read(place: Workspace) -> None:
    _write(place, "sandbox: {cpus: 2}\n")
    place.sandbox_settings()
    directory = place.root / "cache"
    (file,) = directory.iterdir()
    file.write_text(file.read_text().replace("2.0", "64.0"))
    assert place.sandbox_settings().cpus == 64.0  # it is what is read, as long as the directory is this user's alone
    os.chmod(directory, 0o777)  # noqa: PTH101  the attack
    assert place.sandbox_settings().cpus == 2.0


def test_no_workspace_comes_about_by_reading_one_that_is_not_there(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "none")
    assert workspace.sandbox_settings().cpus == 1.0
    assert not workspace.root.exists()
