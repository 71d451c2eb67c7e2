"""The proxy that a command starts for itself, when none serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloned_proxy.runner.link import is_served
from cloned_proxy.runner.standby import proxy_for


def test_what_lies_in_the_current_directory_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`exec` is typed in a project whose files are anybody's; what starts here runs outside of any sandbox."""
    project, workspace = tmp_path / "project", tmp_path / "ws"
    project.mkdir()
    workspace.mkdir(mode=0o700)
    for name in ("cloned_proxy", "typer", "yaml"):
        (project / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    monkeypatch.chdir(project)
    with proxy_for(workspace, lambda _: None):
        assert is_served(workspace)
    assert not (tmp_path / "imported").exists()
    assert not is_served(workspace)
