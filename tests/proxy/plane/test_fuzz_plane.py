"""The readers of the native plane against those of Python; `make fuzz` runs the same for long."""

from __future__ import annotations

import random

import pytest

from tests.proxy import fuzz
from tests.proxy.plane import fuzz_plane, fuzz_plane_plain
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


@pytest.mark.parametrize("kind", fuzz_plane_plain.KINDS)
def test_kept_messages_are_read_as_python_reads_them(readers: fuzz_plane.PlaneReaders, kind: str) -> None:
    kept = sorted((fuzz.CORPUS / f"plane-{kind}").iterdir())
    assert kept
    for path in kept:
        fuzz_plane_plain.check(readers.plain, kind, path.read_bytes())


@pytest.mark.parametrize("kind", fuzz_plane_plain.KINDS)
def test_fresh_messages_are_read_as_python_reads_them(readers: fuzz_plane.PlaneReaders, kind: str) -> None:
    rng = random.Random()
    passed = 0
    for _ in range(_INPUTS // 2):
        data = fuzz_plane_plain.KINDS[kind](rng)
        passed += fuzz_plane_plain.check(readers.plain, kind, data)
    # Where nothing came to a good end, nothing that goes on was compared.
    assert 0.03 < passed / (_INPUTS // 2) < 0.9


def test_a_reader_of_messages_that_reads_otherwise_is_heard(
    readers: fuzz_plane.PlaneReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comparison, with a reader of Python that is wrong."""
    monkeypatch.setattr(fuzz_plane_plain, "encode_request", lambda *_: b"")
    monkeypatch.setattr(fuzz_plane_plain, "_framing_of", lambda _: 9)
    monkeypatch.setattr(fuzz_plane_plain, "trailers_of", lambda _: b"X: y\r\n")
    for kind, data in fuzz_plane_plain.PLAIN.items():
        with pytest.raises(AssertionError):
            fuzz_plane_plain.check(readers.plain, kind, data)
