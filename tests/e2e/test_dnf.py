"""dnf, which sends its credential only after a challenge: it is its tool under the policy that is shipped."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.program import eventually
from tests.net.clients import needed, proxy_environment
from tests.net.proxy_process import ProxyProcess
from tests.net.world import ROOT, World

pytestmark = [pytest.mark.net, pytest.mark.timeout(180), pytest.mark.usefixtures("repository")]

TOOL: Final = "packages@v1"
PACKAGED: Final = "packed for the tests of cloned-proxy"
_HOST: Final = "api.example.com"
_OPENED: Final = "inspected.example.com"
_REFUSED: Final = "evil.example.net"
_SPEC: Final = f"""
Name: agent-hello
Version: 1.0
Release: 1
Summary: One file
License: MIT
BuildArch: noarch
%description
One file.
%install
mkdir -p %{{buildroot}}/opt
echo '{PACKAGED}' > %{{buildroot}}/opt/agent-hello
%files
/opt/agent-hello
"""


@pytest.fixture(scope="module")
def repository(world: World) -> None:
    """A real repository with one real package, below `/dnf` on every canary."""
    root, spec = world.content / "dnf", world.directory / "agent-hello.spec"
    root.mkdir()
    spec.write_text(_SPEC)
    places = {"_topdir": world.directory / "rpmbuild", "_rpmdir": root, "_dbpath": world.directory / "rpmdb"}
    defined = [word for name, value in places.items() for word in ("--define", f"{name} {value}")]
    for command in (
        [needed("rpmbuild"), "-bb", "--quiet", *defined, str(spec)],
        [needed("createrepo_c"), "-q", str(root)],
    ):
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def proxy(world: World) -> Iterator[ProxyProcess]:
    """The shipped policy, and what a user adds to it by command."""
    serving = world.serve((ROOT / "config" / "policy.yaml").read_text())
    for words in ([_HOST], [_OPENED, "--method", "GET"]):
        done = serving.command("allow", *words, "--tool", TOOL)
        assert done.returncode == 0, done.stderr
    yield serving
    serving.stop()


def _install(world: World, proxy: ProxyProcess, url: str, directory: Path, *, by: str) -> str:
    """`dnf install agent-hello` below `directory`, from this one repository. Returns what it said."""
    directory.mkdir()
    authorities = directory / "authorities.pem"
    workspace = Path(proxy.command("ca", "path").stdout.strip())
    authorities.write_text(world.certificate.read_text() + workspace.read_text())
    token = proxy.token(TOOL)
    settings: dict[str, object] = {
        "reposdir": directory / "none", "cachedir": directory / "cache", "persistdir": directory / "state",
        "logdir": directory / "log", "gpgcheck": 0, "retries": 1, "plugins": 0, "sslcacert": authorities,
    }  # fmt: skip
    environment = {"HOME": str(directory)}
    if by == "its settings":
        settings |= {"proxy": proxy.url, "proxy_username": TOOL, "proxy_password": token}
    else:
        environment |= proxy_environment(f"http://{TOOL.replace('@', '%40')}:{token}@127.0.0.1:{proxy.port}")
    config = directory / "dnf.conf"
    config.write_text("[main]\n" + "".join(f"{name}={value}\n" for name, value in settings.items()))
    root = directory / "root"
    words = ["-y", "-c", str(config), f"--repofrompath=here,{url}", "--releasever=1", f"--installroot={root}"]
    done = world.run([needed("dnf"), *words, "install", "agent-hello"], env=environment, timeout=120)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("url", "by"),
    [
        (f"http://{_HOST}", "the environment"),
        (f"https://{_HOST}", "its settings"),
        (f"https://{_OPENED}", "the environment"),
    ],
)
def test_it_installs_as_its_tool(fresh_world: World, proxy: ProxyProcess, tmp_path: Path, url: str, by: str) -> None:
    scheme, _, host = url.partition("://")
    said = _install(fresh_world, proxy, f"{url}/dnf", tmp_path / "allowed", by=by)
    installed = tmp_path / "allowed" / "root" / "opt" / "agent-hello"
    assert installed.is_file(), said + proxy.said()[-2000:]
    assert installed.read_text().strip() == PACKAGED
    _install(fresh_world, proxy, f"{scheme}://{_REFUSED}/dnf", tmp_path / "refused", by=by)
    assert not fresh_world.touched(_REFUSED)
    log = [entry for entry in proxy.log("--since", "1h") if "verdict" in entry]
    assert {entry["tool"] for entry in log if entry["verdict"] == "allow"} == {TOOL}
    denied = {(entry["host"], entry["tool"], entry["reason"]) for entry in log if entry["verdict"] == "deny"}
    assert (host, None, "identity_missing") in denied, "a client that did not wait for the question"
    assert (_REFUSED, TOOL, "host_not_allowed") in denied


def test_without_the_question_it_is_nobody(fresh_world: World, tmp_path: Path) -> None:
    """The open control: what `anonymous: global` makes of the same call."""
    shipped = (ROOT / "config" / "policy.yaml").read_text()
    proxy = fresh_world.serve(shipped.replace("anonymous: challenge", "anonymous: global"))
    assert proxy.command("allow", _HOST, "--tool", TOOL).returncode == 0
    _install(fresh_world, proxy, f"https://{_HOST}/dnf", tmp_path / "allowed", by="its settings")
    assert not fresh_world.touched(_HOST)

    def refused() -> set[tuple[str | None, str]]:
        return {(entry["tool"], entry["reason"]) for entry in proxy.log() if entry.get("host")}

    eventually(refused, what="the refusal on record")
    assert refused() == {(None, "host_not_allowed")}
    proxy.stop()
