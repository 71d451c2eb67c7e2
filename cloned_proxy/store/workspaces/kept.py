"""What pipelines made and left in `.cloned/artifacts/`: listed, and found again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file

MANIFEST: Final = "manifest.json"
"""Written last: what has one is whole."""
PAGE: Final = "report.html"
_MAX_MANIFEST: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeptArtifact:
    """An artifact on disk."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def costs(self) -> Mapping[str, Any]:
        """`seconds`, and where a model was asked `prompt_tokens` and `completion_tokens`."""
        found = self.manifest.get("costs")
        return found if isinstance(found, dict) else {}


def kept_artifacts(artifacts: Path) -> list[KeptArtifact]:
    """All that are whole, the newest first."""
    found = []
    for path in sorted(artifacts.glob(f"*/{MANIFEST}"), reverse=True):
        try:
            manifest = json.loads(read_regular_file(path, limit=_MAX_MANIFEST, what="manifest"))
        except (StoreError, ValueError):
            continue
        if isinstance(manifest, dict):
            found.append(KeptArtifact(path.parent, manifest))
    return found


def find_artifact(artifacts: Path, name: str) -> KeptArtifact:
    """The one whose id begins or ends with `name`; `last`: the newest. Raises StoreError for none or several."""
    known = kept_artifacts(artifacts)
    if not known:
        raise StoreError("no run was kept yet; `cloned-proxy run PIPELINE` makes one")
    named = [kept for kept in known if kept.id.startswith(name) or kept.id.endswith(name)]
    chosen = known[:1] if name == "last" else named
    if len(chosen) != 1:
        what = f"{len(chosen)} runs have" if chosen else "no run that was kept has"
        raise StoreError(f"{what} the id {name}; `cloned-proxy run list` shows them")
    return chosen[0]
