"""Which program inside the image runs a tool, and what its answer means (docs/python.md#the-program-of-a-tool)."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloned_proxy.runner.values.errors import SandboxInputError, ToolFailedError
from cloned_proxy.runner.values.spec import DEFAULT_USER

PYTHON_IMAGE: Final = "cloned-worker:latest"
NODE_IMAGE: Final = "node:20-alpine"
NODE_WORKER: Final = "dist/runtime/container/worker.js"
_SHOWN: Final = 200


class WorkerKind(enum.StrEnum):
    AUTO = "auto"
    PYTHON = "python"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class ToolProgram:
    image: str
    command: tuple[str, ...]


def choose_worker(project: Path, kind: WorkerKind, image: str | None) -> ToolProgram:
    """The worker for a project. A built Node workspace keeps its own; everything else is Python.

    Raises SandboxInputError when the Node worker is chosen and has not been built.
    """
    built = project.joinpath(NODE_WORKER).is_file()
    node_image = image is not None and _is_node(image)
    chosen = kind
    if kind is WorkerKind.AUTO:
        chosen = WorkerKind.NODE if node_image or (built and image is None) else WorkerKind.PYTHON
    if chosen is WorkerKind.PYTHON:
        return ToolProgram(image or PYTHON_IMAGE, ("python3", "/opt/cloned/worker.py"))
    if not built:
        raise SandboxInputError(f"{project / NODE_WORKER} does not exist: run `npm run build` in {project} first")
    return ToolProgram(image or NODE_IMAGE, ("node", f"/workspace/{NODE_WORKER}"))


def _is_node(image: str) -> bool:
    return image.rpartition("/")[2].partition(":")[0] == "node"


def user_of(image: str, facts: dict[str, Any]) -> str:
    """The user of a run: the image's own unless that is root; in Node's images `node`, which they do not set."""
    own = str((facts.get("Config") or {}).get("User") or "")
    if own.partition(":")[0] not in ("", "0", "root"):
        return own
    return "node" if _is_node(image) else DEFAULT_USER


def request_line(tool: str, tool_input: Any, ctx: Any) -> bytes:
    """What the worker reads. Raises SandboxInputError for what JSON cannot say."""
    try:
        text = json.dumps({"tool_id": tool, "input": tool_input, "ctx": ctx}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SandboxInputError(f"the input of {tool} is not JSON: {error}") from error
    return text.encode() + b"\n"


def read_answer(tool: str, stdout: bytes, exit_code: int, stderr: bytes) -> Any:
    """The `output` of the worker's last line. Raises ToolFailedError with what it said instead."""
    lines = stdout.rstrip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("status") not in ("ok", "error"):
        said = (stderr.strip() or stdout.strip())[-_SHOWN:].decode(errors="replace")
        raise ToolFailedError(
            f"{tool} ended with exit code {exit_code} and without its JSON line "
            f'({{"status": "ok", "output": …}}); it said: {said or "nothing"}'
        )
    if answer["status"] == "error":
        raise ToolFailedError(f"{tool}: {_message(answer.get('error'))}")
    return answer.get("output")


def _message(error: Any) -> str:
    if isinstance(error, dict):
        return str(error.get("message") or error)
    return str(error) if error else "failed without a reason"
