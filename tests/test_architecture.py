"""Imports go down one list, and the policy touches nothing but values."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout  # it reads the source where it is written

PACKAGE = Path(__file__).parents[1] / "cloned_proxy"
LAYERS = ("cli", "control", "notify", "fetch", "runner", "proxy", "fleet", "store", "telemetry", "policy")
PURE = {"__future__", "cloned_proxy", "idna", "packaging", "pydantic", "pydantic_core", "publicsuffixlist",
        "base64", "binascii",
        "collections", "dataclasses", "datetime", "difflib", "enum", "functools", "hashlib", "hmac", "ipaddress",
        "json",
        "math", "re", "shlex", "types", "typing", "unicodedata", "urllib"}  # fmt: skip


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def _files(layer: str) -> list[Path]:
    return sorted((PACKAGE / layer).rglob("*.py"))


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_down(layer: str) -> None:
    above = {f"cloned_proxy.{name}" for name in LAYERS[: LAYERS.index(layer)]}
    wrong = [
        f"{file.relative_to(PACKAGE)}: {name}"
        for file in _files(layer)
        for name in _imports(file)
        if ".".join(name.split(".")[:2]) in above
    ]
    assert wrong == []


def test_the_policy_does_no_io_and_reads_no_clock() -> None:
    used = {name.split(".")[0] for file in _files("policy") for name in _imports(file)}
    assert _files("policy")
    assert used - PURE == set()
    assert not {name for file in _files("policy") for name in _imports(file)} & {"urllib.request", "urllib.robotparser"}
    libraries = {"cloned_proxy", "idna", "packaging", "pydantic", "pydantic_core", "publicsuffixlist"}
    assert sys.stdlib_module_names > PURE - libraries


def test_no_clock_is_read_through_datetime() -> None:
    calls = [
        f"{file.name}:{node.lineno}"
        for file in _files("policy")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}
    ]
    assert calls == []


def _exit_literals(file: Path) -> Iterator[str]:
    """Numbers where an exit code is said: in a call that ends the program, or as `code=` of an error."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        said = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        if name in {"Exit", "exit", "_exit", "SystemExit"}:
            said += node.args
        yield from (
            f"{file.name}:{node.lineno}" for each in said if isinstance(each, ast.Constant) and type(each.value) is int
        )


def test_exit_codes_have_names() -> None:
    assert [found for layer in LAYERS for file in _files(layer) for found in _exit_literals(file)] == []
