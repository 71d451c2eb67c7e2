"""Settings that a command writes: comments and the rest of the file stay, a broken file is not touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy.store.settings.config import ConfigError, load_config
from cloned_proxy.store.settings.config_edit import set_egress_proxy, set_tool_image

SIZES = ("memory_mib", "tmp_mib", "home_mib", "kept_home_mib", "scratch_mib", "pids", "open_files")


def test_the_image_of_a_tool_is_written_between_comments(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("# ours\nsandbox:\n  memory_mib: 100  # small\n")
    set_tool_image(file, "time@v1", "cloned-tool-time:1")
    set_tool_image(file, "other@v1", "mine:latest")
    set_tool_image(file, "time@v1", "cloned-tool-time:2")
    assert "# ours" in file.read_text()
    assert "# small" in file.read_text()
    settings = load_config(file).sandbox
    assert (settings.images, settings.memory_mib) == ({"time@v1": "cloned-tool-time:2", "other@v1": "mine:latest"}, 100)
    set_egress_proxy(file, "http://127.0.0.1:9")
    assert load_config(file).sandbox == settings


def test_a_file_that_is_missing_is_made(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    set_tool_image(file, "a@v1", "b:c")
    assert load_config(file).sandbox.images == {"a@v1": "b:c"}


def test_a_file_that_is_not_valid_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("sandbox: {pids: many}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:1: sandbox\.pids: should be a valid integer"):
        set_tool_image(file, "a@v1", "b:c")
    assert file.read_text() == "sandbox: {pids: many}\n"


@pytest.mark.parametrize(
    "name", ["memory_mib", "tmp_mib", "home_mib", "kept_home_mib", "scratch_mib", "pids", "open_files"]
)
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "1e12", "1g", "99999999999"])
def test_a_size_that_is_none_is_refused_with_its_line(tmp_path: Path, name: str, value: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"sandbox:\n  {name}: {value}\n")
    with pytest.raises(ConfigError, match=rf"config\.yaml:2: sandbox\.{name}: "):
        load_config(file)
