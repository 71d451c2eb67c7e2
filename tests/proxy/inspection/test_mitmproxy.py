"""No module of the proxy needs mitmproxy, and what `addons/egress.py` takes of it is there: docs/mitmproxy.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import cloned_proxy

pytestmark = pytest.mark.checkout  # it reads the source and the page where they are written

ROOT = Path(__file__).parents[3]
PACKAGE = Path(cloned_proxy.__file__).parent
PAGE = ROOT / "docs/mitmproxy.md"


def imported(file: Path) -> Iterator[tuple[str, str]]:
    """(module of mitmproxy, name) of each import."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mitmproxy":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "mitmproxy")


def is_there(module: str, name: str) -> bool:
    try:
        return hasattr(import_module(module), name) or find_spec(f"{module}.{name}") is not None
    except ImportError:
        return False


def test_the_proxy_imports_nothing_of_it() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    assert {str(file.relative_to(PACKAGE)): list(imported(file)) for file in files if list(imported(file))} == {}


def test_what_the_script_takes_is_on_the_page_and_there() -> None:
    taken = set(imported(ROOT / "addons/egress.py"))
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|$", PAGE.read_text(), re.MULTILINE)
    assert {(module, name) for name, module in rows} == taken
    assert [one for one in sorted(taken) if not is_there(*one)] == [], "this mitmproxy has these no more"
