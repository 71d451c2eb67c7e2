"""`make install` for a user with an empty home: on the PATH, isolated, from hashed dependencies; and away again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

pytestmark = pytest.mark.checkout

SCRIPT = ROOT / "packaging" / "user-install.sh"


class Home:
    """A user's home, and a checkout to install from."""

    def __init__(self, path: Path, wheel: Path) -> None:
        self.home, self.checkout = path / "home", path / "checkout"
        self.home.mkdir()
        (self.checkout / "dist").mkdir(parents=True)
        (self.checkout / "compose").mkdir()
        shutil.copy(wheel, self.checkout / "dist")
        shutil.copy(ROOT / "compose" / "requirements.lock", self.lock)
        for name in (".uv", ".venv"):
            (self.checkout / name).symlink_to(ROOT / name)
        cache = subprocess.run([ROOT / ".uv/bin/uv", "cache", "dir"], capture_output=True, text=True, check=True)
        self.environment = {
            "HOME": str(self.home),
            "PATH": f"{self.home}/.local/bin:/usr/bin:/bin",
            "UV_CACHE_DIR": cache.stdout.strip(),
            "UV_COMPILE_BYTECODE": "0",  # seconds of work that this test does not look at
        } | {
            name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_")) and "TOOL" not in name
        }

    @property
    def lock(self) -> Path:
        return self.checkout / "compose" / "requirements.lock"

    @property
    def link(self) -> Path:
        return self.home / ".local" / "bin" / "cloned-proxy"

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.checkout, env=self.environment, capture_output=True, text=True, timeout=100, check=False
        )

    def installed(self) -> set[str]:
        return {place.name for place in (self.home / ".local/share/cloned-proxy").glob("*")}


@pytest.fixture
def home(tmp_path: Path, wheel: Path) -> Home:
    return Home(tmp_path, wheel)


def test_install_upgrade_and_uninstall(home: Home) -> None:
    done = home.run(SCRIPT, "install")
    assert done.returncode == 0, done.stderr
    assert "not on the PATH" not in done.stdout
    version = home.run("cloned-proxy", "--version")
    assert re.fullmatch(r"cloned-proxy [0-9.]+\n", version.stdout), version.stderr
    assert "`cloned-proxy token TOOL`" in home.run("cloned-proxy", "proxy", "--set", "http://a:b@127.0.0.1:81").stderr
    manual = home.home / ".local/share/man/man1/cloned-proxy.1"
    assert ".SS serve" in manual.read_text()
    assert "complete " in (home.home / ".local/share/bash-completion/completions/cloned-proxy").read_text()
    first = home.link.resolve()
    assert not first.is_relative_to(home.checkout)

    # Again, as an upgrade: the link leads to the new one, and what runs from the old one keeps its files, once.
    assert home.run(SCRIPT, "install").returncode == 0
    second = home.link.resolve()
    assert second != first
    assert first.exists()
    assert home.run(SCRIPT, "install").returncode == 0
    assert not first.exists()
    assert second.exists()

    # A dependency that is not the one of the lock stops it, and the program that was there stays.
    before = home.link.resolve(), home.installed()
    home.lock.write_text(re.sub(r"sha256:[0-9a-f]{4}", "sha256:0000", home.lock.read_text()))
    failed = home.run(SCRIPT, "install")
    assert failed.returncode != 0
    assert "Hash mismatch" in failed.stderr
    assert (home.link.resolve(), home.installed()) == before
    assert home.run("cloned-proxy", "--version").returncode == 0

    done = home.run(SCRIPT, "uninstall")
    assert (done.returncode, "removed" in done.stdout) == (0, True)
    assert [path for path in (home.home / ".local").rglob("*cloned-proxy*") if not path.is_dir()] == []
    assert home.installed() == set()
    again = home.run(SCRIPT, "uninstall")
    assert (again.returncode, "is not installed" in again.stdout) == (0, True)


@pytest.mark.parametrize("words", ["install", "uninstall"])
def test_a_program_that_another_installer_put_there_is_left_alone(home: Home, words: str) -> None:
    theirs = home.home / "tools" / "cloned-proxy"
    theirs.parent.mkdir()
    theirs.touch()
    home.link.parent.mkdir(parents=True)
    home.link.symlink_to(theirs)
    done = home.run(SCRIPT, words)
    assert done.returncode == 1
    assert "pipx uninstall cloned-proxy" in done.stderr
    assert home.link.readlink() == theirs
    assert home.installed() == set()
