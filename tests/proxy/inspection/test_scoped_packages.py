"""`npm install @scope/pkg` under a rule with paths, in opened TLS: npm asks for `/@scope%2fpkg`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import ssl
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS
from cloned_proxy.policy.callers.identity import OwnTokens
from cloned_proxy.proxy.gate.gate import Gate
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from cloned_proxy.store.settings.config import ProxySettings
from tests.net import clients
from tests.proxy.inspection.support import World, rule
from tests.proxy.support import KEY


@functools.cache  # the time of packing is in it
def _tarball(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        data = json.dumps({"name": name, "version": "1.0.0"}).encode()
        info = tarfile.TarInfo("package/package.json")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Registry(http.server.BaseHTTPRequestHandler):
    """A stand-in for npm's registry in its format (docs/REGISTRY-API.md of npm/registry); it has every package."""

    protocol_version = "HTTP/1.1"

    def __init__(self, asked: list[str], *arguments: object) -> None:
        self.asked = asked
        super().__init__(*arguments)  # type: ignore[arg-type]  # as the server calls it

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path[1:].replace("%2f", "/").partition("/-/")[0]
        tarball = _tarball(name)
        if "/-/" in self.path:
            self._answer(tarball, "application/octet-stream")
            return
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
        place = f"https://{self.headers['Host']}/{name}/-/{name.rpartition('/')[2]}-1.0.0.tgz"
        version = {"name": name, "version": "1.0.0", "dist": {"tarball": place, "integrity": integrity}}
        document = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        self._answer(json.dumps(document).encode(), "application/json")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name of the base class
        pass


@contextlib.contextmanager
def registry(context: ssl.SSLContext, asked: list[str]) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Registry, asked))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def _npm(directory: Path, package: str, port: int, proxy: str, certificate: Path) -> tuple[int, str]:
    environment = {
        **os.environ,
        **clients.proxy_environment(proxy),
        "NODE_EXTRA_CA_CERTS": str(certificate),
        "npm_config_registry": f"https://api.test:{port}/",
        "npm_config_cache": str(directory / "cache"),
        "npm_config_fetch_retries": "0",
        "npm_config_update_notifier": "false",
    }
    command = [clients.needed("npm"), "install", "--no-audit", "--no-fund", "--prefix", str(directory), package]
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.parametrize(
    "paths", [("/**",), ("/@acme%2f*", "/@acme/**"), ("/@acme%2fwidget", "/@acme/widget/-/*")], ids=" ".join
)
async def test_npm_installs_a_scoped_package_and_no_other_one(tmp_path: Path, paths: tuple[str, ...]) -> None:
    world = World.make(tmp_path, ProxySettings())
    asked: list[str] = []
    with registry(world.server_tls("api.test"), asked) as port:
        world.allow(rule("api.test", port, paths=paths))
        front = bind_tcp("127.0.0.1", 0)
        gate = Gate(
            enforcer=world.enforcer,
            tokens=OwnTokens(KEY),
            settings=world.settings,
            metrics=world.metrics,
            inspector=world.inspector,
        )
        await gate.open(Listener(front, ANONYMOUS, "test"))
        world.client_tls()  # makes the CA
        proxy, certificate = f"http://127.0.0.1:{front.getsockname()[1]}", tmp_path / "ca" / "cloned-proxy-ca.pem"
        try:
            (tmp_path / "wanted").mkdir()
            code, told = await _npm(tmp_path / "wanted", "@acme/widget", port, proxy, certificate)
            assert code == 0, told
            assert (tmp_path / "wanted/node_modules/@acme/widget/package.json").exists()
            assert asked == ["/@acme%2fwidget", "/@acme/widget/-/widget-1.0.0.tgz"]
            if paths != ("/**",):
                (tmp_path / "other").mkdir()
                code, told = await _npm(tmp_path / "other", "@other/canary", port, proxy, certificate)
                assert code != 0
                assert not [path for path in asked if "canary" in path]
        finally:
            await gate.drain(0)
            await world.inspector.close()
