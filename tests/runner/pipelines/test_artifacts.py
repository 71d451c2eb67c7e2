"""What is kept of a run: costs that a tool cannot forge into something else, and a page that a browser may open."""

from __future__ import annotations

import hashlib
import html.parser
import json
import time
from pathlib import Path
from typing import Any

import pytest

from cloned_proxy.runner.pipelines.artifacts import (
    Costs,
    StepReport,
    costs_of,
    keep_artifact,
)
from cloned_proxy.runner.pipelines.report_page import report_page
from cloned_proxy.runner.runs.job import ToolResult
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.workspaces.kept import find_artifact, kept_artifacts

SOURCE = "https://one.example/?a=1&b=2"
APP = "vscode://open?x"
"""A source by its own word; a browser would start a program for it."""
HOSTILE = [
    f"<{APP}>",
    "<script>fetch('http://canary.example/')</script>",
    "![x](http://canary.example/x.png)",
    "[here](javascript:alert(1))",
    "[here](http://canary.example/?q=secret)",
    "<http://canary.example/>",
    "[x]: http://canary.example/ref\n\n[x] ![x]",
    "<img src=x onerror=alert(1)>",
    "[a](data:text/html;base64,PHNjcmlwdD4=)",
    "</main></body><iframe src=//canary.example></iframe>",
    "<style>@import 'http://canary.example/'</style>",
    '[t](http://canary.example/ "\\" onmouseover=alert(1)")',
    "| a |\n|---|\n| <svg onload=alert(1)> |",
    f"[x]({SOURCE}&more)",
]


class Reader(html.parser.HTMLParser):
    """What a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "action", "data")]


def read(text: str, **manifest: Any) -> Reader:
    reader = Reader()
    reader.feed(report_page(text, {"title": "<b>t", "sources": [SOURCE, "javascript:alert(1)", APP], **manifest}))
    return reader


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_report_is_run_fetched_or_followed(text: str) -> None:
    reader = read(text)
    assert reader.addresses == []
    assert not reader.tags & {"script", "img", "iframe", "svg", "a", "object", "form", "link", "base", "b"}
    assert not {name for name in reader.attributes if name.startswith("on")}


def test_the_sources_are_links_and_the_page_says_what_it_cost() -> None:
    text = f"# Title\n\n1. <{SOURCE}>\n\n[js](javascript:alert(1))"
    assert read(text).addresses == [SOURCE]
    page = report_page(text, {"title": "t", "sources": [SOURCE], "truncated": True, "costs": {"completion_tokens": 7}})
    assert "default-src 'none'" in page
    assert "incomplete" in page
    assert "7 written" in page


def test_a_long_or_twisted_text_is_shown_in_no_time() -> None:
    began = time.process_time()
    for text in ("x" * 3_000_000, "[" * 100_000, "*a_ " * 40_000, "> " * 100_000, "`" * 100_000):
        assert "</html>" in report_page(text, {"title": "t"})
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ({"results": []}, None),
        ("text", None),
        ({"usage": []}, None),
        (
            {"usage": {"prompt_tokens": True, "completion_tokens": -1}, "model": ["x"], "seconds": "1"},
            Costs(None, None, True, None, None, None, None),
        ),
        (
            {
                "usage": {"prompt_tokens": 9, "completion_tokens": 4},
                "model": "m",
                "finish_reason": "stop",
                "truncated": False,
                "seconds": 2,
                "first_token_seconds": 0.5,
            },
            Costs("m", "stop", False, 9, 4, 2.0, 0.5),
        ),
    ],
)
def test_costs_are_read_field_by_field(output: Any, expected: Costs | None) -> None:
    assert costs_of(output) == expected


def keep(artifacts: Path, title: str, *costs: Costs) -> Path:
    manifest = json.dumps({"title": title, "sha256": hashlib.sha256(b"text").hexdigest()}).encode()
    result = ToolResult({}, "", 0.1, 0.1, "cafe0000", {"artifact.md": b"text", "manifest.json": manifest})
    steps = [StepReport(f"s{number}", "t@v1", "r", 1.0, each) for number, each in enumerate(costs)]
    return keep_artifact(artifacts, "p", result, steps)


def test_totals_are_of_all_steps_or_unknown(tmp_path: Path) -> None:
    whole, unknown = Costs("m", "stop", False, 9, 4, 2.0, 0.5), Costs("m", "length", True, None, 4, 2.0, 0.5)
    manifest = json.loads((keep(tmp_path, "one", whole, unknown).parent / "manifest.json").read_text())
    assert manifest["costs"] == {"seconds": 2.1, "prompt_tokens": None, "completion_tokens": 8}
    assert (manifest["finish_reason"], manifest["truncated"]) == ("length", True)


def test_runs_are_listed_and_found_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    one, two = keep(tmp_path, "one").parent, keep(tmp_path, "two").parent
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "manifest.json").write_text("{")
    assert {kept.folder for kept in kept_artifacts(tmp_path)} == {one, two}
    assert find_artifact(tmp_path, one.name).folder == one
    with pytest.raises(StoreError, match="2 runs have"):
        find_artifact(tmp_path, "cafe0000")
    with pytest.raises(StoreError, match="run list"):
        find_artifact(tmp_path, "nothing")
