"""A stand-in for PyPI and for npm's registry on loopback, with one small package each, in the formats of the real ones.

Containers of the tests reach no registry; pip, uv, npm and npx do not notice the difference.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.runner.wheels import make_wheel

PACKAGE: Final = "hello-home"
_WHEEL_CODE: Final = "def main():\n    print('hello from python')\n"
_PROGRAM: Final = "#!/usr/bin/env node\nconsole.log('hello from node')\n"


@dataclass(frozen=True)
class Registry:
    """Both are at `http://127.0.0.1:PORT`: `/simple/` for PyPI, `/npm/` for npm."""

    port: int

    @property
    def simple(self) -> str:
        return f"http://127.0.0.1:{self.port}/simple/"

    @property
    def npm(self) -> str:
        return f"http://127.0.0.1:{self.port}/npm/"


@contextmanager
def local_registry(*, install_script: str = "true") -> Iterator[Registry]:
    """Serves `hello-home` 1.0.0, whose npm package runs `install_script` where scripts are allowed."""
    with tempfile.TemporaryDirectory() as directory:
        entry_points = "[console_scripts]\nhello-home = hello_home:main\n"
        wheel = make_wheel(Path(directory), "hello_home", entry_points, _WHEEL_CODE)
        files = {f"/files/{wheel.name}": wheel.read_bytes(), "/npm/hello-home.tgz": _tarball(install_script)}
    pages = {"/simple/hello-home/": f'<!DOCTYPE html><a href="/files/{wheel.name}">{wheel.name}</a>'.encode()}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found, kind = files.get(path), "application/octet-stream"
            if found is None and path in pages:
                found, kind = pages[path], "text/html"
            if found is None and path == f"/npm/{PACKAGE}":
                found, kind = _packument(files["/npm/hello-home.tgz"], server.server_address[1]), "application/json"
            body = found or b"{}"
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  a name that http.server calls; uv asks so for the size of a wheel

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that goes away is no event
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield Registry(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def _described(install_script: str) -> dict[str, Any]:
    return {
        "name": PACKAGE,
        "version": "1.0.0",
        "bin": {PACKAGE: "program.js"},
        "scripts": {"postinstall": install_script},
    }


def _tarball(install_script: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in (("package.json", json.dumps(_described(install_script))), ("program.js", _PROGRAM)):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size, entry.mode = len(text), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


def _packument(tarball: bytes, port: int) -> bytes:
    integrity = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    dist = {"tarball": f"http://127.0.0.1:{port}/npm/hello-home.tgz", "integrity": f"sha512-{integrity}"}
    version = {**_described(""), "scripts": {}, "hasInstallScript": True, "dist": dist}
    known = {"name": PACKAGE, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    return json.dumps(known).encode()
