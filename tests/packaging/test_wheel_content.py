"""The wheel is the source, byte for byte: what the suite proves of the source, it proves of the wheel."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import stat
import subprocess
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

from cloned_proxy import __version__
from cloned_proxy.proxy.plane.library import NAME
from tests.packaging.conftest import ROOT

pytestmark = pytest.mark.checkout

SHARED: Final = ("addons", "config", "dashboards", "compose", "sandbox")
_EXTRA: Final = re.compile(r"""extra == ["']([^"']+)""")
PLANE: Final = f"cloned_proxy/_plane/{NAME}"


@pytest.fixture(scope="module")
def archive(request: pytest.FixtureRequest) -> zipfile.ZipFile:
    """The wheel that TESTED_WHEEL names (`make test-wheel` does), else one that is built here."""
    given = os.environ.get("TESTED_WHEEL")
    return zipfile.ZipFile(given or request.getfixturevalue("wheel"))


def source_files() -> dict[str, Path]:
    """By its place in the wheel, each file of the program and of the folders beside it."""
    found = {path: path.relative_to(ROOT) for path in (ROOT / "cloned_proxy").rglob("*")}
    for name in SHARED:
        found |= {path: Path("cloned_proxy/_share") / path.relative_to(ROOT) for path in (ROOT / name).rglob("*")}
    return {
        place.as_posix(): path
        for path, place in found.items()
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def test_each_module_and_data_file_is_in_the_wheel_byte_for_byte(archive: zipfile.ZipFile) -> None:
    files = source_files()
    named = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert named - {PLANE} == set(files)
    assert [name for name, path in sorted(files.items()) if archive.read(name) != path.read_bytes()] == []


def test_the_files_that_are_compared_are_those_of_the_repository() -> None:
    """A file that nobody has committed is in no clone, and so in no wheel that is built from one."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no repository: this is not a clone")
    git: list[str | Path] = ["git", "-C", ROOT, "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    listed = subprocess.run(
        [*git, "cloned_proxy", *SHARED], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split("\0")
    assert {path.relative_to(ROOT).as_posix() for path in source_files().values()} == {name for name in listed if name}


def test_a_file_keeps_its_right_to_be_run(archive: zipfile.ZipFile) -> None:
    runnable = {name for name, path in source_files().items() if path.stat().st_mode & stat.S_IXUSR}
    found = {each.filename for each in archive.infolist() if (each.external_attr >> 16) & stat.S_IXUSR}
    assert found - {PLANE} == runnable


def test_the_native_plane_in_it_is_the_one_that_the_suite_runs(archive: zipfile.ZipFile) -> None:
    built = ROOT / "build" / "plane" / "release" / NAME
    assert built.is_file() or not os.environ.get("CI"), "the native plane is not built: make plane"
    if not built.is_file():
        assert PLANE not in archive.namelist()
        pytest.skip("the native plane is not built: make plane")
    assert archive.read(PLANE) == built.read_bytes()


def requirement(line: str, extra: str = "") -> tuple[str, list[str], str, str]:
    """Name, extras of it, versions, and which extra of ours it belongs to; other markers are as they stand."""
    read = Requirement(line)
    ours = extra or ("".join(_EXTRA.findall(str(read.marker))) if read.marker else "")
    return read.name, sorted(read.extras), str(read.specifier), ours


def test_what_it_says_of_itself_is_what_pyproject_says(archive: zipfile.ZipFile) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = f"cloned_proxy-{__version__}.dist-info"
    scripts = configparser.ConfigParser()
    scripts.read_string(archive.read(f"{info}/entry_points.txt").decode())
    assert {name: dict(scripts[name]) for name in scripts.sections()} == {"console_scripts": project["scripts"]}
    told = message_from_bytes(archive.read(f"{info}/METADATA"))
    assert (told["Name"], told["Version"], told["Requires-Python"]) == (
        project["name"],
        __version__,
        project["requires-python"],
    )
    wanted = [(line, "") for line in project["dependencies"]]
    for extra, lines in project["optional-dependencies"].items():
        wanted += [(line, extra) for line in lines]
    assert set(told.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    assert sorted(map(requirement, told.get_all("Requires-Dist", []))) == sorted(
        requirement(line, extra) for line, extra in wanted
    )
    assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_each_test_that_runs_against_the_wheel_is_there_for_a_reason() -> None:
    lines = (ROOT / "tests" / "wheel" / "chosen.txt").read_text(encoding="utf-8").splitlines()
    chosen = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert [words for words in chosen if len(words) == 1] == []
    missing = [place for place, _ in chosen if not (ROOT / place.partition("::")[0]).exists()]
    assert missing == []
