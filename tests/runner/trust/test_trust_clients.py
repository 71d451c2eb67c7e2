"""Real clients take a server of a private CA by the variables of the sandbox, and refuse it without them.

What answers is no registry and no cloud: a web server of the tests, which speaks their protocols on loopback.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Final

import grpc  # type: ignore[import-untyped]
import pytest

from cloned_proxy.runner.trust.trust import trust_binds, write_trust
from cloned_proxy.runner.values.environment import ca_environment
from tests.net import clients
from tests.pinned_wheels import needed, unpacked
from tests.runner.private_site import Site, private_site

BOTO3: Final = Path(__file__).with_name("boto3.lock")
STS: Final = b"""\
<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
<Arn>arn:aws:iam::000000000000:user/private</Arn><UserId>A</UserId><Account>000000000000</Account>
</GetCallerIdentityResult></GetCallerIdentityResponse>"""
S3: Final = b"""\
<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>a</ID></Owner>
<Buckets><Bucket><Name>private</Name><CreationDate>2026-01-01T00:00:00Z</CreationDate></Bucket></Buckets>
</ListAllMyBucketsResult>"""
IN_PYTHON: Final = {
    "urllib": "from urllib.request import urlopen; print(urlopen({url!r}).read().decode())",
    "requests": "import requests; print(requests.get({url!r}).text)",
    "httpx": "import httpx; print(httpx.get({url!r}).text)",
    "aiohttp": """
import aiohttp, asyncio
async def main():
    async with aiohttp.ClientSession() as session, session.get({url!r}) as answer:
        print(await answer.text())
asyncio.run(main())""",
    "grpcio": """
import grpc, sys
with grpc.secure_channel({grpc!r}, grpc.ssl_channel_credentials()) as channel:
    print(channel.unary_unary("/test.Private/Unary")(b"", timeout=60).decode())""",
}
GRPC_JS: Final = """
const grpc = require("@grpc/grpc-js"), same = (bytes) => bytes;
new grpc.Client({grpc}, grpc.credentials.createSsl()).makeUnaryRequest("/test.Private/Unary", same, same,
  Buffer.from(""), (error, answer) => {{ console.log(error ? error.details : answer.toString()); process.exit(); }});
"""
AWS: Final = """
import sys; sys.path.insert(0, {site!r})
import boto3
from botocore.config import Config
options = dict(endpoint_url={url!r}, region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b",
               config=Config(retries=dict(total_max_attempts=1)))
print(boto3.client("sts", **options).get_caller_identity()["Arn"])
print(boto3.client("s3", **options).list_buckets()["Buckets"][0]["Name"])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with private_site() as site:
        site.content = tmp_path_factory.mktemp("content")
        yield site


@pytest.fixture(scope="module")
def grpc_server(site: Site) -> Iterator[str]:
    leaf = site.ca.issue_cert("127.0.0.1")
    handler = grpc.unary_unary_rpc_method_handler(lambda _, __: b"private")
    with futures.ThreadPoolExecutor(2) as threads:
        served = grpc.server(threads)
        served.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Private", {"Unary": handler}),))
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        port = served.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials([(leaf.private_key_pem.bytes(), chain)])
        )
        served.start()
        yield f"127.0.0.1:{port}"
        served.stop(None).wait()


class Asking:
    """One client, with what a sandbox gives it and without."""

    def __init__(self, site: Site, directory: Path) -> None:
        self.bundle = write_trust(directory, site.pem, None)
        trusting = ca_environment(str(self.bundle))
        plain = {key: value for key, value in os.environ.items() if key not in trusting}
        self.plain = {key: value for key, value in plain.items() if not key.lower().endswith("_proxy")}
        self.trusting = self.plain | trusting

    def both(self, *words: str, cwd: Path | None = None) -> tuple[str, str]:
        """What it prints with, and what it prints without."""
        return told(words, self.trusting, cwd), told(words, self.plain, cwd)


def told(words: Sequence[str], environment: dict[str, str], cwd: Path | None = None) -> str:
    done = subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=100)
    return done.stdout + done.stderr


@pytest.fixture
def asking(site: Site, tmp_path: Path) -> Asking:
    (tmp_path / "trust").mkdir()
    return Asking(site, tmp_path / "trust")


@pytest.mark.parametrize("name", IN_PYTHON)
def test_python(site: Site, asking: Asking, grpc_server: str, name: str) -> None:
    script = IN_PYTHON[name].format(url=site.url, grpc=grpc_server)
    taken, refused = asking.both(sys.executable, "-c", script)
    assert taken.strip() == "private", taken
    assert re.search("CERTIFICATE_VERIFY_FAILED|certificate verify failed", refused), refused


def test_node(site: Site, asking: Asking) -> None:
    script = (
        f"fetch('{site.url}').then(a => a.text()).then(t => process.stdout.write(t), e => console.log(e.cause.code))"
    )
    taken, refused = asking.both(clients.needed("node"), "-e", script)
    assert taken == "private\n"
    assert "UNABLE_TO_VERIFY_LEAF_SIGNATURE" in refused or "SELF_SIGNED_CERT" in refused, refused


@pytest.mark.skipif(os.geteuid() != 0, reason="no namespace of mounts to be had")
def test_wget_which_heeds_no_variable(site: Site, asking: Asking) -> None:
    """GnuTLS reads the file that it was built with: in a namespace of mounts of its own it is ours."""
    shown = next(mount for mount in trust_binds(asking.bundle.parent) if mount.source == str(asking.bundle))
    fetch = shlex.join([clients.needed("wget"), "-nv", "-O-", site.url])
    lay = f"mount --bind {shlex.quote(shown.source)} {shown.target} && exec {fetch}"
    for script, taken in ((lay, True), (fetch, False)):
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        said = told(words, asking.plain)
        assert ("private" in said, "not trusted" in said) == (taken, not taken), said


def test_git(site: Site, asking: Asking, tmp_path: Path) -> None:
    assert site.content is not None
    commit = repository(site.content / "repositories" / "o" / "code.git", tmp_path, {"README": b"private"})
    taken, refused = asking.both("git", "ls-remote", f"{site.url}/o/code.git", "HEAD")
    assert taken.split() == [commit, "HEAD"]
    assert "server certificate verification failed" in refused


def test_cargo_by_its_index_and_its_crates(site: Site, asking: Asking, tmp_path: Path) -> None:
    """The index is a git repository, which libgit2 fetches; the crate comes by cargo's own libcurl."""
    assert site.content is not None
    crate = packed_crate()
    site.pages["GET /crates/demo-1.0.0.crate"] = crate
    entry = {
        "name": "demo", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False,
        "cksum": hashlib.sha256(crate).hexdigest(),
    }  # fmt: skip
    index = {
        "config.json": json.dumps({"dl": f"{site.url}/crates/{{crate}}-{{version}}.crate"}).encode(),
        "de/mo/demo": json.dumps(entry).encode(),
    }
    repository(site.content / "repositories" / "o" / "index.git", tmp_path, index)
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "src" / "lib.rs").write_text("")
    (project / "Cargo.toml").write_text(
        '[package]\nname = "mine"\nversion = "0.1.0"\n'
        '[dependencies]\ndemo = { version = "1", registry = "private" }\n'
        f'[dependencies.code]\ngit = "{site.url}/o/crate.git"\n'
    )
    files = {"Cargo.toml": b'[package]\nname = "code"\nversion = "0.1.0"\n', "src/lib.rs": b""}
    repository(site.content / "repositories" / "o" / "crate.git", tmp_path, files)
    (project / ".cargo").mkdir()
    (project / ".cargo" / "config.toml").write_text(f'[registries.private]\nindex = "{site.url}/o/index.git"\n')
    for environment, taken in ((asking.plain, False), (asking.trusting, True)):
        home = tmp_path / str(taken)
        said = told([clients.needed("cargo"), "fetch"], environment | {"CARGO_HOME": str(home)}, project)
        assert (len(list(home.glob("registry/cache/*/demo-1.0.0.crate"))) == 1) == taken, said
        assert (len(list(home.glob("git/checkouts/crate-*"))) == 1) == taken, said
        assert ("certificate" in said) != taken, said


@pytest.mark.slow
def test_aws(site: Site, asking: Asking) -> None:
    packages = str(needed(lambda: unpacked(BOTO3)) / "site")
    site.pages |= {"POST /": STS, "GET /": S3}
    script = AWS.format(site=packages, url=site.url)
    taken, refused = asking.both(sys.executable, "-c", script)
    assert taken.split() == ["arn:aws:iam::000000000000:user/private", "private"], taken
    assert "SSL validation failed" in refused, refused


@pytest.mark.slow
def test_grpc_js(asking: Asking, grpc_server: str) -> None:
    clients.installed(clients.NODE_DIRECTORY, "@grpc/grpc-js")
    script = GRPC_JS.format(grpc=json.dumps(grpc_server))
    taken, refused = asking.both(clients.node(), "-e", script, cwd=clients.NODE_DIRECTORY)
    assert (taken.startswith("private\n"), "certificate" in refused) == (True, True), (taken, refused)


def repository(bare: Path, directory: Path, files: dict[str, bytes]) -> str:
    """A bare repository with one commit, whose id it returns."""
    work = directory / f"work-{bare.name}"
    for name, said in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(said)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    for words in (
        ["-C", str(work), "init", "--quiet"],
        ["-C", str(work), "add", "."],
        ["-C", str(work), "commit", "--quiet", "-m", "first"],
        ["clone", "--quiet", "--bare", str(work), str(bare)],
    ):
        subprocess.run(["git", *who, *words], check=True, capture_output=True, timeout=60)
    head = subprocess.run(["git", "-C", str(work), "rev-parse", "HEAD"], check=True, capture_output=True, timeout=60)
    return head.stdout.decode().strip()


def packed_crate() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, said in (("Cargo.toml", b'[package]\nname = "demo"\nversion = "1.0.0"\n'), ("src/lib.rs", b"")):
            info = tarfile.TarInfo(f"demo-1.0.0/{name}")
            info.size = len(said)
            archive.addfile(info, io.BytesIO(said))
    return packed.getvalue()
