"""A claim names the test that holds it: each test that SECURITY.md and the threat model name is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from handbook.fleet_table import ATTACKS, FAULTS
from handbook.threat_page import ELSEWHERE

pytestmark = pytest.mark.checkout

ROOT: Final = Path(__file__).resolve().parents[2]
_PLACE: Final = re.compile(r"`((?:tests/)?[\w./-]*)`")
_OUT: Final = re.compile(r"broken|without|guarded|control|removed|taken out", re.IGNORECASE)


def claims(text: str) -> Iterator[tuple[str, list[str]]]:
    """What an attacker tries, and the places in the last column of its row."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 3 and "`test" in cells[2]:
            yield cells[0], [place for place in _PLACE.findall(cells[2]) if place.startswith("test")]


def missing(places: list[str]) -> list[str]:
    """Places where there is no test. `test_x.py` alone lies in the folder of the place before it."""
    absent: list[str] = []
    folder = ROOT
    for place in places:
        path = ROOT / place if place.startswith("tests/") else folder / place
        folder = path if path.suffix == "" else path.parent
        tests = list(path.rglob("test_*.py")) if path.is_dir() else [path] if path.is_file() else []
        if not any("def test_" in each.read_text(encoding="utf-8") or "ATTACKS" in each.read_text() for each in tests):
            absent.append(place)
    return absent


def test_each_claim_names_a_test_that_is_there() -> None:
    found = list(claims((ROOT / "SECURITY.md").read_text(encoding="utf-8")))
    assert len(found) > 50, "the tables of claims were not found"
    assert {claim: absent for claim, places in found if (absent := missing(places))} == {}
    assert [claim for claim, places in found if not places] == []


def test_each_test_that_takes_guards_out_does_so() -> None:
    for place in ELSEWHERE:
        assert _OUT.search((ROOT / place).read_text(encoding="utf-8")), f"{place}: nothing is taken out there"


def test_each_test_of_the_fleets_table_is_there_and_takes_out_what_it_says() -> None:
    for claim in (*ATTACKS, *FAULTS):
        assert claim.tests, claim.what
        for test in (*claim.tests, *claim.broken):
            path, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), test
        for test in claim.broken:
            path, _, name = test.partition("::")
            _, _, body = (ROOT / path).read_text(encoding="utf-8").partition(f"def {name}(")
            assert _OUT.search(name + body.partition("\n\n\n")[0]), f"{test}: nothing is taken out there"


def test_a_test_that_is_gone_is_missed() -> None:
    text = "| reach a host | a guard | `tests/policy`, `tests/docs/test_gone.py`, `test_links.py`, `test_lost.py` |\n"
    [(claim, places)] = claims(text)
    assert claim == "reach a host"
    assert missing(places) == ["tests/docs/test_gone.py", "test_lost.py"]
