"""Looks for a secret wherever a program of ours may have left it, in the spellings that a careless one would use."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from urllib.parse import quote


def places_with(secret: str, *, directories: list[Path], processes: list[int], texts: dict[str, str]) -> list[str]:
    """Every file, process environment, command line and text that holds it."""
    needles = {secret.encode(), base64.b64encode(secret.encode()).rstrip(b"="), quote(secret, safe="").encode()}
    contents = {f"file {path.name}": path.read_bytes() for top in directories for path in _files(top)}
    for pid in _with_children(processes):
        for name in ("environ", "cmdline"):
            try:
                contents[f"{name} of {pid}"] = Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                if pid in processes:  # a child may end meanwhile
                    raise
    contents |= {f"text {name}": text.encode() for name, text in texts.items()}
    return sorted(place for place, content in contents.items() if any(needle in content for needle in needles))


def _files(top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if path.is_file() and not path.is_symlink()]


def _with_children(processes: list[int]) -> list[int]:
    found = list(processes)
    for pid in found:
        with contextlib.suppress(OSError):  # so may a child
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):  # a thread may end meanwhile: opening says ENOENT, reading ESRCH
                    found += [int(child) for child in (task / "children").read_text().split()]
    return found
