"""A Node workspace keeps its worker: built, it runs as `node` in Node's image, sealed as any other."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.images.tool_program import NODE_IMAGE, NODE_WORKER, PYTHON_IMAGE, WorkerKind
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from cloned_proxy.runner.values.errors import ImageMissingError, SandboxInputError, ToolFailedError
from tests.runner.conftest import Serving, leftovers
from tests.runner.jobs import TOOL

pytestmark = pytest.mark.docker

# What a Cloned workspace's own build makes: one JSON object in, one JSON line out.
WORKER = """\
const http = require('http'), os = require('os'), fs = require('fs');
let text = '';
process.stdin.on('data', data => text += data).on('end', async () => {
  const {tool_id, input, ctx} = JSON.parse(text);
  console.log('noise before the answer');
  const answer = body => process.stdout.write(JSON.stringify(body) + '\\n');
  if (input.fail) { answer({status: 'error', error: {type: 'Error', message: input.fail}}); process.exit(1); }
  const attempt = path => { try { fs.writeFileSync(path, 'x'); return 'written'; } catch (e) { return e.code; } };
  const proxy = new URL(process.env.HTTP_PROXY);
  const fetched = await new Promise((done, failed) => {
    const ask = http.request({host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: input.target,
      headers: {Host: input.target}});
    ask.on('connect', (reply, socket) => http.get({path: '/node', host: '127.0.0.1', createConnection: () => socket},
      r => { let body = ''; r.on('data', d => body += d).on('end', () => done(body)); }));
    ask.on('error', failed); ask.end();
  });
  answer({status: 'ok', output: {tool_id, ctx, fetched, user: os.userInfo().username, home: os.homedir(),
    workspace: attempt('/workspace/x'), scratch: attempt('/sandbox/x')}});
});
"""


@pytest.fixture(scope="module")
def node_image(images: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Node's own image where the machine has it, else a stand-in: Debian's Node, and Node's user `node`, unset."""
    try:
        images.image(NODE_IMAGE)
    except ImageMissingError:
        folder = tmp_path_factory.mktemp("node-stand-in")
        (folder / "Dockerfile").write_text(
            f"FROM {PYTHON_IMAGE} AS node\nUSER root\nRUN useradd --uid 1000 --create-home node\nWORKDIR /\n"
        )
        images.build(str(folder), target="node", tag=NODE_IMAGE, args={}, labels={"stand-in": "true"})
        yield NODE_IMAGE
        subprocess.run(
            ["docker", "rmi", NODE_IMAGE], check=True, capture_output=True
        )  # it must not pass for Node's own
    else:
        yield NODE_IMAGE


@pytest.fixture
def serving(module_serving: Serving, engine: Engine) -> Iterator[Serving]:
    yield module_serving
    assert leftovers(engine, module_serving.workspace) == []


@pytest.fixture
def built(serving: Serving) -> Iterator[Path]:
    worker = serving.workspace.parent / NODE_WORKER
    worker.parent.mkdir(parents=True)
    worker.write_text(WORKER)
    yield worker
    for path in (worker, *list(worker.parents)[:3]):
        path.unlink() if path.is_file() else path.rmdir()


def test_a_built_workspace_runs_its_own_worker_as_node(
    serving: Serving, built: Path, node_image: str, origin: int
) -> None:
    with DockerContainerRunner(workspace=serving.workspace) as runner:
        result = runner.run_tool(TOOL, {"target": f"127.0.0.1:{origin}"}, {"user": 7})
        assert result.output == {
            "tool_id": TOOL,
            "ctx": {"user": 7},
            "fetched": "origin /node\n",
            "user": "node",
            "home": "/home/tool",
            "workspace": "EROFS",
            "scratch": "written",
        }
        with pytest.raises(ToolFailedError, match="no luck"):
            runner.run_tool(TOOL, {"fail": "no luck"})


@pytest.mark.parametrize("by_settings", [True, False])
def test_chosen_but_not_built_names_the_command(serving: Serving, by_settings: bool) -> None:
    config = serving.workspace / "config.yaml"
    if by_settings:
        config.write_text("sandbox: {worker: node}\n")
    try:
        worker = None if by_settings else WorkerKind.NODE
        with (
            DockerContainerRunner(workspace=serving.workspace, worker=worker) as runner,
            pytest.raises(SandboxInputError, match=r"npm run build"),
        ):
            runner.run_tool(TOOL, {})
    finally:
        config.unlink(missing_ok=True)


def test_built_but_without_nodes_image_names_the_command_that_brings_it(serving: Serving, built: Path) -> None:
    with (
        DockerContainerRunner(workspace=serving.workspace, image="node:20-nowhere") as runner,
        pytest.raises(ImageMissingError, match="docker pull node:20-nowhere"),
    ):
        runner.run_tool(TOOL, {})
