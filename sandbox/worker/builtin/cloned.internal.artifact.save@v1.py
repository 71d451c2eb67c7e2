"""Puts an artifact and its manifest into the scratch directory; whoever started the tool moves them to their place.

Input {"title", "text", "sources"?, "truncated"?}; output {"files", "bytes"}.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

ARTIFACT, MANIFEST = "artifact.md", "manifest.json"


def run(tool_input: Any, ctx: Any) -> dict[str, Any]:
    """Writes both files. Raises ValueError, OSError."""
    if not isinstance(tool_input, dict) or not str(tool_input.get("text", "")).strip():
        raise ValueError("there is nothing to save")
    title = str(tool_input.get("title") or "artifact")
    sources = [str(source) for source in tool_input.get("sources") or []]
    listed = "\n".join(f"{number}. <{source}>" for number, source in enumerate(sources, start=1))
    cut = "> The model did not come to an end: this text is incomplete.\n\n" if tool_input.get("truncated") else ""
    text = f"# {title}\n\n{cut}{tool_input['text']}\n" + (f"\n## Sources\n\n{listed}\n" if sources else "")
    data = text.encode()
    manifest = {
        "title": title,
        "file": ARTIFACT,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "sources": sources,
        "pipeline": (ctx or {}).get("pipeline"),
    }
    scratch = Path(os.environ.get("CLONED_SCRATCH", "/sandbox"))
    scratch.joinpath(ARTIFACT).write_bytes(data)
    scratch.joinpath(MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return {"files": [ARTIFACT, MANIFEST], "bytes": len(data)}
