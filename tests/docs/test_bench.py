"""The speed figures of docs/performance.md are those of the results that lie beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.page import block_of, with_block, write_page
from bench.report import Figure, Results, Table, write
from bench.targets import targets_of

pytestmark = pytest.mark.checkout  # the page and the results are not in the wheel

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
MACHINE = {"cores": "2", "cpu": "a processor", "python": "3.13.0"}


def some_results(ours: float) -> Results:
    figures: tuple[Figure, ...] = (
        Figure("cloned-proxy", ours, ours, 1.0, 9.0),
        Figure("Squid", 90.0, 100.0, 1.0, 10.0),
    )
    figures += (Figure("floor", 500.0, 220.0, 0.5, 6.0), Figure("direct", 700.0, 0.0, 0.2, 3.0))
    results = Results("make bench", MACHINE, {"Squid": "1.0"})
    results.tables.append(Table("setup", "Set-ups", "set-ups/s", figures))
    results.many_tunnels = {"open": 10_000.0, "MB": 140.0}
    results.fleet = {"setup, cloned-proxy in a fleet": {"median": 0.0301, "from": 0.0, "to": 0.1}, "load": 1.5}
    return results


def test_the_page_shows_the_results_that_are_in_the_repository() -> None:
    text = PAGE.read_text()
    assert with_block(text, block_of(ROOT / "bench" / "results")) == text, "run `python -m bench --page`"


def test_the_block_is_rewritten_in_place_and_only_once(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(PAGE.read_text())
    write(some_results(110.0), tmp_path, "full")
    assert write_page(page, tmp_path) == 0
    first = page.read_text()
    assert "| Set-ups (set-ups) | 110 | 100 | n/a | n/a | 220 | 50 % |" in first
    assert "| Set-ups | 1.0 / 9.0 | 1.0 / 10.0 | n/a | n/a | 0.5 / 6.0 | 0.2 / 3.0 |" in first
    assert "| p99 of a set-up, of the floor's | at most 2x | 1.50x | met |" in first
    assert write_page(page, tmp_path) == 0
    assert page.read_text() == first


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "performance.md"
    page.write_text("nothing here\n")
    assert write_page(page, tmp_path) == 1
    assert page.read_text() == "nothing here\n"
    assert "no place" in capsys.readouterr().err


def test_what_a_fleet_costs_is_judged_by_its_median() -> None:
    rows = [target.row for target in targets_of(some_results(150.0)) if "More CPU than alone" in target.row]
    assert len(rows) == 1
    assert re.search(r"\| at most 3 % \| 3\.0\d* % \| missed \|$", rows[0]), rows


@pytest.mark.parametrize(("ours", "verdict"), [(134.0, "missed"), (135.0, "met")])
def test_a_target_says_whether_it_was_met(ours: float, verdict: str) -> None:
    row = targets_of(some_results(ours))[0].row
    assert re.search(rf"\| at least 1\.35x \| [0-9.]+x \| {verdict} \|$", row)
