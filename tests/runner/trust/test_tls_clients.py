"""curl, Python, Node, git and pip in a container, by TLS, to an origin with a certificate of its own.

What a rule inspects works with the CA variables alone; what stays closed is the origin's TLS from end to end.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloned_proxy.runner.docker.engine import Engine
from cloned_proxy.runner.values.environment import CA_NAMES
from tests.net import content
from tests.net.proxy_process import PROGRAM, ProxyOptions, ProxyProcess
from tests.net.world import World
from tests.pinned_wheels import needed, unpacked
from tests.runner.conftest import leftovers
from tests.runner.jobs import TOOL

pytestmark = [
    pytest.mark.docker,
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="entering a namespace of the engine takes root"),
]
DENO = Path(__file__).with_name("deno.lock")
INSPECTED, TUNNELLED = "https://inspected.example.com", "https://files.example.com"
CLOSED = "closed.tool@v1"
POLICY = f"""\
version: 1
anonymous: deny
tools:
  {TOOL}:
    allow:
      - {{host: inspected.example.com, methods: [GET], paths: ["/page", "/simple/**", "/wheels/**", "/git/**"]}}
  {CLOSED}:
    allow: [files.example.com]
"""
PYTHON = "import urllib.request; print(urllib.request.urlopen('{base}/page').read().decode(), end='')"
NODE = """
const http = require('http'), https = require('https'), proxy = new URL(process.env.HTTPS_PROXY);
const url = new URL('{base}/page'), target = url.hostname + ':443';
const ask = http.request({{host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: target,
  headers: {{Host: target}}}});
ask.on('connect', (answer, socket) => https.get(url, {{defaultPort: 443, createConnection: () =>
  require('tls').connect({{socket, servername: url.hostname}})}}, r => r.pipe(process.stdout)));
ask.end();
"""
PIP = (
    "pip install --quiet --disable-pip-version-check --no-cache-dir --target /sandbox/lib "
    "--index-url {base}/simple demo-package && PYTHONPATH=/sandbox/lib python3 -c 'import demo_package; print(1)'"
)
CLIENTS = [
    ("curl", "curl -sS {base}/page", "page\n"),
    ("python", f'python3 -c "{PYTHON}"', "page\n"),
    ("node", f'node -e "{NODE}"', "page\n"),
    ("git", "git clone --quiet {base}/git/demo.git /sandbox/demo && cat /sandbox/demo/README", "through the proxy\n"),
    ("pip", PIP, "1\n"),
]


@dataclass(frozen=True, slots=True)
class Sandbox:
    world: World
    proxy: ProxyProcess

    def sh(self, script: str, *options: str, tool: str = TOOL) -> subprocess.CompletedProcess[str]:
        """A script as a tool, by a proxy and a runner inside the fake internet."""
        workspace = ["--workspace", str(self.proxy.workspace)]
        return self.world.run([PROGRAM, "exec", *workspace, *options, tool, "--", "sh", "-c", script], timeout=60)


@pytest.fixture(scope="module")
def sandbox(world: World, images: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    content.add_python_package(world.content, "demo-package")
    content.add_repository(world.content, "demo", tmp_path_factory.mktemp("repository") / "work")
    (world.content / "page").write_text("page\n")
    workspace = tmp_path_factory.mktemp("tls") / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    proxy = world.serve(POLICY, ProxyOptions(workspace=workspace))
    yield Sandbox(world, proxy)
    proxy.stop()
    assert leftovers(images, workspace) == []


@pytest.mark.parametrize(("command", "output"), [row[1:] for row in CLIENTS], ids=[row[0] for row in CLIENTS])
def test_an_inspected_host_is_trusted_by_every_client(sandbox: Sandbox, command: str, output: str) -> None:
    done = sandbox.sh(command.format(base=INSPECTED))
    assert (done.stdout, done.returncode) == (output, 0), done


@pytest.mark.slow
def test_deno_trusts_an_inspected_host_too(sandbox: Sandbox) -> None:
    """With roots of its own, and several variables that add to them."""
    binary = needed(lambda: unpacked(DENO)) / "site" / "deno-2.9.8.data" / "scripts"
    deno = 'cp /mnt/deno/deno /sandbox/ && chmod +x /sandbox/deno && {before} /sandbox/deno eval "{script}"'
    script = f"console.log((await (await fetch('{INSPECTED}/page')).text()).trim())"
    mount = ("--mount", f"{binary}:/mnt/deno")
    done = sandbox.sh(deno.format(before="", script=script), *mount)
    assert (done.stdout, done.returncode) == ("page\n", 0), done
    without = f"env {' '.join(f'-u {name}' for name in sorted(CA_NAMES))}"
    bare = sandbox.sh(deno.format(before=without, script=script), *mount)
    assert (bare.stdout, "certificate" in bare.stderr) == ("", True), bare


def test_inspection_sees_paths_and_methods_of_a_container(sandbox: Sandbox) -> None:
    sandbox.world.reset()
    show = "curl -s -o /dev/null -w '%{http_code} ' "
    done = sandbox.sh(f"{show} {INSPECTED}/page; {show} {INSPECTED}/secret; {show} -X POST {INSPECTED}/page")
    assert done.stdout.split() == ["200", "403", "403"], done
    assert "secret" not in sandbox.world.text_at("inspected.example.com", 443)
    assert "POST" not in sandbox.world.text_at("inspected.example.com", 443)


def test_without_the_ca_of_the_workspace_an_inspected_host_is_not_trusted(sandbox: Sandbox) -> None:
    """What makes it work is the CA that the runner brought, not a client that trusts anybody."""
    other = "$(ls /usr/share/ca-certificates/mozilla/*.crt | head -n 1)"
    done = sandbox.sh(f"env -u CURL_CA_BUNDLE -u SSL_CERT_FILE curl -sS --cacert {other} {INSPECTED}/page")
    assert (done.returncode, "certificate" in done.stderr) == (60, True), done


@pytest.mark.parametrize(("command", "output"), [row[1:] for row in CLIENTS], ids=[row[0] for row in CLIENTS])
def test_a_closed_tunnel_is_the_origins_own_tls(sandbox: Sandbox, tmp_path: Path, command: str, output: str) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "ca.pem").write_text(sandbox.world.certificate.read_text())
    names = ("CURL_CA_BUNDLE", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "PIP_CERT")
    trusting = " ".join(f"{name}=/mnt/ca/ca.pem" for name in names)
    script = f"export {trusting}; {command.format(base=TUNNELLED)}"
    done = sandbox.sh(script, "--mount", f"{tmp_path}:/mnt/ca", tool=CLOSED)
    assert (done.stdout, done.returncode) == (output, 0), done


@pytest.mark.parametrize("command", [row[1] for row in CLIENTS], ids=[row[0] for row in CLIENTS])
def test_a_denied_host_is_neither_resolved_nor_reached(sandbox: Sandbox, command: str) -> None:
    sandbox.world.reset()
    done = sandbox.sh(command.format(base="https://denied.example.net"))
    assert done.returncode != 0
    assert sandbox.world.dns_names() == []
    assert sandbox.world.contacts() == []
