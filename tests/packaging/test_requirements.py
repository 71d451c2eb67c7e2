"""What the wheel asks for: all that its modules import, by name, and nothing that an old pip stumbles over."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.packaging.conftest import ROOT

pytestmark = pytest.mark.checkout

DEBIAN_12: Final = {"python_version": "3.11", "python_full_version": "3.11.2", "extra": ""}
WITH_ANOTHER: Final = {"pydantic-core": "pydantic"}
"""Distributions that another one pins to the very version, so that a line of their own could only contradict."""


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))))


@pytest.fixture(scope="module")
def asked(metadata: Message) -> list[Requirement]:
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def imported(folder: Path) -> Iterator[str]:
    """The first name of each absolute import, also of those inside functions."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield (node.module or "").partition(".")[0]


def test_what_is_imported_is_asked_for_by_name(asked: list[Requirement]) -> None:
    """What comes only because another package wants it leaves with that package."""
    names = {canonicalize_name(one.name) for one in asked}
    comes_from = importlib.metadata.packages_distributions()
    modules = set(imported(ROOT / "cloned_proxy")) - sys.stdlib_module_names - {"cloned_proxy"}
    assert "h2" in modules
    missing = {}
    for module in modules:
        # A namespace package, as `google`, is of several.
        known = {WITH_ANOTHER.get(name, name) for name in map(canonicalize_name, comes_from.get(module, []))}
        if not known & names:
            missing[module] = sorted(known)
    assert missing == {}
    assert "mitmproxy" not in names, "docs/mitmproxy.md says that the proxy does without"


def test_each_has_a_lowest_version(asked: list[Requirement]) -> None:
    unbound = [one.name for one in asked if not any(part.operator in {">=", "==", "~="} for part in one.specifier)]
    assert unbound == []


def test_a_python_that_is_too_old_is_named_by_pip(metadata: Message, asked: list[Requirement]) -> None:
    """What pip of Python 3.11 says depends on two things; findings/pip-names-python-last.sh has what each pip does."""
    assert metadata["Requires-Python"] == ">=3.12"
    looked_for = [one.name for one in asked if one.marker is None or one.marker.evaluate(DEBIAN_12)]
    assert "h2" in looked_for
    needs = {name: importlib.metadata.metadata(name)["Requires-Python"] or "" for name in looked_for}
    too_new = {
        name: python for name, python in needs.items() if DEBIAN_12["python_full_version"] not in SpecifierSet(python)
    }
    assert too_new == {}, "each of these needs the marker `; python_version >= '3.12'`"
