"""What `init` asks the engine; that it knows the images of a real one is in the walk of docs/first-hour.md."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cloned_proxy.cli.commands.workspace import images_here as asking


def test_without_an_engine_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    assert asking.images_here() == frozenset()


@pytest.mark.timeout(30)
def test_nobody_waits_for_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_SECONDS", 0.2)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/engine.sock")
        silent.listen(5)
        assert asking.images_here() == frozenset()
