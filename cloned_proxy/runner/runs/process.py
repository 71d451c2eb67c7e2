"""`--sandbox process`: the embedded default where no engine exists. A request to the tool, not a wall around it.

The handler runs in a process of its own with a minimal environment, a credential of its own in the proxy variables,
and limits on time and output. Code that wants to go round the proxy can: whoever needs a wall needs an engine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Final

from cloned_proxy.local.slot_protocol import DRY_RUN_MARK, RunEnd
from cloned_proxy.policy.callers.identity import Claims, mint_token, proxy_url
from cloned_proxy.runner.files.files import read_scratch
from cloned_proxy.runner.images.tool_program import read_answer, request_line
from cloned_proxy.runner.runs.job import DEFAULT_TIMEOUT, ToolResult, Watch
from cloned_proxy.runner.slots.link import proxy_status, tell_end
from cloned_proxy.runner.trust.trust import read_ca_files, write_trust
from cloned_proxy.runner.values.environment import ca_environment, proxy_environment
from cloned_proxy.runner.values.errors import ProxyLinkError, SandboxError, ToolLimitError, ToolTimeoutError
from cloned_proxy.runner.values.spec import MIB, SandboxLimits, check_tool_id
from cloned_proxy.share import share_path
from cloned_proxy.store.workspaces.keys import load_or_create_key
from cloned_proxy.store.workspaces.workspace import Workspace

_MAX_OUTPUT: Final = 8 * MIB
_POLL_SECONDS: Final = 0.02
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class ProcessRunner:
    """Runs tools as processes of this user. The same interface as `DockerContainerRunner.run_tool`."""

    def __init__(self, *, workspace: Path, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.workspace = workspace
        self._timeout = timeout
        self._key = load_or_create_key(Workspace(workspace).identity_key)

    def run_tool(
        self,
        tool_id: str,
        input: Any,  # noqa: A002  as in the object that the tool reads
        ctx: Any = None,
        *,
        timeout: float | None = None,
        files: tuple[str, ...] = (),
        dry_run: bool = False,
        watch: Watch | None = None,
    ) -> ToolResult:
        """Runs one tool with the Python worker; `watch` sees what it prints. Raises SandboxError."""
        check_tool_id(tool_id)
        began = time.monotonic()
        line = request_line(tool_id, input, ctx)
        run = (DRY_RUN_MARK if dry_run else "") + secrets.token_hex(4)
        result, reason, started = "error", "interrupted", None
        try:
            done = self._run(tool_id, line, run, timeout or self._timeout, files, watch=watch)
            result, reason, started = "ok", "", done.start_seconds
        except SandboxError as error:
            result, reason = error.result, error.on_record
            raise
        finally:
            with contextlib.suppress(ProxyLinkError):  # it went away during the run, and took no more requests either
                tell_end(self.workspace, tool_id, run, RunEnd(result, time.monotonic() - began, started, reason))
        return done

    def _run(
        self, tool_id: str, line: bytes, run: str, seconds: float, files: tuple[str, ...], *, watch: Watch | None
    ) -> ToolResult:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="cloned-tool-") as directory, contextlib.ExitStack() as stack:
            home = Path(directory)
            stdout, stderr = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            stdin = stack.enter_context(tempfile.TemporaryFile())
            stdin.write(line)
            stdin.seek(0)
            process = subprocess.Popen(  # noqa: S603  our own worker
                [sys.executable, "-I", str(share_path("sandbox", "worker", "worker.py"))],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=directory,
                env=self._environment(tool_id, run, home, seconds),
                start_new_session=True,
            )
            started = time.monotonic() - began
            code = _wait(process, tool_id, seconds, (stdout, stderr), watch)
            output = read_answer(tool_id, _content(stdout), code, _content(stderr))
            brought = {name: read_scratch(home, name, limit=SandboxLimits().scratch) for name in files}
            said = _content(stderr).decode(errors="replace")
        return ToolResult(output, said, time.monotonic() - began, started, run, brought)

    def _environment(self, tool: str, run: str, home: Path, seconds: float) -> dict[str, str]:
        status = proxy_status(self.workspace, tool)
        token = mint_token(self._key, Claims(tool, run, time.time() + seconds + 60))
        env = proxy_environment(proxy_url(tool, token, status.address))
        private = read_ca_files(Workspace(self.workspace).config().sandbox.ca_files, self.workspace)
        if status.ca is not None or private:
            env |= ca_environment(str(write_trust(home, private, status.ca)))
        return env | {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "CLONED_SANDBOX": "0",
            "CLONED_TOOL": tool,
            "CLONED_SCRATCH": str(home),
            "CLONED_WORKSPACE_TOOLS": str(self.workspace.parent / "tools"),
        }


def _wait(
    process: subprocess.Popen[bytes],
    tool: str,
    seconds: float,
    outputs: tuple[IO[bytes], IO[bytes]],
    watch: Watch | None,
) -> int:
    """The exit code of the process. The deadline and the limit of its output end it, with all that it started."""
    deadline = time.monotonic() + seconds
    shown = 0
    try:
        while (code := process.poll()) is None:
            if time.monotonic() > deadline:
                raise ToolTimeoutError(
                    f"{tool} did not end within {seconds:g} s and was killed; raise --timeout or "
                    "`sandbox: {timeout: …}`"
                )
            if any(os.fstat(output.fileno()).st_size > _MAX_OUTPUT for output in outputs):
                raise ToolLimitError(f"{tool} printed more than {_MAX_OUTPUT // MIB} MiB and was killed")
            shown = _show(outputs[1], shown, watch)
            time.sleep(_POLL_SECONDS)
        _show(outputs[1], shown, watch)
        return code
    finally:
        # The group is the tool's own: what it left running ends with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _show(said: IO[bytes], shown: int, watch: Watch | None) -> int:
    """Hands on what was printed since; returns how much has been handed on."""
    piece = os.pread(said.fileno(), _MAX_OUTPUT, shown) if watch is not None else b""
    if watch is not None and piece:
        watch(piece)
    return shown + len(piece)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(_MAX_OUTPUT)
