"""How long an MCP server takes to start and to answer in the sandbox, beside the same server without one.

python -m bench.mcp              needs an engine and npm's registry; part of `make bench`

Goals: `mcp run` of a baked server is initialized within 1.5 of the plain one and half a second, and a call takes at
most 0.3 ms more. A proxy serves the workspace meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.alone import bring_images
from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.mcp.baking import bake
from cloned_proxy.runner.mcp.packages import parse_package
from cloned_proxy.runner.slots.standby import proxy_for
from cloned_proxy.runner.values.errors import SandboxError

PACKAGE = "@modelcontextprotocol/server-everything@2026.8.31"
ROUNDS = 5
CALLS = 300
HELLO = {
    "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"},
}  # fmt: skip


class Server:
    """A server over stdio; one call at a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._calls = 0

    def call(self, method: str, params: dict[str, Any]) -> None:
        """Returns with the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._calls += 1
        message = {"jsonrpc": "2.0", "id": self._calls, "method": method, "params": params}
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()
        while line := self._process.stdout.readline():
            if json.loads(line).get("id") == self._calls:
                return
        raise SystemExit(f"{self._process.args!r} ended")


@contextmanager
def started(command: Sequence[str]) -> Iterator[Server]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        yield Server(process)
        if process.stdin is not None:
            process.stdin.close()


def times(command: Sequence[str]) -> tuple[float, list[float]]:
    """Milliseconds to the answer to `initialize`, and of each call."""
    began = time.perf_counter()
    with started(command) as server:
        server.call("initialize", HELLO)
        initialized = (time.perf_counter() - began) * 1000
        calls = []
        for number in range(CALLS):
            began = time.perf_counter()
            server.call("tools/call", {"name": "echo", "arguments": {"message": f"{number}"}})
            calls.append((time.perf_counter() - began) * 1000)
    return initialized, calls


def plain_command(image: str, folder: Path) -> list[str]:
    """The very files of the image, run on the host by the image's own Node."""
    container = subprocess.run(["docker", "create", image], check=True, capture_output=True, text=True).stdout.strip()
    try:
        for path in ("/usr/local/lib/node_modules", "/usr/local/bin/node"):
            subprocess.run(["docker", "cp", f"{container}:{path}", folder], check=True, capture_output=True)
    finally:
        subprocess.run(["docker", "rm", container], check=True, capture_output=True)
    name = PACKAGE.rpartition("@")[0]
    return [str(folder / "node"), str(folder / "node_modules" / name / "dist" / "index.js")]


def measure(engine: Engine) -> dict[str, float | bool]:
    """Every figure, and whether the goals are met."""
    image = bake(engine, parse_package("npm", PACKAGE), lambda _: None)
    with tempfile.TemporaryDirectory() as directory:
        workspace = Path(directory) / "code" / ".cloned"
        workspace.mkdir(parents=True, mode=0o700)
        (workspace / "mcp.yaml").write_text(
            f"servers: {{it: {{tool: it@v1, command: npx, args: [-y, '{PACKAGE}'], image: '{image}'}}}}\n"
        )
        ours = [sys.executable, "-m", "cloned_proxy", "mcp", "run", "it", "--workspace", str(workspace)]
        theirs = plain_command(image, Path(directory))
        with proxy_for(workspace, lambda _: None):
            times(ours)  # what is made once: the home, the caches
            rounds = [(times(ours), times(theirs)) for _ in range(ROUNDS)]
    mine, other = (statistics.median(each[side][0] for each in rounds) for side in (0, 1))
    call, plain = (statistics.median(t for each in rounds for t in each[side][1]) for side in (0, 1))
    return {
        "mcp_initialize_ms": round(mine),
        "mcp_initialize_plain_ms": round(other),
        "mcp_initialize_ratio": round(mine / other, 2),
        "mcp_call_p50_ms": round(call, 2),
        "mcp_call_p50_plain_ms": round(plain, 2),
        "mcp_goals_met": mine <= 1.5 * other + 500 and call <= plain + 0.3,
    }


def main() -> int:
    """Prints one JSON object."""
    figures: dict[str, float | bool] = {}
    try:
        bring_images()
        with contextlib.closing(Engine.connect()) as engine:
            figures = measure(engine)
    except SandboxError as error:
        sys.stderr.write(f"MCP servers are not measured: {error}\n")
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
