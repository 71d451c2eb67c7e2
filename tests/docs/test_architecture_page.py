"""docs/architecture.md points at functions: each of them is where the page says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(r"^\| [\w, ()]+ \| `([\w.]+)` \|$", re.MULTILINE)


def is_there(dotted: str) -> bool:
    parts = dotted.split(".")
    for length in range(len(parts) - 1, 0, -1):
        file = (ROOT / "cloned_proxy/proxy").joinpath(*parts[:length]).with_suffix(".py")
        if file.is_file():
            return _defines(ast.parse(file.read_text(encoding="utf-8")), parts[length:])
    return False


def _defines(tree: ast.AST, names: list[str]) -> bool:
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    found = [node for node in ast.iter_child_nodes(tree) if isinstance(node, kinds) and node.name == names[0]]
    return bool(found) and (len(names) == 1 or _defines(found[0], names[1:]))


def test_each_phase_has_the_function_that_the_page_names() -> None:
    named = _ROW.findall((ROOT / "docs/architecture.md").read_text(encoding="utf-8"))
    assert len(named) > 8, "the table of the functions was not found"
    assert [each for each in named if not is_there(each)] == []


def test_a_function_that_is_gone_is_noticed() -> None:
    assert is_there("enforce.enforcer.Enforcer.finish")
    assert not is_there("enforce.enforcer.Enforcer.finished")
    assert not is_there("enforce.nowhere.Enforcer.finish")
