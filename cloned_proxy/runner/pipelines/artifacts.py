"""What pipelines made: kept with a manifest of our own and a page for a browser. `store.workspaces.kept` lists it."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.runner.pipelines.report_page import report_page
from cloned_proxy.runner.runs.job import ToolResult
from cloned_proxy.runner.values.errors import ToolFailedError
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.workspaces.kept import MANIFEST, PAGE

ARTIFACT: Final = "artifact.md"
_MAX_WORD: Final = 200


@dataclass(frozen=True, slots=True)
class Costs:
    """What a model's answer took, and how it ended, as the tool that asked says."""

    model: str | None
    finish_reason: str | None
    truncated: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float | None
    first_token_seconds: float | None


@dataclass(frozen=True, slots=True)
class StepReport:
    id: str
    tool: str
    run: str
    seconds: float
    costs: Costs | None = None
    """What a step cost that asked a model; None for any other."""


def costs_of(output: Any) -> Costs | None:
    """The costs in a step's output, each field only if it is of its type: the tool may say anything."""
    if not isinstance(output, dict) or not isinstance(output.get("usage"), dict):
        return None
    usage = output["usage"]
    return Costs(
        model=_word(output.get("model")),
        finish_reason=_word(output.get("finish_reason")),
        truncated=output.get("truncated") is not False,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        seconds=_seconds(output.get("seconds")),
        first_token_seconds=_seconds(output.get("first_token_seconds")),
    )


def keep_artifact(artifacts: Path, pipeline: str, result: ToolResult, steps: Sequence[StepReport]) -> Path:
    """Moves an artifact to its place, with a manifest of our own beside the tool's word. Raises ToolFailedError."""
    text = result.files[ARTIFACT]
    try:
        said = json.loads(result.files[MANIFEST])
        title = str(said["title"])
    except (ValueError, KeyError, TypeError) as error:
        raise ToolFailedError(f"{MANIFEST} of the tool is not a manifest: {error}") from error
    digest = hashlib.sha256(text).hexdigest()
    if said.get("sha256") != digest:
        raise ToolFailedError(f"{MANIFEST} speaks of another {ARTIFACT}: the digests differ")
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "artifact"
    folder = artifacts / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{slug}-{result.run[-8:]}"
    folder.mkdir(mode=0o700, parents=True)
    manifest = {
        "title": title,
        "file": ARTIFACT,
        "page": PAGE,
        "sha256": digest,
        "bytes": len(text),
        "sources": said.get("sources", []),
        "pipeline": pipeline,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **_totals(steps, result.seconds),
        "runs": {step.id: _run(step) for step in steps},
        "saved_by": result.run,
    }
    write_atomically(folder / ARTIFACT, text)
    write_atomically(folder / PAGE, report_page(text.decode(errors="replace"), manifest).encode())
    # The manifest last: what has one is whole.
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")
    return folder / ARTIFACT


def _totals(steps: Sequence[StepReport], last_seconds: float) -> dict[str, Any]:
    asked = [step.costs for step in steps if step.costs is not None]
    if not asked:
        return {"costs": {"seconds": _sum([*(step.seconds for step in steps), last_seconds])}}
    return {
        "model": asked[-1].model,
        "finish_reason": asked[-1].finish_reason,
        "truncated": any(costs.truncated for costs in asked),
        "costs": {
            "seconds": _sum([*(step.seconds for step in steps), last_seconds]),
            "prompt_tokens": _total([costs.prompt_tokens for costs in asked]),
            "completion_tokens": _total([costs.completion_tokens for costs in asked]),
        },
    }


def _run(step: StepReport) -> dict[str, Any]:
    run: dict[str, Any] = {"tool": step.tool, "run": step.run, "seconds": round(step.seconds, 3)}
    if step.costs is not None:
        run["first_token_seconds"] = step.costs.first_token_seconds
        run["model_seconds"] = step.costs.seconds
    return run


def _sum(seconds: Sequence[float]) -> float:
    return round(sum(seconds), 3)


def _total(counts: Sequence[int | None]) -> int | None:
    """None when one of them is not known: a sum of some would pass for the sum of all."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _word(value: Any) -> str | None:
    return value[:_MAX_WORD] if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _seconds(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and value >= 0 else None
