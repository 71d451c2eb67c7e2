"""The text files of a folder of the project, for a model to read. Needs no network, and no rule.

Input {"folder"?, "max_characters"?}; output {"folder", "results": [{"title", "url", "snippet"}], "skipped": [path, …]},
where `url` is the path in the project. Hidden files, links, and what is not UTF-8 text are left out; what no longer
fits is listed as skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_CHARACTERS = 24_000
"""About 6000 tokens: what fits into the context of most local models beside an answer."""
MAX_FILE = 1024 * 1024
MAX_FILES = 2000
SHARE = 4
"""No file takes more than this part of all."""


def run(tool_input: Any, ctx: Any) -> dict[str, Any]:  # noqa: ARG001  the interface of all tools
    """Reads. Raises ValueError for a folder that is none of the project's, and for one without text."""
    given = tool_input if isinstance(tool_input, dict) else {}
    name = str(given.get("folder") or ".")
    left = int(given.get("max_characters") or MAX_CHARACTERS)
    project = Path(os.environ.get("CLONED_WORKSPACE_TOOLS", "/workspace/tools")).parent.resolve()
    folder = (project / name).resolve()
    if not folder.is_relative_to(project) or not folder.is_dir():
        raise ValueError(f"{name!r} is no folder of the project")
    share = max(1, left // SHARE)
    results: list[dict[str, str]] = []
    skipped: list[str] = []
    for path in _files(folder):
        shown = str(path.relative_to(project))
        text = _text(path)
        if text is None:
            continue
        if left <= 0:
            skipped.append(shown)
            continue
        part = text[: min(share, left)]
        left -= len(part)
        cut = f"\n[… {len(text) - len(part)} more characters]" if len(part) < len(text) else ""
        results.append({"title": path.name, "url": shown, "snippet": part + cut})
    if not results:
        raise ValueError(f"{name!r} has no text file in it")
    return {"folder": name, "results": results, "skipped": skipped[:MAX_FILES]}


def _files(folder: Path) -> Iterator[Path]:
    seen = 0
    for directory, names, files in os.walk(folder):  # does not follow links
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(directory) / name
            if name.startswith(".") or path.is_symlink() or not path.is_file():
                continue
            seen += 1
            if seen > MAX_FILES:
                return
            yield path


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE)
    except OSError:
        return None
    if b"\0" in raw:
        return None
    try:
        text = raw.decode(errors="ignore" if len(raw) == MAX_FILE else "strict")
    except UnicodeDecodeError:
        return None
    return text if text.strip() else None
