"""`make sbom`: what a wheel of this version brings along, as CycloneDX, and under which licences.

uv makes such a list from a lock file of its own, which this project does not have: its one lock is requirements.lock,
with hashes. So a lock is made in a temporary folder, held to those versions, and thrown away. That needs an index.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
_PIN: Final = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)(?: ; ([^\\]+))?", re.MULTILINE)


def bill_of_materials(uv: str) -> dict[str, Any]:
    """A CycloneDX 1.5 document of what runs, extras included. Raises CalledProcessError where uv did not get it."""
    pins = [f"{name}=={version}" for name, version, _ in _PIN.findall((ROOT / "requirements.lock").read_text())]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = sorted({each for names in project["optional-dependencies"].values() for each in names})
    version = re.search(r'^__version__ = "(.+)"', (ROOT / "cloned_proxy/__init__.py").read_text(), re.MULTILINE)
    if version is None:
        raise SystemExit("cloned_proxy/__init__.py says no __version__")
    lines = [
        "[project]",
        f"name = {json.dumps(project['name'])}",
        f"version = {json.dumps(version[1])}",
        f"requires-python = {json.dumps(project['requires-python'])}",
        f"dependencies = {json.dumps([*project['dependencies'], *extras])}",
        "[tool.uv]",
        f"constraint-dependencies = {json.dumps(pins)}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyproject.toml").write_text("\n".join(lines))
        for words in (
            ["lock", "--quiet"],
            ["export", "--quiet", "--format", "cyclonedx1.5", "--output-file", "sbom.json"],
        ):
            subprocess.run([uv, *words, "--python", sys.executable, "--project", folder], check=True, cwd=folder)
        found: dict[str, Any] = json.loads((Path(folder) / "sbom.json").read_text())
    for component in found["components"]:
        if licence := licence_of(component["name"]):
            component["licenses"] = [
                {"expression": licence} if _is_expression(licence) else {"license": {"name": licence}}
            ]
    return found


def licence_of(distribution: str) -> str:
    """What the installed package says of itself; "" where it says nothing or is for another platform."""
    try:
        said = importlib.metadata.metadata(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
    if expression := said.get("License-Expression"):
        return expression
    classified = [
        line.rpartition(" :: ")[2] for line in said.get_all("Classifier", []) if line.startswith("License ::")
    ]
    return ", ".join(classified) or (said.get("License") or "").strip().partition("\n")[0] or _title(distribution)


def _title(distribution: str) -> str:
    """The first line of the licence that lies in the package: the last place where it may say which one it is."""
    installed = importlib.metadata.distribution(distribution)
    for name in installed.metadata.get_all("License-File", []):
        if text := (installed.read_text(f"licenses/{name}") or "").strip():
            return text.partition("\n")[0].strip()
    return ""


def _is_expression(licence: str) -> bool:
    """Whether a licence is an SPDX expression: identifiers have no blanks, but for the words between them."""
    return re.fullmatch(r"[A-Za-z0-9.+()-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+()-]+)*", licence) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", required=True)
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    found = bill_of_materials(asked.uv)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(found, indent=2) + "\n")
    unsaid = [component["name"] for component in found["components"] if "licenses" not in component]
    print(f"{asked.output}: {len(found['components'])} components")
    print(f"no licence known here: {', '.join(unsaid) or 'none'}")


if __name__ == "__main__":
    main()
