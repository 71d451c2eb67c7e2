"""The envelope from a web server by TLS of a private CA: ETag, failures, and no proxy of the environment."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from cloned_proxy.fleet.signed.keys import SigningKey
from cloned_proxy.store.settings.config import Config
from tests.fleet.replicas import Replica, envelope, policy_for

KEY = SigningKey.generate()


class Server:
    def __init__(self, ca: trustme.CA) -> None:
        self.raw = envelope(policy_for("a.example"), 1, KEY)
        self.tag = '"1"'
        self.statuses: list[int] = []
        self.accepted: list[str | None] = []
        self.encoding = ""
        self.fails = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.headers.get("If-None-Match") == server.tag
                status = 500 if server.fails else 304 if known else 200
                server.statuses.append(status)
                server.accepted.append(self.headers.get("Accept-Encoding"))
                self.send_response(status)
                self.send_header("ETag", server.tag)
                if server.encoding:
                    self.send_header("Content-Encoding", server.encoding)
                self.end_headers()
                if status == 200:
                    self.wfile.write(server.raw)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  http.server's own name
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost").configure_cert(context)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    made = Server(ca)
    yield made
    made.http.shutdown()
    made.http.server_close()


async def test_it_is_polled_with_its_etag_and_no_proxy_of_ours(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody is there
    one = Replica(tmp_path / "a", trust=[KEY.public], poll="1s", ca_files=[str(tmp_path / "ca.pem")])
    one.config = Config(policy=f"https://localhost:{server.http.server_address[1]}/p", fleet=one.settings)
    await one.start()
    await one.until_version(1)
    await one.until(lambda: 304 in server.statuses)
    server.raw, server.tag = envelope(policy_for("b.example"), 2, SigningKey.generate()), '"2"'
    await one.until_refused("signature")
    assert one.allows("a.example")
    server.fails = True
    await one.until(lambda: "answers 500" in one.policy.source.problem)
    assert one.allows("a.example")
    server.fails = False
    server.raw, server.tag = envelope(policy_for("b.example"), 2, KEY), '"3"'
    await one.until_version(2)
    assert one.allows("b.example")
    await one.stop()


async def test_what_grows_when_it_is_unpacked_is_not_unpacked(server: Server, tmp_path: Path) -> None:
    """A megabyte on the wire would be a gigabyte here; nobody asked for it."""
    server.raw, server.encoding = gzip.compress(server.raw + b" " * (8 << 20)), "gzip"
    one = Replica(tmp_path / "a", trust=[KEY.public], poll="1s", ca_files=[str(tmp_path / "ca.pem")])
    one.config = Config(policy=f"https://localhost:{server.http.server_address[1]}/p", fleet=one.settings)
    offered: list[int] = []
    await one.start()
    offer = one.policy.offer

    async def seen(raw: bytes) -> bool:
        offered.append(len(raw))
        taken: bool = await offer(raw)
        return taken

    one.policy.offer = seen
    await one.until(lambda: len(offered) > 1)
    assert set(server.accepted) == {"identity"}
    assert max(offered) == len(server.raw)
    assert not one.allows("a.example")
    await one.stop()
