"""Paths that real servers read in different ways: under `paths: [/pub/**]` no spelling is served a file beside it.

What counts is the file that comes back, whatever the status. Each server is asked directly as well: there the same
spellings get the file, so the list is worth something.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloned_proxy.policy.model.model import Policy, Scope
from cloned_proxy.policy.paths.path import parse_path_pattern
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.vocabulary import Anonymous
from tests.free_port import free_port
from tests.net import clients
from tests.proxy.support import HOST, allow, world

CANARY = b"the file that nobody may have"
_DOTS = (
    "..",
    "%2e%2e",
    ".%2E",
    "%252e%252e",
    "..;",
    "..;x=1",
    "..%3b",
    "..%20",
    "..%00",
    "%c0%ae%c0%ae",
    "..%3f",
    ".%00.",
    "...",
)
_SLASHES = ("/", "%2f", "%5c", "%252f", "//", ";/", "/;/", "%255c")
_PAIRS = list(itertools.product(_DOTS, _SLASHES))
ATTACKS = [
    *(f"/pub/{dots}{slash}secret/canary.txt" for dots, slash in _PAIRS),
    *(f"/pub{slash}{dots}{slash}secret{slash}canary.txt" for dots, slash in _PAIRS),
    *(f"/pub/a/b/{dots}{slash}{dots}{slash}{dots}{slash}secret/canary.txt" for dots, slash in _PAIRS),
    "//secret/canary.txt", "/pub;/../secret/canary.txt", "/./pub/../secret/canary.txt", "//pub/secret/canary.txt",
    "/pub/../../secret/canary.txt", "/secret/canary.txt?/pub/", "/secret/canary.txt%3f/pub/",
    "/secret/canary.txt%23/pub/x",
    "/pub%2f../secret/canary.txt", "/pub%2f..%2fsecret%2fcanary.txt", "/x/%2fpub/..%2f../secret/canary.txt",
]  # fmt: skip
DENIED = [
    "/secret/canary.txt", "//secret//canary.txt", "/%73ecret/canary.txt", "/secret%2fcanary.txt",
    "/x/../secret/canary.txt", "/secret/./canary.txt", "/pub//../secret/canary.txt", "/secret/;/canary.txt",
    "/secret;x/canary.txt",
]  # fmt: skip
HARMLESS = ["/pub/ok.txt", "/pub//ok.txt", "/pub/ok.txt?x=/../..", "/pub/%6fk.txt"]

_NODE = """
const {createServer} = require("node:http"), {readFile} = require("node:fs"), {join} = require("node:path");
createServer((request, response) => {
  let name = request.url.split("?")[0];
  try { name = decodeURIComponent(name); } catch { response.writeHead(400).end(); return; }
  const answer = (error, text) => response.writeHead(error ? 404 : 200).end(error ? "" : text);
  try { readFile(join(process.argv[1], name), answer); } catch (error) { answer(error); }
}).listen(process.argv[2], "127.0.0.1");
"""
"""As such servers are written by hand: decoded, then joined."""

_NGINX = """
daemon off; master_process off; pid {directory}/pid; error_log stderr crit;
events {{}}
http {{
  access_log off; client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{ listen 127.0.0.1:{port}; root {root}; merge_slashes on; }}
}}
"""


def _python(root: Path, port: int, directory: Path) -> list[str]:
    return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(root), str(port)]


def _node(root: Path, port: int, directory: Path) -> list[str]:
    return [clients.needed("node"), "-e", _NODE, str(root), str(port)]


def _nginx(root: Path, port: int, directory: Path) -> list[str]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or clients.needed("nginx")
    directory.joinpath("nginx.conf").write_text(_NGINX.format(directory=directory, port=port, root=root))
    return [program, "-e", "stderr", "-p", str(directory), "-c", str(directory / "nginx.conf")]


SERVERS = {"python": _python, "node": _node, "nginx": _nginx}


@contextlib.asynccontextmanager
async def _serving(name: str, directory: Path) -> AsyncIterator[int]:
    root = directory / "root"
    for file, text in (("pub/ok.txt", b"public"), ("pub/a/b/ok.txt", b"public"), ("secret/canary.txt", CANARY)):
        root.joinpath(file).parent.mkdir(parents=True, exist_ok=True)
        root.joinpath(file).write_bytes(text)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *SERVERS[name](root, port, directory), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(OSError):
                    await _got(port, "/pub/ok.txt", "")
                    break
                await asyncio.sleep(0.05)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _got(port: int, path: str, front: str) -> bytes:
    """What comes back, head and all; `front` stands in front of the path."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        host = front.removeprefix("http://") or "x"
        writer.write(f"GET {front}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("name", SERVERS)
async def test_no_spelling_of_a_path_leaves_the_prefix(tmp_path: Path, name: str) -> None:
    async with _serving(name, tmp_path) as port:
        direct = [path for path in ATTACKS if CANARY in await _got(port, path, "")]
        assert direct, "no spelling works even without the proxy"
        rule = allow(HOST, port, methods=frozenset({"GET"}), paths=(parse_path_pattern("/pub/**"),))
        async with world(rule) as w:
            assert isinstance(w.address, tuple)
            for path in ATTACKS:
                assert CANARY not in await _got(w.address[1], path, f"http://{HOST}:{port}"), path
            served = [path for path in HARMLESS if b"public" in await _got(w.address[1], path, f"http://{HOST}:{port}")]
            assert "/pub/ok.txt" in served
            assert ("/pub//ok.txt" in served) == (b"public" in await _got(port, "/pub//ok.txt", ""))


@pytest.mark.parametrize("name", SERVERS)
async def test_no_spelling_of_a_denied_path_is_served(tmp_path: Path, name: str) -> None:
    async with _serving(name, tmp_path) as port:
        spelled = [*ATTACKS, *DENIED]
        direct = [path for path in spelled if CANARY in await _got(port, path, "")]
        assert "/secret/canary.txt" in direct
        deny = allow(HOST, port, id="d", denies=True, paths=(parse_path_pattern("/secret/**"),))
        scope = Scope(HostIndex([allow(HOST, port)]), HostIndex([deny]))
        async with world(current=Policy("v", anonymous=Anonymous.GLOBAL, global_scope=scope)) as w:
            assert isinstance(w.address, tuple)
            for path in spelled:
                assert CANARY not in await _got(w.address[1], path, f"http://{HOST}:{port}"), path
            assert b"public" in await _got(w.address[1], "/pub/ok.txt", f"http://{HOST}:{port}")
