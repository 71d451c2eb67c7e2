"""Whoever dials by itself goes past the proxy in front: there is one place that does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout  # it reads the source where it is written

PROXY = Path(__file__).parents[4] / "cloned_proxy" / "proxy"
MAY_DIAL = {"upstream/ways.py", "upstream/chained/chained_dial.py", "upstream/chained/front.py", "upstream/dial.py"}
BY_ADDRESS = {"upstream/chained/tls.py"}
"""To the proxy in front itself."""


def _dialling(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "cloned_proxy.proxy.upstream.dial":
            yield from (f"imports {alias.name}" for alias in node.names if alias.name in {"Dial", "dial"})
        if isinstance(node, ast.ImportFrom) and node.module == "cloned_proxy.proxy.upstream":
            yield from ("imports the module" for alias in node.names if alias.name == "dial")


def _connecting(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        takes_a_socket = any(keyword.arg == "sock" for keyword in node.keywords)
        opens = node.func.attr in {"open_connection", "create_connection", "sock_connect", "connect_ex"}
        if opens and not takes_a_socket and ast.unparse(node.func).split(".")[0] in {"asyncio", "socket", "loop"}:
            yield ast.unparse(node.func)


def test_connections_to_upstreams_are_made_in_one_place() -> None:
    found: dict[str, list[str]] = {}
    for file in sorted(PROXY.rglob("*.py")):
        tree, name = ast.parse(file.read_text()), str(file.relative_to(PROXY))
        if (said := list(_dialling(tree))) and name not in MAY_DIAL:
            found[name] = said
        if (said := list(_connecting(tree))) and name not in BY_ADDRESS:
            found[name] = said
    assert found == {}
