"""The programs of docs/python.md, as they stand there, with the real LangChain and MCP SDK."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from tests.pinned_wheels import needed, unpacked
from tests.runner.conftest import engine as engine  # noqa: PLC0414  a fixture of these tests, too
from tests.runner.conftest import images as images  # noqa: PLC0414
from tests.runner.conftest import leftovers, start_serving

pytestmark = [
    pytest.mark.checkout,
    pytest.mark.docker,
    pytest.mark.timeout(300, func_only=True),  # the engine and its images may take minutes to come
    pytest.mark.skipif(sys.version_info[:2] != (3, 13), reason="the wheels of agent_sdks.lock are for Python 3.13"),
]
SDKS = Path(__file__).with_name("agent_sdks.lock")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
SERVER = """
from mcp.server import MCPServer

server = MCPServer("sum")


@server.tool()
def add(a: int, b: int) -> str:
    return f"the sum is {a + b}"


server.run()
"""


def test_the_programs_of_the_page_run_as_they_stand_there(images: Engine, tmp_path: Path) -> None:
    site = needed(lambda: unpacked(SDKS)) / "site"
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert [("langchain" in text, "mcp" in text) for text in programs] == [(True, False), (False, True)]
    project = tmp_path / "project"
    workspace = project / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    project.chmod(0o755)
    (workspace / "policy.yaml").write_text("version: 1\n")
    (project / "data.txt").write_text("from the project\n")
    (project / "server.py").write_text(SERVER)
    shutil.copytree(site, project / "packages", ignore=shutil.ignore_patterns("lang*", "__pycache__"))
    serving = start_serving(workspace)
    try:
        said = [_run(text, site, project) for text in programs]
    finally:
        serving.stop()
    assert re.search(r"exit code 56\n65532\nfrom the project\ncurl: \(56\) .*403", said[0]), said[0]
    assert "the sum is 5" in said[1]
    assert leftovers(images, workspace) == []


def _run(program: str, site: Path, project: Path) -> str:
    lines = [line for line in program.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 10, "the page promises ten lines"
    # Behind our own packages, so that it adds what is missing and replaces nothing.
    whole = f"import sys; sys.path.append({str(site)!r})\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", whole],
        cwd=project,
        env=os.environ | {"LANGSMITH_TRACING": "false"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
