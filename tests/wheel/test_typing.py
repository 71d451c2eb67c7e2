"""`py.typed` is true: mypy, strict, reads a user's program against the installed wheel, and sees what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import cloned_proxy

PROGRAM: Final = """
from pathlib import Path
from typing import assert_type

import cloned_proxy
from cloned_proxy import (
    Approval, ApprovalError, Decision, DockerContainerRunner, EgressBlockedError, EgressRequest, EngineError,
    ExecResult, Mount, Policy, PolicyError, ProxyLinkError, Reason, RunCancelledError, SafeFetch, SandboxError,
    SandboxInputError, Session, StoreError, TooManyRequestsError, ToolFailedError, ToolLimitError, ToolResult,
    ToolTimeoutError, Verdict, decide, load_policy, request_egress,
)

assert_type(cloned_proxy.__version__, str)


def allowed(path: Path) -> bool:
    try:
        policy = load_policy(path)
    except (PolicyError, StoreError) as error:
        print(error)
        return False
    assert_type(policy, Policy)
    decision = decide(policy, "https://example.com/", tool="a@v1", method="POST")
    assert_type(decision, Decision)
    return decision.passes and decision.reason is Reason.ALLOWED and decision.verdict is Verdict.ALLOW


def ask() -> Approval | None:
    try:
        asked = request_egress(["example.com"], tool_id="a@v1", lasting="30m")
        assert_type(asked, EgressRequest)
        return asked.wait()
    except TooManyRequestsError:
        return None
    except ApprovalError:
        raise


def fetch() -> str:
    with SafeFetch("a@v1") as safe:
        try:
            return safe.get("https://example.com/").text
        except EgressBlockedError as blocked:
            return str(blocked.reason)


def run(runner: DockerContainerRunner) -> bytes:
    try:
        result = runner.exec("a@v1", ["true"], timeout=5)
    except (ToolTimeoutError, ToolLimitError, ToolFailedError, RunCancelledError, SandboxInputError):
        return b""
    except (EngineError, ProxyLinkError, SandboxError):
        raise
    assert_type(result, ExecResult)
    return result.stdout


def kinds() -> tuple[type[Mount], type[Session], type[ToolResult]]:
    return Mount, Session, ToolResult
"""
WRONG: Final = "from cloned_proxy import decide, load_policy\n\ndecide(load_policy('p'), 3).passes.upper()\n"


def strictly_read(program: str, folder: Path, bare: Path) -> str:
    """What mypy says where the wheel lies beside nothing but its own requirements (PEP 561)."""
    (folder / "program.py").write_text(program)
    words: list[str | Path] = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", "cache"]
    words += ["--python-executable", bare / "python", "program.py"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=140)
    return done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_a_program_of_a_user_is_read_strictly_and_what_is_wrong_in_one_is_seen(tmp_path: Path, bare: Path) -> None:
    assert strictly_read(PROGRAM, tmp_path, bare).startswith("Success: no issues found")
    said = strictly_read(WRONG, tmp_path, bare)
    assert 'Argument 2 to "decide" has incompatible type "int"; expected "str"' in said
    assert '"bool" has no attribute "upper"' in said


def test_the_program_uses_each_name_that_is_exported() -> None:
    assert [name for name in cloned_proxy.__all__ if name not in PROGRAM] == []
