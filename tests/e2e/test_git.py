"""git through the proxy, over https and ssh, against real servers: the judge is what the bare repository holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.program import eventually
from tests.net.clients import needed, proxy_environment, unavailable
from tests.net.proxy_process import PROGRAM, ProxyProcess
from tests.net.world import World

pytestmark = [pytest.mark.net, pytest.mark.timeout(180)]

SSH_PORT = 2200
POLICY = f"""
version: 1
anonymous: challenge
tools:
  reader@v1: {{use: [github-read]}}
  writer@v1: {{use: [github-write]}}
  open@v1: {{allow: [github.com]}}
  ssh@v1: {{allow: [{{host: git.example.net, ports: [{SSH_PORT}], protocols: [ssh]}}]}}
  nothing@v1: {{allow: []}}
"""
URL = "https://github.com/acme/demo.git"
PLAIN = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
PLAIN |= {f"GIT_{who}_{what}": "a@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(*words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [needed("git"), *words], cwd=cwd, env={**os.environ, **PLAIN}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@dataclass
class Git:
    """A tool that uses git inside the world, and the bare repository that it talks about."""

    world: World
    proxy: ProxyProcess
    bare: Path
    directory: Path
    environment: dict[str, str]
    url: str = URL

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self.world.run([needed("git"), *words], env={**PLAIN, **self.environment}, cwd=cwd, timeout=120)

    def clone(self) -> Path:
        target = self.directory / "clone"
        done = self.run("clone", "-q", self.url, str(target))
        assert done.returncode == 0, done.stderr + self.proxy.said()[-2000:]
        assert (target / "README").read_text() == "read me\n"
        return target

    def push(self, clone: Path, size: int = 100) -> subprocess.CompletedProcess[str]:
        (clone / "new").write_bytes(os.urandom(size))
        git("add", "new", cwd=clone)
        git("commit", "-qm", "new", cwd=clone)
        return self.run("push", "-q", "origin", "HEAD:refs/heads/main", cwd=clone)

    @property
    def tip(self) -> str:
        return git("rev-parse", "refs/heads/main", cwd=self.bare)


@pytest.fixture(scope="module")
def proxy(world: World) -> Iterator[ProxyProcess]:
    serving = world.serve(POLICY)
    yield serving
    serving.stop()


@pytest.fixture
def bare(world: World, tmp_path: Path) -> Iterator[Path]:
    """A fresh one, that anybody may push to."""
    place, source = world.content / "repositories" / "acme" / "demo.git", tmp_path / "source"
    git("init", "-q", "--bare", "-b", "main", str(place))
    git("config", "http.receivepack", "true", cwd=place)
    git("init", "-q", "-b", "main", str(source))
    (source / "README").write_text("read me\n")
    git("add", "README", cwd=source)
    git("commit", "-qm", "first", cwd=source)
    git("push", "-q", str(place), "main", cwd=source)
    yield place
    shutil.rmtree(place)


def over_https(
    world: World, proxy: ProxyProcess, bare: Path, directory: Path, tool: str, *, opened: bool = True
) -> Git:
    """`export $(cloned-proxy token TOOL)`, and trust in the workspace's CA where its rules open TLS."""
    trusted = proxy.command("ca", "path").stdout.strip() if opened else str(world.certificate)
    environment = {**proxy_environment(proxy.tool_url(tool)), "GIT_SSL_CAINFO": trusted, "HOME": str(directory)}
    return Git(world, proxy, bare, directory, environment)


def test_github_read_clones_and_fetches_and_does_not_push(
    fresh_world: World, proxy: ProxyProcess, bare: Path, tmp_path: Path
) -> None:
    reader = over_https(fresh_world, proxy, bare, tmp_path, "reader@v1")
    clone, before = reader.clone(), reader.tip
    refused = reader.push(clone, 3_000_000)
    assert refused.returncode != 0
    assert "403" in refused.stderr
    assert reader.tip == before
    assert git("rev-list", "--all", "--count", cwd=bare) == "1"
    assert git("count-objects", cwd=bare).startswith("3 objects"), "objects of the push arrived"
    assert reader.run("fetch", "-q", cwd=clone).returncode == 0

    def calls() -> set[tuple[str, str]]:
        posted = (entry for entry in proxy.log() if entry.get("tool") == "reader@v1" and entry.get("method") == "POST")
        return {(entry["verdict"], entry["path"].rpartition("/")[2]) for entry in posted}

    eventually(lambda: len(calls()) >= 2, what="both on record")
    assert calls() == {("allow", "git-upload-pack"), ("deny", "git-receive-pack")}


def test_github_write_pushes_as_well(fresh_world: World, proxy: ProxyProcess, bare: Path, tmp_path: Path) -> None:
    writer = over_https(fresh_world, proxy, bare, tmp_path, "writer@v1")
    clone = writer.clone()
    done = writer.push(clone, 3_000_000)
    assert done.returncode == 0, done.stderr
    assert writer.tip == git("rev-parse", "HEAD", cwd=clone)
    assert git("cat-file", "-s", "main:new", cwd=bare) == "3000000"


def test_without_a_look_inside_a_push_is_a_read(
    fresh_world: World, proxy: ProxyProcess, bare: Path, tmp_path: Path
) -> None:
    """The open control: a rule for the host alone cannot tell them apart, and the push arrives."""
    unseen = over_https(fresh_world, proxy, bare, tmp_path, "open@v1", opened=False)
    clone = unseen.clone()
    assert unseen.push(clone).returncode == 0
    assert unseen.tip == git("rev-parse", "HEAD", cwd=clone)


@pytest.fixture(scope="module")
def ssh_server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real sshd inside, for a key of its own; the directory holds `client` and `known_hosts`."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        unavailable("MISSING SERVER: sshd is not installed")
    place = tmp_path_factory.mktemp("ssh")
    place.chmod(0o700)
    for name in ("client", "host"):
        subprocess.run([needed("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True)
    (place / "known_hosts").write_text(f"[git.example.net]:{SSH_PORT} {(place / 'host.pub').read_text()}")
    shutil.copy(place / "client.pub", place / "authorized_keys")
    options = {
        "Port": SSH_PORT, "HostKey": place / "host", "AuthorizedKeysFile": place / "authorized_keys", "UsePAM": "no",
        "StrictModes": "no", "PasswordAuthentication": "no", "PermitRootLogin": "prohibit-password",
        "PidFile": "none", "LogLevel": "VERBOSE",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    world.run(["mkdir", "-p", "/run/sshd"])
    with (place / "log").open("wb") as log:
        server = world.spawn([str(program), "-D", "-e", "-f", "/dev/null", *words], stdout=log, stderr=log)
    while "Server listening" not in (place / "log").read_text():
        assert server.poll() is None, (place / "log").read_text()
        time.sleep(0.02)
    yield place
    server.terminate()
    server.wait(timeout=60)


def over_ssh(world: World, proxy: ProxyProcess, bare: Path, keys: Path, *, tool: str, directory: Path) -> Git:
    connect = f"{PROGRAM} connect --workspace {proxy.workspace} --tool {tool} %h %p"
    options = f"-F none -i {keys / 'client'} -o UserKnownHostsFile={keys / 'known_hosts'} -o BatchMode=yes"
    environment = {"GIT_SSH_COMMAND": f"ssh {options} -o 'ProxyCommand={connect}'", "HOME": str(directory)}
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    url = f"ssh://{user}@git.example.net:{SSH_PORT}{bare}"
    return Git(world, proxy, bare, directory, environment, url)


def test_git_over_ssh_reads_and_pushes_where_its_rule_says_ssh(
    fresh_world: World, proxy: ProxyProcess, bare: Path, tmp_path: Path, ssh_server: Path
) -> None:
    tool = over_ssh(fresh_world, proxy, bare, ssh_server, tool="ssh@v1", directory=tmp_path)
    clone = tool.clone()
    done = tool.push(clone, 5_000_000)
    assert done.returncode == 0, done.stderr
    assert tool.tip == git("rev-parse", "HEAD", cwd=clone)
    assert git("cat-file", "-s", "main:new", cwd=bare) == "5000000"

    def tools() -> set[str]:
        return {entry["tool"] for entry in proxy.log() if entry.get("host") == "git.example.net"}

    eventually(tools, what="the push on record")
    assert tools() == {"ssh@v1"}


def test_git_over_ssh_of_another_tool_is_told_what_to_do(
    fresh_world: World, proxy: ProxyProcess, bare: Path, tmp_path: Path, ssh_server: Path
) -> None:
    tool = over_ssh(fresh_world, proxy, bare, ssh_server, tool="nothing@v1", directory=tmp_path)
    connections = (ssh_server / "log").read_text().count("Connection from")
    done = tool.run("clone", "-q", tool.url, str(tmp_path / "clone"))
    assert done.returncode != 0
    assert f"cloned-proxy allow git.example.net:{SSH_PORT} --tool nothing@v1" in done.stderr
    assert (ssh_server / "log").read_text().count("Connection from") == connections
