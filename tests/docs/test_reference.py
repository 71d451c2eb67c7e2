"""The pages that the code writes of itself are as it would write them now, and their examples are what it takes."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Annotated, Final

import pytest
import yaml
from pydantic import BaseModel, Field

from cloned_proxy import load_policy
from cloned_proxy.store.settings.config import load_config
from handbook.__main__ import PAGES
from handbook.models import MeaningMissingError, keys
from handbook.reference import ExampleMissingError, documents_of, sections

pytestmark = pytest.mark.checkout

ROOT: Final = Path(__file__).resolve().parents[2]
HANDBOOK: Final = ROOT / "handbook"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_says_of_itself(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "run `make reference`"


def test_the_settings_of_the_examples_are_taken(tmp_path: Path) -> None:
    documents = documents_of(HANDBOOK / "config.yaml")
    assert len(documents) > 1
    for number, document in enumerate(documents):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(document))
        load_config(file)


def test_the_policy_and_the_preset_of_the_examples_are_taken(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "example.yaml").write_text((HANDBOOK / "preset.yaml").read_text())
    policy = (HANDBOOK / "policy.yaml").read_text().replace("use: [github-read]", "use: [example]")
    (tmp_path / "policy.yaml").write_text(policy)
    hosts = {str(rule.pattern) for rule in load_policy(tmp_path / "policy.yaml").rules}
    assert {"api.example.com", "registry.example.com", "*.cdn.example.com"} <= hosts


class Example(BaseModel):
    told: Annotated[int, Field(ge=1, le=9)] = 3
    """What it means. None: never."""
    untold: int = 0


class Told(BaseModel):
    told: int = 0
    """What it means."""


def test_a_key_without_a_meaning_or_an_example_fails() -> None:
    found = keys(Example, {})
    key = next(found)
    assert (key.kind, key.default, key.meaning) == ("whole number, 1 to 9", "`3`", "What it means. Not set: never.")
    with pytest.raises(MeaningMissingError, match=r"Example\.untold: write below it what it means"):
        next(found)
    with pytest.raises(ExampleMissingError, match="told"):
        list(sections(Told, [{}], "(the file)", "", {}, set()))


def test_each_metric_of_the_code_is_on_the_page() -> None:
    """The collectors are named one by one by the page's writer; this looks for one that it has missed."""
    named = set()
    for file in (ROOT / "cloned_proxy").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "prometheus_client" in text else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                first = node.args[0]
                if node.func.id in {"Counter", "Gauge", "Histogram"} and isinstance(first, ast.Constant):
                    named.add(first.value)
    assert len(named) > 20
    shown = {name.removesuffix("_total") for name in re.findall(r"^\| `(\w+)`", PAGES["metrics.md"](), re.MULTILINE)}
    assert named == shown


def test_no_dependency_is_under_a_licence_that_nobody_has_read() -> None:
    """Of the GPL family LGPL is read and there is none today; AGPL and GPL would bind who ships this program."""
    rows = re.findall(r"^\| ([\w-]+) \| [^|]+ \| ([^|]*) \|", PAGES["licences.md"](), re.MULTILINE)
    assert len(rows) > 40
    assert [name for name, licence in rows if not licence.strip()] == []
    assert [name for name, licence in rows if "GPL" in licence or "General Public" in licence] == []
