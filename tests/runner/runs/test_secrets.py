"""A sandboxed tool and a key that it uses without having it, looked for in its container from outside and inside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.spec import WORKSPACE_LABEL, workspace_mark
from cloned_proxy.store.vault.vault import Vault
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.cli.canary_search import places_with
from tests.cli.site import Site
from tests.runner.conftest import leftovers, start_serving
from tests.runner.jobs import TOOL

pytestmark = pytest.mark.docker

CANARY = "sk-canary/9a31+sandboxed"
PROGRAM = [sys.executable, "-m", "cloned_proxy", "exec"]


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture
def workspace(images: Engine, tmp_path: Path, site: Site) -> Iterator[Path]:
    root = tmp_path / "code" / ".cloned"
    root.mkdir(parents=True, mode=0o700)
    inject = 'inject: {header: Authorization, value: "Bearer ${vault:llm.api_key}"}'
    entry = f'{{host: localhost, ports: [{site.port}], addresses: [private], paths: ["/v1/**"], {inject}}}'
    (root / "policy.yaml").write_text(f"version: 1\ntools:\n  {TOOL}: {{allow: [{entry}]}}\n")
    Vault(Workspace(root)).set("llm.api_key", CANARY)
    serving = start_serving(root)
    yield root
    serving.stop()
    assert leftovers(images, root) == []


def test_a_key_is_used_in_a_sandbox_and_found_nowhere_in_it(
    workspace: Path, site: Site, engine: Engine, tmp_path: Path
) -> None:
    url = f"http://localhost:{site.port}/v1"
    script = f"env; cat /proc/1/environ; curl -sS -i {url}/a; curl -sS -i {url}/echo; echo asked; sleep 600"
    words = [*PROGRAM, "--workspace", str(workspace), TOOL, "--", "sh", "-c", script]
    said = b""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        while not said.endswith(b"asked\n"):
            line = process.stdout.readline()
            assert line, said
            said += line
        ours = [container for container, mark in engine.owned(WORKSPACE_LABEL) if mark == workspace_mark(workspace)]
        inspected = json.dumps([engine.inspect(container) for container in ours])
        process.terminate()
        process.wait(30)
    assert site.secrets("/v1/a") == [f"Bearer {CANARY}"]
    assert b"reached" in said
    assert b"secret_echoed" in said
    assert TOOL in inspected
    texts = {"what the tool saw": said.decode(errors="replace"), "docker inspect": inspected}
    assert places_with(CANARY, directories=[tmp_path], processes=[], texts=texts) == []
