"""Which plane serves, and that whatever is wrong with the library costs speed and nothing else."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from cloned_proxy.proxy.plane import choice, library
from cloned_proxy.proxy.plane.choice import PlaneMode, choose
from cloned_proxy.store.files.errors import StoreError
from tests.proxy.support import need_plane


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the one library would be that is looked for."""
    path = tmp_path / library.NAME
    monkeypatch.setattr(library, "PLACES", (path,))
    return path


def _built() -> Path:
    need_plane()
    found = library.find()
    assert found is not None
    return found


def _of_another_processor(data: bytes) -> bytes:
    return data[:18] + b"\xb7\x00" + data[20:]  # e_machine of ELF: aarch64


BROKEN: Final[dict[str, Callable[[bytes], bytes]]] = {
    "not a library": lambda _: b"no library",
    "empty": lambda _: b"",
    "a byte short": lambda data: data[:-1],
    "cut off": lambda data: data[: len(data) // 2],
    "of another processor": _of_another_processor,
    "a symbol is missing": lambda data: data.replace(b"plane_publish", b"plane_punlish"),
    "of another C library": lambda data: data.replace(b"GLIBC_2.34", b"GLIBC_9.99"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_library_that_does_not_fit_is_python_with_the_reason(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _built().read_bytes()
    path = tmp_path / library.NAME
    path.write_bytes(BROKEN[what](data))
    monkeypatch.setattr(library, "PLACES", (path,))
    chosen = choose(PlaneMode.AUTO)
    assert (chosen.plane, chosen.library) == ("python", None)
    assert str(path) in chosen.why
    with pytest.raises(StoreError, match=r"cannot be used: .*--plane off"):
        choose(PlaneMode.REQUIRE)


def test_a_library_whose_structures_are_others_is_never_handed_a_pointer(monkeypatch: pytest.MonkeyPatch) -> None:
    _built()
    monkeypatch.setattr(library, "_ABI", (*library._ABI[:-1], library._ABI[-1] + 8))
    chosen = choose(PlaneMode.AUTO)
    assert chosen.plane == "python"
    assert "of another version" in chosen.why


def test_without_a_library_python_serves_and_says_how_to_get_one(place: Path) -> None:
    chosen = choose(PlaneMode.AUTO)
    assert (chosen.plane, chosen.why) == ("python", "it is not built; run `make plane` in a checkout")
    with pytest.raises(StoreError, match="make plane"):
        choose(PlaneMode.REQUIRE)
    assert not place.exists()


def test_off_does_not_even_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find", lambda: pytest.fail("looked"))
    assert choose(PlaneMode.OFF).as_data() == {"serving": "python", "why": "--plane off"}


def test_a_library_that_fits_is_taken_and_workers_are_its_threads_where_it_is_asked_for() -> None:
    path = _built()
    assert choose(PlaneMode.AUTO) == choice.PlaneChoice(PlaneMode.AUTO, path, "1 thread", 1)
    assert choose(PlaneMode.REQUIRE, workers=3).why == "3 threads"
    many = choose(PlaneMode.AUTO, workers=3)
    assert (many.plane, "--plane require" in many.why) == ("python", True)


@pytest.mark.checkout
def test_one_that_is_older_than_its_source_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "plane"
    (source / "src").mkdir(parents=True)
    for name in ("Cargo.toml", "src/lib.rs"):
        (source / name).write_text("")
    built = tmp_path / "build" / library.NAME
    built.parent.mkdir()
    shutil.copy(_built(), built)
    monkeypatch.setattr(library, "PLACES", (tmp_path / "none", built))
    monkeypatch.setattr(library, "_PACKAGE", tmp_path / "cloned_proxy")
    assert choose(PlaneMode.AUTO).plane == "native"
    newer = built.stat().st_mtime + 60
    os.utime(source / "src" / "lib.rs", (newer, newer))
    chosen = choose(PlaneMode.AUTO)
    assert (chosen.plane, "older than its source" in chosen.why) == ("python", True)


def test_the_sizes_that_are_compared_are_those_of_the_library() -> None:
    loaded = library.load(_built())
    form = (ctypes.c_size_t * len(library._ABI))()
    loaded.plane_abi(ctypes.byref(form))
    assert tuple(form) == library._ABI
