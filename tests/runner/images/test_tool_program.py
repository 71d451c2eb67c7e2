"""The worker protocol: which worker runs, what it reads, and what its last line means."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import cloned_proxy
from cloned_proxy.runner.images.tool_program import (
    NODE_WORKER,
    WorkerKind,
    choose_worker,
    read_answer,
    request_line,
    user_of,
)
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.values.errors import SandboxError, SandboxInputError, ToolFailedError, ToolTimeoutError

docker = pytest.mark.docker


def test_a_built_node_workspace_keeps_its_worker(tmp_path: Path) -> None:
    worker = tmp_path / NODE_WORKER
    worker.parent.mkdir(parents=True)
    worker.touch()
    found = choose_worker(tmp_path, WorkerKind.AUTO, None)
    assert (found.image, found.command) == (
        "node:20-alpine",
        ("node", "/workspace/dist/runtime/container/worker.js"),
    )
    assert choose_worker(tmp_path, WorkerKind.PYTHON, None).command[0] == "python3"
    assert choose_worker(tmp_path, WorkerKind.AUTO, "cloned-worker:latest").command[0] == "python3"


@pytest.mark.parametrize(("kind", "image"), [(WorkerKind.NODE, None), (WorkerKind.AUTO, "node:20-alpine")])
def test_a_node_worker_that_was_not_built_names_the_command(
    tmp_path: Path, kind: WorkerKind, image: str | None
) -> None:
    with pytest.raises(SandboxInputError, match="npm run build"):
        choose_worker(tmp_path, kind, image)


@pytest.mark.parametrize(
    ("image", "own", "user"),
    [
        ("node:20-alpine", "", "node"),
        ("registry.example/library/node:22", "root", "node"),
        ("any:1", "", "65532:65532"),
        ("any:1", "0:0", "65532:65532"),
        ("any:1", "app", "app"),
        ("node:20-alpine", "1001", "1001"),
    ],
)
def test_the_user_is_the_images_own_and_never_root(image: str, own: str, user: str) -> None:
    assert user_of(image, {"Config": {"User": own}}) == user


@pytest.mark.parametrize(
    ("stdout", "output"),
    [
        (b'{"status":"ok","output":{"a":1}}\n', {"a": 1}),
        (b'noise\nmore noise\n{"status": "ok", "output": null}\n\n', None),
        (b'{"status":"ok"}', None),
    ],
)
def test_the_last_line_is_the_answer(stdout: bytes, output: Any) -> None:
    assert read_answer("t@v1", stdout, 0, b"") == output


@pytest.mark.parametrize(
    ("stdout", "message"),
    [
        (b"", "without its JSON line"),
        (b"hello", "it said: hello"),
        (b"[1]", "without its JSON line"),
        (b'{"status":"maybe"}', "without its JSON line"),
        (b'{"status":"ok","output":1}\ntrailing', "without its JSON line"),
        (b'{"status":"error","error":"no luck"}', "t@v1: no luck"),
        (b'{"status":"error","error":{"type":"E","message":"no luck"}}', "t@v1: no luck"),
        (b'{"status":"error"}', "failed without a reason"),
    ],
)
def test_anything_else_is_a_failure_that_says_what_came(stdout: bytes, message: str) -> None:
    with pytest.raises(ToolFailedError, match=message):
        read_answer("t@v1", stdout, 1, b"")


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_an_input_that_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(SandboxInputError, match="not JSON"):
        request_line("t@v1", value, None)


TOOLS = {
    "echo@v1": "def run(input, ctx):\n    print('noise')\n    return {'input': input, 'ctx': ctx}\n",
    "later@v1": "import asyncio\nasync def run(input, ctx):\n    await asyncio.sleep(0)\n    return 'later'\n",
    "broken@v1": "def run(input, ctx):\n    raise KeyError('what')\n",
    "nothing@v1": "x = 1\n",
    "quiet@v1": "import os\ndef run(input, ctx):\n    os._exit(0)\n",
    "odd@v1": "def run(input, ctx):\n    return {1, 2}\n",
    "slow@v1": "import time\ndef run(input, ctx):\n    time.sleep(600)\n",
    "greedy@v1": "def run(input, ctx):\n    x = bytearray(900 * 1024 * 1024)\n    return len(x)\n",
    "file@v1": "def run(input, ctx):\n    open('/sandbox/out.txt', 'w').write('result')\n",
}


@pytest.fixture
def tools(runner: DockerContainerRunner) -> DockerContainerRunner:
    folder = runner.project / "tools"
    folder.mkdir(exist_ok=True)
    for name, text in TOOLS.items():
        (folder / f"{name}.py").write_text(text)
    return runner


@docker
def test_a_tool_gets_its_input_and_its_output_comes_back(tools: DockerContainerRunner) -> None:
    result = tools.run_tool("echo@v1", {"q": "ü"}, {"user": 7})
    assert result.output == {"input": {"q": "ü"}, "ctx": {"user": 7}}
    assert result.stderr == "noise\n"
    assert tools.run_tool("later@v1", None).output == "later"
    assert tools.run_tool("file@v1", None, files=("out.txt",)).files == {"out.txt": b"result"}


@docker
async def test_tools_run_beside_an_event_loop_and_beside_each_other(tools: DockerContainerRunner) -> None:
    results = await asyncio.gather(*(tools.run_tool_async("echo@v1", n) for n in range(3)))
    assert [result.output["input"] for result in results] == [0, 1, 2]


@docker
@pytest.mark.parametrize(
    ("tool", "error", "message"),
    [
        ("broken@v1", ToolFailedError, "broken@v1: 'what'"),
        ("nothing@v1", ToolFailedError, "no function run"),
        ("absent@v1", ToolFailedError, r"put a function run\(input, ctx\) into /workspace/tools/absent@v1.py"),
        ("quiet@v1", ToolFailedError, "without its JSON line"),
        ("odd@v1", ToolFailedError, "not JSON serializable"),
        ("slow@v1", ToolTimeoutError, "1.5 s"),
        ("greedy@v1", SandboxError, "memory|MemoryError"),
        ("a b", SandboxInputError, "not a tool id"),
    ],
)
def test_a_tool_that_fails_says_how(
    tools: DockerContainerRunner, tool: str, error: type[SandboxError], message: str
) -> None:
    with pytest.raises(error, match=message):
        tools.run_tool(tool, None, timeout=1.5 if tool == "slow@v1" else None)


def test_the_runner_is_the_packages_public_name() -> None:
    assert cloned_proxy.DockerContainerRunner is DockerContainerRunner
    with pytest.raises(AttributeError):
        _ = cloned_proxy.NoSuchName
