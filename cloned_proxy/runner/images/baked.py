"""The programs of baked packages, and the ways in which people write a package behind npx and uvx. Reads files only."""

from __future__ import annotations

import configparser
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def npm_programs(modules: Path, name: str) -> dict[str, str]:
    """Program to path below the package, as its package.json names them."""
    described = json.loads((modules / name / "package.json").read_text(encoding="utf-8"))
    listed = described.get("bin") or {}
    named = {name: listed} if isinstance(listed, str) else listed
    return {program.rpartition("/")[2]: str(path) for program, path in named.items()}


def npx_table(versions: Mapping[str, str], programs: Mapping[str, Iterable[str]]) -> str:
    """Lines of `WRITTEN PROGRAM` for the packages with one program, or one of the package's own name."""
    return _table(
        (program, (name, f"{name}@latest", f"{name}@{version}"))
        for name, version in versions.items()
        if (program := _main(name.rpartition("/")[2], programs[name]))
    )


def uvx_table(versions: Mapping[str, str], wheels: Path) -> str:
    """The same for packages of PyPI, whose programs stand in their wheels."""
    return _table(
        (program, (name, f"{name}@latest", f"{name}@{version}", f"{name}=={version}"))
        for name, version in versions.items()
        if (program := _main(name, _console_scripts(wheels, name)))
    )


def _table(rows: Iterable[tuple[str, tuple[str, ...]]]) -> str:
    return "".join(f"{written} {program}\n" for program, ways in rows for written in ways)


def _main(name: str, programs: Iterable[str]) -> str | None:
    found = list(programs)
    if name in found:
        return name
    return found[0] if len(found) == 1 else None


def _console_scripts(wheels: Path, name: str) -> list[str]:
    for wheel in wheels.glob("*.whl"):
        if _normal(wheel.name.partition("-")[0]) != _normal(name):
            continue
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                if entry.endswith(".dist-info/entry_points.txt"):
                    points = configparser.ConfigParser(delimiters=("=",), interpolation=None)
                    points.optionxform = str  # type: ignore[assignment,method-assign]  # names are as they are written
                    points.read_string(archive.read(entry).decode())
                    return list(points["console_scripts"]) if points.has_section("console_scripts") else []
    return []


def _normal(name: str) -> str:
    """One spelling of a name on PyPI, as its specification of names has it."""
    return re.sub(r"[-_.]+", "-", name).lower()
