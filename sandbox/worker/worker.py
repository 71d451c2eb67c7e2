"""The Python worker: one JSON object on stdin, one tool, one JSON line at the end of stdout.

    {"tool_id": "demo.tool@v1", "input": …, "ctx": …}   ->   {"status": "ok", "output": …}

The tool is `run(input, ctx)` in /workspace/tools/<tool id>.py, plain or async, else one of the image's own in
/opt/cloned/builtin. What a tool prints goes to stderr, so that it cannot be mistaken for the answer.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACES = (
    Path(os.environ.get("CLONED_WORKSPACE_TOOLS", "/workspace/tools")),
    Path(__file__).resolve().parent / "builtin",
)


class WorkerError(Exception):
    """The request cannot be served; the message names the place and the fix."""


def find_tool(tool_id: str, places: tuple[Path, ...] = PLACES) -> Callable[[Any, Any], Any]:
    """The tool's `run`. Raises WorkerError."""
    if not tool_id or "/" in tool_id or tool_id.startswith("."):
        raise WorkerError(f"{tool_id!r} is not a tool id")
    for place in places:
        path = place / f"{tool_id}.py"
        if path.is_file():
            return _load(path)
    raise WorkerError(f"no tool {tool_id}: put a function run(input, ctx) into /workspace/tools/{tool_id}.py")


def _load(path: Path) -> Callable[[Any, Any], Any]:
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("tool", path)
    if spec is None or spec.loader is None:
        raise WorkerError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["tool"] = module
    spec.loader.exec_module(module)
    run = getattr(module, "run", None)
    if not callable(run):
        raise WorkerError(f"{path} has no function run(input, ctx)")
    return run


def call(request: Any) -> dict[str, Any]:
    """The answer to one request; whatever the tool raises is an answer, too."""
    if not isinstance(request, dict) or not isinstance(request.get("tool_id"), str):
        return _refusal("the request is not {tool_id, input, ctx}")
    try:
        output = find_tool(request["tool_id"])(request.get("input"), request.get("ctx"))
        if inspect.isawaitable(output):
            output = asyncio.run(_result(output))
        answer = {"status": "ok", "output": output}
        json.dumps(answer, allow_nan=False)
    except WorkerError as error:
        return _refusal(str(error))
    except Exception as error:  # noqa: BLE001  a tool may raise anything; its caller gets the name and the message
        traceback.print_exc()
        return {"status": "error", "error": {"type": type(error).__name__, "message": str(error)}}
    return answer


def _refusal(message: str) -> dict[str, Any]:
    return {"status": "error", "error": {"type": "WorkerError", "message": message}}


async def _result(awaitable: Any) -> Any:
    return await awaitable


def main() -> int:
    """Serves one request; 0 when the tool said ok."""
    # The answer gets a stdout of its own; everything else that prints, child processes included, gets stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        request = json.loads(sys.stdin.buffer.read())
    except ValueError as error:
        answer = _refusal(f"the request is not JSON: {error}")
    else:
        answer = call(request)
    sys.stdout.flush()
    answers.write(json.dumps(answer) + "\n")
    answers.close()
    return 0 if answer["status"] == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
