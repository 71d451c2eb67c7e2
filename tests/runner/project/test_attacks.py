"""A tool that may write the project tries to have this machine run something: judged by what git, here, then runs.

Every attack is carried out three times: against the real mounts, without the guards, and without the mounts that keep
directories in place. One that fails without its guard would prove nothing.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.runner.project import view as views
from cloned_proxy.runner.project.guarded import Guards, guards_of
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from tests.runner.jobs import sh
from tests.runner.project.conftest import give
from tests.runner.project.test_guarded import git
from tests.runner.project.test_project import WRITABLE

pytestmark = pytest.mark.docker


@dataclass(frozen=True)
class Attack:
    """In a repository of its own, `$R`. What runs on the host leaves a file at `$C`."""

    name: str
    script: str
    afterwards: tuple[str, ...]
    """Words of git, typed by a person who trusts the repository."""
    stopped_by_pins: bool = False


def _hook(path: str) -> str:
    return f'printf "#!/bin/sh\\ntouch $C\\n" >{path}; chmod +x {path}'


def _setting(path: str) -> str:
    return f'printf "[core]\\nfsmonitor = touch $C\\n" >>{path}'


COMMIT = ("commit", "--allow-empty", "-m", "x")
ATTACKS = [
    Attack("hook", _hook("$R/.git/hooks/pre-commit"), COMMIT),
    Attack("hook-by-link", f"ln -s .git/hooks $R/way; {_hook('$R/way/pre-commit')}", COMMIT),
    Attack("hook-by-proc", _hook("${top:-/proc/self/root}/proc/self/cwd/$R/.git/hooks/pre-commit"), COMMIT),
    Attack("config", _setting("$R/.git/config"), ("status",)),
    Attack("config-by-git", 'git -C $R config core.fsmonitor "touch $C"', ("status",)),
    Attack("config-by-rename", f"{_setting('n')}; mv -f n $R/.git/config", ("status",)),
    Attack("config-unmounted", f"umount -l $R/.git/config; {_setting('$R/.git/config')}", ("status",)),
    Attack("hooks-path", _hook("$R/scripts/hooks/pre-commit"), COMMIT),
    Attack("git-replaced", f"rm -rf $R/.git; git init -q $R; {_hook('$R/.git/hooks/pre-commit')}", COMMIT),
    Attack(
        "git-moved",
        f"mv $R/.git $R/old && cp -r $R/old $R/.git; {_hook('$R/.git/hooks/pre-commit')}",
        COMMIT,
        stopped_by_pins=True,
    ),
    Attack(
        "above-moved",
        f"mv $R old-$R && cp -r old-$R $R; {_hook('$R/.git/hooks/pre-commit')}",
        COMMIT,
        stopped_by_pins=True,
    ),
    Attack(
        "way-moved",
        f"mv $R/scripts $R/old && cp -r $R/old $R/scripts; {_hook('$R/scripts/hooks/pre-commit')}",
        COMMIT,
        stopped_by_pins=True,
    ),
]


@pytest.fixture
def project(runner: DockerContainerRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    found = runner.project
    for attack in ATTACKS:
        repository = found / attack.name
        (repository / "scripts/hooks").mkdir(parents=True)
        git("init", "-q", cwd=repository)
        if attack.name in ("hooks-path", "way-moved"):
            git("config", "core.hooksPath", "scripts/hooks", cwd=repository)
    give(found)
    found.chmod(0o755)
    monkeypatch.chdir(found)
    yield found
    for path in found.iterdir():
        if path.name != ".cloned":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _got_through(runner: DockerContainerRunner, project: Path, canaries: Path) -> set[str]:
    """The attacks after which this machine ran what the tool had written."""
    scripts = [f"(R={attack.name} C={canaries / attack.name}; {attack.script})" for attack in ATTACKS]
    seen = sh(runner, "\n".join(scripts), project=WRITABLE)
    canaries.mkdir()
    for attack in ATTACKS:
        words = ["-c", "safe.directory=*", "-c", "user.name=n", "-c", "user.email=n@example.com", *attack.afterwards]
        subprocess.run(["git", *words], cwd=project / attack.name, capture_output=True, check=False, timeout=60)
    assert "Permission denied" not in seen.err, seen.err
    return {path.name for path in canaries.iterdir()}


def test_no_attack_gets_through(runner: DockerContainerRunner, project: Path, tmp_path: Path) -> None:
    assert _got_through(runner, project, tmp_path / "canaries") == set()


def test_without_guards_every_attack_does(
    runner: DockerContainerRunner, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "guards_of", lambda *_: Guards((), (), (), ()))
    assert _got_through(runner, project, tmp_path / "canaries") == {attack.name for attack in ATTACKS}


def test_without_pins_those_do_that_move_a_directory(
    runner: DockerContainerRunner, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpinned(*arguments: Any) -> Guards:
        return replace(guards_of(*arguments), pinned=())

    monkeypatch.setattr(views, "guards_of", unpinned)
    expected = {attack.name for attack in ATTACKS if attack.stopped_by_pins}
    assert _got_through(runner, project, tmp_path / "canaries") == expected
