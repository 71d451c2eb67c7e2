"""Wrapped servers under the clients that people have: the official SDKs of Python and TypeScript."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import pytest

from tests.runner.mcp.conftest import Project
from tests.runner.mcp.real_servers import RealServers

if TYPE_CHECKING:  # half a second, which each process of the suite would take to know the names of these tests
    from mcp import ClientSession

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240, func_only=True)]

TYPESCRIPT = Path(__file__).with_name("client.mjs")


@contextlib.asynccontextmanager
async def session(project: Project, name: str, errors: TextIO | None = None) -> AsyncIterator[ClientSession]:
    """A session as the Python SDK opens it from an entry of the file."""
    from mcp import ClientSession, StdioServerParameters  # noqa: PLC0415  see above
    from mcp.client.stdio import stdio_client  # noqa: PLC0415

    parameters = StdioServerParameters(**project.entry(name))
    with tempfile.TemporaryFile("w+") as log:
        async with (
            stdio_client(parameters, errlog=errors or cast(TextIO, log)) as streams,
            ClientSession(*streams) as opened,
        ):
            await opened.initialize()
            yield opened


def text_of(result: Any) -> str:
    return "".join(each.text for each in result.content)


async def test_everything_lists_its_tools_and_answers_a_hundred_calls_at_once(project: Project) -> None:
    async with session(project, "everything") as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert {"echo", "get-sum"} <= tools
        echoes = await asyncio.gather(
            *(client.call_tool("echo", {"message": f"{number} {'x' * 5000}"}) for number in range(100))
        )
    assert [text_of(each) for each in echoes] == [f"Echo: {number} {'x' * 5000}" for number in range(100)]


async def test_memory_remembers_within_a_session(project: Project) -> None:
    async with session(project, "memory") as client:
        entity = {"name": "gate", "entityType": "thing", "observations": ["is shut"]}
        await client.call_tool("create_entities", {"entities": [entity]})
        assert "is shut" in text_of(await client.call_tool("read_graph", {}))


async def test_time_tells_the_time(project: Project) -> None:
    async with session(project, "time") as client:
        told = text_of(await client.call_tool("get_current_time", {"timezone": "Europe/Berlin"}))
    assert json.loads(told)["timezone"] == "Europe/Berlin"


async def test_fetch_reaches_what_its_own_rules_allow_and_says_what_was_refused(project: Project, origin: int) -> None:
    url = f"http://127.0.0.1:{origin}/page"
    with tempfile.TemporaryFile("w+") as log:
        async with session(project, "fetch", cast(TextIO, log)) as client:
            refused = await client.call_tool("fetch", {"url": url})
            assert project.call("allow", f"127.0.0.1:{origin}", "--tool", "mcp.fetch@v1").returncode == 0
            passed = await _until_allowed(client, url)
        log.seek(0)
        said = log.read()
    assert "origin /page" not in text_of(refused)
    assert "origin /page" in text_of(passed)
    assert f"cloned-proxy: refused 127.0.0.1:{origin}" in said
    assert project.call("remove", "127.0.0.1", "--tool", "mcp.fetch@v1").returncode == 0


async def _until_allowed(client: ClientSession, url: str) -> Any:
    """An edit acts within 250 ms on a quiet machine; here it is waited for."""
    async with asyncio.timeout(60):
        while (result := await client.call_tool("fetch", {"url": url})).is_error:  # noqa: ASYNC110  only a call can tell
            await asyncio.sleep(0.1)
    return result


@pytest.mark.parametrize(
    ("name", "tool"), [("memory", "read_graph"), ("everything", "echo"), ("gate-inside", "my_rules")]
)
def test_the_typescript_sdk_starts_lists_calls_and_closes(
    project: Project, servers: RealServers, name: str, tool: str
) -> None:
    command = [str(servers.node), str(TYPESCRIPT), str(servers.modules), json.dumps(project.entry(name)), tool]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert tool in seen["tools"]
    assert seen["errors"] == []
    assert seen["answer"].get("isError") is not True


async def test_a_model_in_the_sandbox_asks_why_and_for_more_and_a_person_answers(project: Project) -> None:
    async with session(project, "gate-inside") as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"why_denied", "my_rules", "request_access"}
        assert "may reach nothing" in text_of(await client.call_tool("my_rules", {}))
        why = await client.call_tool("why_denied", {"url": "https://api.example.com/v1"})
        assert "is refused: host_not_allowed" in text_of(why)
        asking = asyncio.create_task(
            client.call_tool(
                "request_access", {"hosts": ["api.example.com"], "reason": "the weather", "wait_seconds": 60}
            )
        )
        request = await asyncio.to_thread(_pending, project)
        assert "may reach nothing" in text_of(await client.call_tool("my_rules", {}))
        assert project.call("approvals", "approve", request).returncode == 0
        answer = await asking
        assert text_of(answer).startswith("Approved: allow api.example.com for mcp.gate-inside@v1")
        passes = await client.call_tool("why_denied", {"url": "https://api.example.com/v1"})
        assert "passes: allowed" in text_of(passes)


def _pending(project: Project) -> str:
    for _ in range(600):
        if found := json.loads(project.call("approvals", "list", "--json").stdout):
            return str(found[0]["id"])
    raise AssertionError("no request came")


async def test_the_gate_of_the_host_asks_for_each_server_by_name(project: Project) -> None:
    from mcp import ClientSession, StdioServerParameters  # noqa: PLC0415  see above
    from mcp.client.stdio import stdio_client  # noqa: PLC0415

    gate = StdioServerParameters(
        command=project.words("memory")[0], args=["mcp", "gate", "--workspace", str(project.workspace)]
    )
    async with stdio_client(gate) as streams, ClientSession(*streams) as client:
        await client.initialize()
        rules = await client.call_tool("my_rules", {"server": "mcp.memory@v1"})
        assert text_of(rules).startswith("mcp.memory@v1 may reach nothing")
        nobody = await client.call_tool("my_rules", {"server": "mcp.nobody@v1"})
        assert nobody.is_error
        rejected = asyncio.create_task(
            client.call_tool("request_access", {"server": "mcp.time@v1", "hosts": ["ntp.example"], "reason": "time"})
        )
        request = await asyncio.to_thread(_pending, project)
        assert project.call("approvals", "reject", request, "--reason", "no need").returncode == 0
        assert "Rejected: allow ntp.example for mcp.time@v1 (no need)" in text_of(await rejected)


async def test_check_says_what_a_server_offers(project: Project) -> None:
    done = project.call("mcp", "check", "memory", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["denied"], found["server"]["exit_code"]) == (True, [], 0)
    assert "read_graph" in found["server"]["tools"]
    assert re.fullmatch(r"[0-9.]+", found["server"]["version"])
