"""What the build hook puts into a wheel, and what the wheel then asks of a machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from tests.proxy.support import need_plane

pytestmark = pytest.mark.checkout

_CHECKOUT: Final = Path(__file__).parents[2]
_BUILT: Final = _CHECKOUT / "build" / "plane" / "release" / "libcloned_plane.so"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    specification = importlib.util.spec_from_file_location("native_plane", _CHECKOUT / "packaging" / "native_plane.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Without cargo, with a library that was built before."""
    need_plane()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("CARGO_TARGET_DIR", raising=False)
    monkeypatch.delenv("CARGO_BUILD_TARGET", raising=False)
    shutil.copytree(_CHECKOUT / "plane", tmp_path / "plane")
    library = tmp_path / "build" / "plane" / "release" / _BUILT.name
    library.parent.mkdir(parents=True)
    shutil.copy(_BUILT, library)
    return tmp_path


def asked(hook: ModuleType, root: Path, version: str = "standard") -> dict[str, Any]:
    data: dict[str, Any] = {"force_include": {}}
    hook.NativePlane(str(root), {}, None, None, str(root / "dist"), "wheel").initialize(version, data)
    return data


def test_a_library_that_was_built_before_is_taken_and_the_tag_says_what_it_needs(
    hook: ModuleType, checkout: Path
) -> None:
    data = asked(hook, checkout)
    library = checkout / "build" / "plane" / "release" / _BUILT.name
    assert data["force_include"] == {str(library): f"cloned_proxy/_plane/{_BUILT.name}"}
    assert data["pure_python"] is False
    begin, _, minor = data["tag"].removesuffix(f"_{platform.machine()}").rpartition("_")
    assert begin == "py3-none-manylinux_2"
    host = platform.libc_ver()[1].split(".")
    assert 17 <= int(minor) <= int(host[1])


def test_for_another_processor_it_is_what_cargo_has_built_for_it_or_an_error(
    hook: ModuleType, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cargo here is a stand-in that copies: a compiler for another processor is not everywhere."""
    monkeypatch.setenv("CARGO_BUILD_TARGET", "aarch64-unknown-linux-gnu")
    with pytest.raises(RuntimeError, match="aarch64-unknown-linux-gnu"):
        asked(hook, checkout)  # what lies there is for this machine
    built = checkout / "build" / "plane" / "aarch64-unknown-linux-gnu" / "release" / _BUILT.name
    cargo = tmp_path / "nothing" / "cargo"
    cargo.parent.mkdir()
    cargo.write_text(f"#!/bin/sh\n/bin/mkdir -p {built.parent} && /bin/cp {_BUILT} {built}\n")
    cargo.chmod(0o755)
    data = asked(hook, checkout)
    assert data["force_include"] == {str(built): f"cloned_proxy/_plane/{_BUILT.name}"}
    assert data["tag"].endswith("_aarch64")


def test_one_that_is_older_than_its_source_is_not(hook: ModuleType, checkout: Path) -> None:
    library = checkout / "build" / "plane" / "release" / _BUILT.name
    newer = library.stat().st_mtime + 60
    os.utime(checkout / "plane" / "src" / "lib.rs", (newer, newer))
    assert asked(hook, checkout) == {"force_include": {}}


def test_one_that_does_not_load_here_is_not(hook: ModuleType, checkout: Path) -> None:
    library = checkout / "build" / "plane" / "release" / _BUILT.name
    library.write_bytes(b"of another machine")
    assert asked(hook, checkout) == {"force_include": {}}


def test_without_any_the_wheel_is_for_every_machine(hook: ModuleType, checkout: Path) -> None:
    shutil.rmtree(checkout / "build")
    assert asked(hook, checkout) == {"force_include": {}}


def test_an_editable_installation_builds_nothing(hook: ModuleType, checkout: Path) -> None:
    assert asked(hook, checkout, "editable") == {"force_include": {}}
