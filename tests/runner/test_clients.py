"""Real clients inside a container, through the proxy, to a site on this host: what is allowed works as anywhere."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.runs.runner import DockerContainerRunner
from tests.runner.conftest import leftovers, start_serving
from tests.runner.jobs import TOOL, sh

pytestmark = pytest.mark.docker


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word


def _wheel(folder: Path) -> None:
    """A wheel that pip accepts, with one module in it."""
    contents = {
        "demo.py": b"ANSWER = 42\n",
        "demo-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
        "demo-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {name: base64.urlsafe_b64encode(hashlib.sha256(data).digest()) for name, data in contents.items()}
    record = "".join(f"{n},sha256={d.decode().rstrip('=')},{len(contents[n])}\n" for n, d in digests.items())
    with zipfile.ZipFile(folder / "demo-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in contents.items():
            wheel.writestr(name, data)
        wheel.writestr("demo-1.0.dist-info/RECORD", record + "demo-1.0.dist-info/RECORD,,\n")


def _repository(root: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "--quiet", "work"], cwd=root, check=True)
    (root / "work" / "hello").write_text("hello\n")
    for words in (["add", "."], ["commit", "--quiet", "--message", "one"]):
        subprocess.run([*git, *words], cwd=root / "work", check=True)
    subprocess.run([*git, "clone", "--quiet", "--bare", "work", "repo.git"], cwd=root, check=True)
    subprocess.run([*git, "update-server-info"], cwd=root / "repo.git", check=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A static site: a page, a package index and a git repository; its port."""
    root = tmp_path_factory.mktemp("site")
    (root / "page").write_text("page\n")
    (root / "simple" / "demo").mkdir(parents=True)
    _wheel(root / "simple" / "demo")
    _repository(root)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield int(server.server_address[1])
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def shell(images: Engine, tmp_path_factory: pytest.TempPathFactory, site: int) -> Iterator[DockerContainerRunner]:
    workspace = tmp_path_factory.mktemp("clients") / ".cloned"
    workspace.mkdir(mode=0o700)
    rules = f"version: 1\ntools:\n  {TOOL}: {{allow: [{{host: 127.0.0.1, ports: [{site}]}}]}}\n"
    (workspace / "policy.yaml").write_text(rules)
    serving = start_serving(workspace)
    with DockerContainerRunner(workspace=workspace) as runner:
        yield runner
    serving.stop()
    assert leftovers(images, workspace) == []


PYTHON = "import urllib.request; print(urllib.request.urlopen('{base}/page').read().decode(), end='')"
NODE = "require('http').get('{base}/page', r => r.pipe(process.stdout))"
PIP = (
    "pip install --quiet --disable-pip-version-check --no-cache-dir "
    "--index-url {base}/simple demo && python3 -c 'import demo; print(demo.ANSWER)'"
)
CLIENTS = [
    ("curl", "curl -sS {base}/page", "page\n"),
    ("python", f'python3 -c "{PYTHON}"', "page\n"),
    ("node", f'node -e "{NODE}"', "page\n"),
    ("git", "git clone --quiet {base}/repo.git /sandbox/repo && cat /sandbox/repo/hello", "hello\n"),
    ("pip", PIP, "42\n"),
]


@pytest.mark.parametrize(("command", "output"), [row[1:] for row in CLIENTS], ids=[row[0] for row in CLIENTS])
def test_a_client_works_where_it_may(shell: DockerContainerRunner, site: int, command: str, output: str) -> None:
    text = command.format(base=f"http://127.0.0.1:{site}", host=f"127.0.0.1:{site}")
    seen = sh(shell, text)
    assert (seen.out, seen.code) == (output, 0), seen


@pytest.mark.parametrize("command", [row[1] for row in CLIENTS], ids=[row[0] for row in CLIENTS])
def test_and_is_refused_where_it_may_not(shell: DockerContainerRunner, site: int, command: str) -> None:
    text = command.format(base=f"http://127.0.0.1:{site}", host=f"127.0.0.1:{site}")
    assert sh(shell, text, tool="other.tool@v1").out not in {row[2] for row in CLIENTS}
