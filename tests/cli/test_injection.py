"""Secrets that tools never see, from end to end: real `serve`, real vault, real TLS, curl and Python as the tools."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from tests.cli.canary_search import places_with
from tests.cli.program import Serving, Workspace, eventually
from tests.cli.site import Site

CANARY = "sk-canary/2b+7e=151628aed2a6"
OWNER, THIEF = "owner.tool@v1", "thief.tool@v1"


@dataclass
class Scene:
    workspace: Workspace
    serving: Serving
    site: Site
    other: Site
    bundle: Path
    told: dict[str, str] = field(default_factory=dict)
    """Everything that came back to a tool."""
    minted: dict[str, str] = field(default_factory=dict)

    def curl(self, path: str, *words: str, tool: str = OWNER, url: str = "") -> subprocess.CompletedProcess[str]:
        if tool not in self.minted:
            self.minted[tool] = self.workspace.json("token", tool)["proxy"]
        target = f"{url or self.site.url}{path}"
        command = [
            "curl",
            "-sS",
            "-i",
            "--max-time",
            "15",
            "--proxy",
            self.minted[tool],
            "--cacert",
            str(self.bundle),
            *words,
            target,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=90, check=False, env={"PATH": os.environ["PATH"]}
        )
        self.told[f"curl {len(self.told)}"] = done.stdout + done.stderr
        return done

    def set(self, value: str) -> None:
        assert self.workspace.run("vault", "set", "llm.api_key", given=f"{value}\n").returncode == 0


def policy_for(site: Site, other: Site) -> str:
    target = f"host: localhost, ports: [{site.port}], addresses: [private]"
    inject = 'inject: {header: Authorization, value: "Bearer ${vault:llm.api_key}"}'
    return "\n".join(
        (
            "version: 1",
            "anonymous: deny",
            "tools:",
            f"  {OWNER}:",
            "    allow:",
            f'      - {{{target}, paths: ["/v1/**"], {inject}}}',
            f"      - {{host: localhost, ports: [{other.port}], addresses: [private]}}",
            f"  {THIEF}:",
            f"    allow: [{{{target}}}]",
            "",
        )
    )


@contextlib.contextmanager
def scene(workspace: Workspace, tmp_path: Path, scheme: str, *arguments: str) -> Iterator[Scene]:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    site = Site(context if scheme == "https" else None)
    other = Site()
    site.elsewhere = f"{other.url}/landed"
    trusted = tmp_path / "upstream-ca.pem"
    ca.cert_pem.write_to_path(str(trusted))
    workspace.environment["SSL_CERT_FILE"] = str(trusted)
    workspace.write_policy(policy_for(site, other))
    try:
        assert workspace.run("vault", "set", "llm.api_key", given=CANARY).returncode == 0
        serving = workspace.serve(*arguments, fork=False)  # its environment is searched, too
        own = Path(workspace.run("ca", "path").stdout.strip())
        bundle = tmp_path / "both.pem"
        bundle.write_bytes(trusted.read_bytes() + own.read_bytes())
        yield Scene(workspace, serving, site, other, bundle)
    finally:
        site.close()
        other.close()


@pytest.fixture(params=["http", "https"])
def s(request: pytest.FixtureRequest, workspace: Workspace, tmp_path: Path) -> Iterator[Scene]:
    with scene(workspace, tmp_path, request.param) as made:
        yield made


def test_a_tool_uses_a_key_that_it_never_sees(s: Scene, tmp_path: Path) -> None:
    # The call itself; whatever the tool says in the header's place is replaced.
    assert s.curl("/v1/a").stdout.endswith("reached")
    assert s.curl("/v1/b", "-H", "Authorization: Bearer mine", "-H", "authorization: x").stdout.endswith("reached")
    assert s.curl("/v1/c", "-H", "X: y\r\nAuthorization: Bearer smuggled").stdout.endswith("reached")
    assert [s.site.secrets(f"/v1/{name}") for name in "abc"] == [[f"Bearer {CANARY}"]] * 3

    # Somewhere else: another path, another host in the Host header, another tool.
    assert " 403 " in s.curl("/v2").stdout
    assert " 400 " in s.curl("/v1/d", "-H", "Host: other.example").stdout
    assert s.curl("/v1/e", tool=THIEF).stdout.endswith("reached")
    assert (s.site.secrets("/v2"), s.site.secrets("/v1/d"), s.site.secrets("/v1/e")) == ([], [], [])

    # What comes back.
    for path in ("/v1/echo", "/v1/error"):
        answer = s.curl(path).stdout
        assert " 502 " in answer
        assert "secret_echoed" in answer
    assert "x-seen: [redacted]" in s.curl("/v1/head").stdout.lower()

    # A redirect: the next request is decided by itself, and its rule injects nothing.
    assert s.curl("/v1/away", "-L", "--location-trusted").stdout.endswith("reached")
    assert [path for path, _ in s.other.seen] == ["/landed"]
    assert s.other.secrets("/landed") == []

    # Rotation and removal, while it serves.
    s.set("rotated/secret-9c1f")
    assert s.curl("/v1/f").stdout.endswith("reached")
    assert s.site.secrets("/v1/f") == ["Bearer rotated/secret-9c1f"]
    assert s.workspace.run("vault", "remove", "llm.api_key").returncode == 0
    refused = s.curl("/v1/g", "-H", "Authorization: Bearer mine")
    assert " 503 " in refused.stdout
    assert s.site.secrets("/v1/g") == []
    assert "holds no 'llm.api_key'" in s.serving.log()
    s.set(CANARY)
    assert s.curl("/v1/h").stdout.endswith("reached")

    _assert_nowhere(s, tmp_path)


def _assert_nowhere(s: Scene, tmp_path: Path) -> None:
    eventually(lambda: "/v1/h" in s.workspace.run("log", "--json").stdout, what="the log")
    said = {
        name: s.workspace.run(*name.split()).stdout
        for name in ("list --json", "log --json", "policy history", "vault list", "policy check")
    }
    texts = s.told | said | {"metrics": s.serving.page("/metrics").body, "banner": "\n".join(s.serving.banner)}
    look = {"directories": [tmp_path], "processes": [s.serving.process.pid], "texts": texts}
    assert places_with(CANARY, **look) == []  # type: ignore[arg-type]
    # The search finds what is there: a file, a text, an environment.
    (tmp_path / "planted").write_text(f"x{CANARY}x")
    with subprocess.Popen(["sleep", "30"], env=os.environ | {"LLM_API_KEY": CANARY}) as planted:
        environ = Path(f"/proc/{planted.pid}/environ")
        eventually(environ.read_bytes, what="its environment")  # Linux fills it in a moment after exec has begun
        found = places_with(CANARY, directories=[tmp_path], processes=[planted.pid], texts={"t": f"Bearer {CANARY}"})
        planted.kill()
    assert found == [f"environ of {planted.pid}", "file planted", "text t"]


def test_no_core_dump_can_hold_it(workspace: Workspace) -> None:
    limits = Path(f"/proc/{workspace.serve().process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] == ["0", "0"]


def test_workers_take_up_a_new_secret_too(workspace: Workspace, tmp_path: Path) -> None:
    with scene(workspace, tmp_path, "https", "--workers", "2") as s:
        s.set("rotated/secret-9c1f")
        for _ in range(6):
            assert s.curl("/v1/a").stdout.endswith("reached")
        assert set(s.site.secrets("/v1/a")) == {"Bearer rotated/secret-9c1f"}


def test_llm_api_key_of_the_environment_wins_and_is_found_nowhere_else(workspace: Workspace, tmp_path: Path) -> None:
    workspace.environment["LLM_API_KEY"] = "from/the-environment-51"
    with scene(workspace, tmp_path, "http", "--control", "off") as s:
        assert s.curl("/v1/a").stdout.endswith("reached")
        assert s.site.secrets("/v1/a") == ["Bearer from/the-environment-51"]
        texts = s.told | {"metrics": s.serving.page("/metrics").body}
        assert places_with("from/the-environment-51", directories=[tmp_path], processes=[], texts=texts) == []
