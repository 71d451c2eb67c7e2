"""Private CAs: real clients take a server of one, in each form in which a sandbox names it, and refuse it without."""

from __future__ import annotations

import http.server
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from cloned_proxy.runner.engine import Engine
from cloned_proxy.runner.environment import JAVA_OPTIONS, ca_environment, with_java_options
from cloned_proxy.runner.errors import SandboxInputError
from cloned_proxy.runner.trust import browser_binds, read_ca_files, write_trust
from tests.runner.conftest import start_serving
from tests.runner.jobs import TOOL

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FETCH = """\
public class Fetch {
  public static void main(String[] words) throws Exception {
    System.out.print(new String(new java.net.URL(words[0]).openStream().readAllBytes()));
  }
}
"""
IN_THE_SANDBOX = [
    ("curl", "curl -sS {url}"),
    ("python", "python3 -c \"import urllib.request as u; print(u.urlopen('{url}').read().decode(), end='')\""),
    ("node", "node -e \"fetch('{url}').then(a => a.text()).then(t => process.stdout.write(t))\""),
    ("uv", "uv pip install --no-cache --target /sandbox/x {url}/x-1.0-py3-none-any.whl 2>&1 | grep -c UnknownIssuer"),
]


@dataclass
class Site:
    """A web server on loopback with a certificate of a private CA."""

    ca: trustme.CA
    port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def pem(self) -> str:
        return self.ca.cert_pem.bytes().decode()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "8")
            self.end_headers()
            self.wfile.write(b"private\n")

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word

    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that refuses the certificate
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield Site(ca, server.server_address[1])
    server.shutdown()
    server.server_close()


def test_the_bundle_has_the_public_roots_the_private_ones_and_the_workspaces_own(tmp_path: Path) -> None:
    one, two = (trustme.CA().cert_pem.bytes().decode() for _ in range(2))
    bundle = write_trust(tmp_path, one, two).read_text()
    assert (bundle.count(one), bundle.count(two), bundle.count("BEGIN CERTIFICATE") > 100) == (1, 1, True)
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in tmp_path.iterdir())


def test_ca_files_are_read_from_beside_the_workspace_and_told_apart(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "one.pem")
    assert read_ca_files(["one.pem", str(tmp_path / "one.pem")], tmp_path).count("BEGIN CERTIFICATE") == 2
    (tmp_path / "der").write_bytes(ssl.PEM_cert_to_DER_cert(ca.cert_pem.bytes().decode()))
    ca.private_key_pem.write_to_path(tmp_path / "key")
    for name, message in [
        ("missing", "there is no CA file"),
        ("der", "openssl x509 -inform der"),
        ("key", "holds a private key"),
        (".", "not a regular file"),
    ]:
        with pytest.raises(SandboxInputError, match=message) as caught:
            read_ca_files([name], tmp_path)
        assert str(tmp_path / name) in str(caught.value)


def test_options_for_java_come_behind_the_sandboxs_own() -> None:
    own = ca_environment("/sandbox/.cloned-ca.pem")
    asked = {JAVA_OPTIONS: "-Xmx64m", "A": "b"}
    assert with_java_options(own, asked) == {"A": "b", JAVA_OPTIONS: f"{own[JAVA_OPTIONS]} -Xmx64m"}
    assert with_java_options({}, asked) == asked


@pytest.mark.skipif(shutil.which("javac") is None, reason="no Java on this machine")
def test_java_takes_the_trust_store(site: Site, tmp_path: Path) -> None:
    (tmp_path / "Fetch.java").write_text(FETCH)
    bundle = write_trust(tmp_path, site.pem, None)
    asked = {}
    for name, env in (("with", ca_environment(str(bundle))), ("without", {})):
        plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        asked[name] = subprocess.run(
            ["java", "Fetch.java", site.url],
            cwd=tmp_path,
            env=plain | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert asked["with"].stdout == "private\n", asked["with"].stderr
    assert "unable to find valid certification path" in asked["without"].stderr


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None or os.geteuid() != 0, reason="no browser, or no namespace of mounts to be had")
def test_chromium_takes_the_policy(site: Site, tmp_path: Path) -> None:
    write_trust(tmp_path, site.pem, None)
    policy = next(browser_binds(tmp_path))
    assert CHROMIUM is not None
    page = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--dump-dom", site.url]
    shown = {}
    for name, source in (("with", policy.source), ("without", "/dev/null")):
        profile = tmp_path / name
        profile.mkdir()
        place = Path(policy.target)
        # In a namespace of mounts of its own: the browser of this machine sees the policy, and nobody else does.
        script = (
            "mount -t tmpfs none /etc/chromium && "
            f"mkdir -p {place.parent} && cp {shlex.quote(source)} {place} && exec {shlex.join(page)}"
        )
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            env=os.environ | {"HOME": str(profile)},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        shown[name] = done.stdout
    assert ("private" in shown["with"], "private" in shown["without"]) == (True, False), shown


@pytest.fixture(scope="module")
def project(images: Engine, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    workspace = tmp_path_factory.mktemp("trust") / "code" / ".cloned"
    workspace.mkdir(parents=True, mode=0o700)
    (workspace / "policy.yaml").write_text(
        f"version: 1\ntools:\n  {TOOL}:\n    allow: [{{host: 127.0.0.1, ports: [{site.port}]}}]\n"
    )
    (workspace / "company.pem").write_text(site.pem)
    serving = start_serving(workspace)
    yield workspace
    serving.stop()


@pytest.mark.docker
def test_clients_in_the_sandbox_take_it_by_their_variables(project: Path, site: Site) -> None:
    script = "; ".join(f"echo {name}: $({command.format(url=site.url)})" for name, command in IN_THE_SANDBOX)
    words = [sys.executable, "-m", "cloned_proxy", "exec", "--workspace", str(project), TOOL, "--", "sh", "-c"]
    wanted = ["curl: private", "python: private", "node: private", "uv: 0"]
    config = project / "config.yaml"
    config.write_text("sandbox: {ca_files: [company.pem]}\n")
    done = subprocess.run([*words, script], capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout.splitlines() == wanted, done.stderr
    config.unlink()
    done = subprocess.run([*words, script], capture_output=True, text=True, check=False, timeout=100)
    assert [line for line in done.stdout.splitlines() if line in wanted] == [], done.stderr
