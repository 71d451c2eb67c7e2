"""The readers of the native plane against those of Python; `make fuzz` runs the same for long."""

from __future__ import annotations

import random

import pytest

from tests.proxy import fuzz, fuzz_plane
from tests.proxy.support import connect_head, need_plane

_INPUTS = 6_000


@pytest.fixture
def readers() -> fuzz_plane.PlaneReaders:
    need_plane()
    return fuzz_plane.PlaneReaders()


def test_kept_inputs_are_read_as_python_reads_them(readers: fuzz_plane.PlaneReaders) -> None:
    for path in (fuzz.CORPUS / "head").iterdir():
        readers.check_head(path.read_bytes())
    for path in (fuzz.CORPUS / "hello").iterdir():
        readers.check_hello(path.read_bytes(), "example.com", literal=False)


def test_fresh_inputs_are_read_as_python_reads_them(readers: fuzz_plane.PlaneReaders) -> None:
    rng = random.Random()
    taken = [fuzz_plane.once(readers, rng) for _ in range(_INPUTS)]
    # Where the plane took nothing, nothing was compared.
    assert all(0.005 < sum(kind) / _INPUTS < 0.9 for kind in zip(*taken, strict=True))


def test_a_reader_that_reads_otherwise_is_heard(
    readers: fuzz_plane.PlaneReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_plane, "credential_fields", lambda _: [("x", "y")] * 3)
    with pytest.raises(AssertionError):
        readers.check_head(connect_head(443))
