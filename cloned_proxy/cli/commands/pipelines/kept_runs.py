"""What `run list` and `run show` print: the pipelines that there are, and what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from cloned_proxy.cli.show.output import put, put_json, visible
from cloned_proxy.cli.show.tables import show_table
from cloned_proxy.runner.pipelines.pipeline import known_pipelines
from cloned_proxy.store.workspaces.kept import PAGE, KeptArtifact, find_artifact, kept_artifacts
from cloned_proxy.store.workspaces.workspace import Workspace

_SHOWN: Final = ("title", "pipeline", "created", "model", "finish_reason", "truncated", "sha256")


def list_runs(directory: Path | None, *, as_json: bool) -> None:
    """Pipelines, then what was kept, the newest first."""
    workspace = Workspace.find(directory)
    pipelines = known_pipelines(workspace.root)
    kept = kept_artifacts(workspace.artifacts_directory)
    if as_json:
        put_json({"pipelines": pipelines, "runs": [_as_json(each) for each in kept]})
        return
    for name in pipelines:
        put(f"pipeline  {name}")
    if not kept:
        put("no run was kept yet")
        return
    show_table([_row(each) for each in kept], ("ID", "CREATED", "PIPELINE", "TOKENS", "SECONDS", "TITLE"))


def show_run(directory: Path | None, name: str, *, as_json: bool) -> None:
    """One of them: what it cost, how it ended, where it is. Raises StoreError."""
    kept = find_artifact(Workspace.find(directory).artifacts_directory, name)
    if as_json:
        put_json(_as_json(kept))
        return
    for field in _SHOWN:
        if kept.manifest.get(field) is not None:
            put(f"{field:<14} {visible(str(kept.manifest[field]))}")
    for field, value in kept.costs.items():
        if value is not None:
            put(f"{field:<14} {visible(str(value))}")
    put(f"{'page':<14} {kept.folder / PAGE}")


def _row(kept: KeptArtifact) -> tuple[str, ...]:
    costs = kept.costs
    tokens = costs.get("completion_tokens")
    cut = " (cut)" if kept.manifest.get("truncated") else ""
    return (
        kept.id,
        str(kept.manifest.get("created", "-")),
        str(kept.manifest.get("pipeline", "-")),
        f"{tokens if tokens is not None else '-'}{cut}",
        str(costs.get("seconds", "-")),
        str(kept.manifest.get("title", "-")),
    )


def _as_json(kept: KeptArtifact) -> dict[str, Any]:
    return {"id": kept.id, "folder": str(kept.folder), **kept.manifest}
