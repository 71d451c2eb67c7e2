"""Small changes in a git configuration file, made by git itself in a copy: its quoting has rules of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloned_proxy.store.files.errors import StoreError


def read(text: str) -> Any:
    """Sections with their values; of a name that stands twice the last value. Raises ValueError."""
    found: dict[str, dict[str, str]] = {}
    for entry in _git(text, "--list", "--null")[1].split("\0"):
        name, _, value = entry.partition("\n")
        section, _, key = name.rpartition(".")
        if section:
            found.setdefault(section, {})[key] = value
    return found


def raw_value(text: str, place: Sequence[str]) -> str:
    """Raises KeyError for what is not set."""
    return str(read(text)[place[0]][place[1]])


def raw_of(value: Any) -> str:
    """The value: git quotes it where it has to."""
    return str(value)


def with_value(text: str, place: Sequence[str], raw: str, *, behind: str = "") -> str:  # noqa: ARG001  git finds the place
    """The value replaced, or added by git where it thinks fit."""
    return _git(text, ".".join(place), raw)[0]


def without(text: str, place: Sequence[str]) -> str:
    """The text without the value: takes back what `with_value` added."""
    return _git(text, "--unset", ".".join(place))[0]


def _git(text: str, *words: str) -> tuple[str, str]:
    """The text after `git config`, and what git printed. Raises ValueError with git's words."""
    git = shutil.which("git")
    if git is None:
        raise StoreError("git is not installed, or not on the PATH")
    with tempfile.TemporaryDirectory(prefix="cloned-git-") as directory:
        copy = Path(directory) / "config"
        copy.write_text(text, encoding="utf-8")
        command = [git, "config", "--file", str(copy), "--no-includes", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  no shell
        if done.returncode != 0:
            raise ValueError(done.stderr.strip().replace(str(copy), "the file") or f"git config: {done.returncode}")
        return copy.read_text(encoding="utf-8"), done.stdout
