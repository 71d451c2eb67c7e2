"""A web server on loopback with a certificate of a private CA."""

from __future__ import annotations

import contextlib
import http.server
import queue
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from tests.net.git_site import git_call

BODY = b"private\n"


@dataclass
class Site:
    ca: trustme.CA
    port: int
    content: Path | None = None
    """With git repositories below `repositories/`."""
    pages: dict[str, bytes] = field(default_factory=dict)
    """By method and path, as in `GET /page`; all others show BODY."""
    seen: queue.Queue[str] = field(default_factory=queue.Queue)
    """The path of each request, or what ended a connection: clients say that they refuse a certificate."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def pem(self) -> str:
        return self.ca.cert_pem.bytes().decode()

    def forget(self) -> None:
        """What was seen until now."""
        while not self.seen.empty():
            self.seen.get()


@contextlib.contextmanager
def private_site() -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.seen.put(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            call = None if site.content is None else git_call(site.content, self.command, self.path, headers)
            if call is not None:
                self.wfile.write(call.answer(body))
                return
            shown = site.pages.get(f"{self.command} {self.path}", BODY)
            self.send_response(200)
            self.send_header("Content-Length", str(len(shown)))
            self.end_headers()
            self.wfile.write(shown)

        do_POST = do_GET  # noqa: N815  the base class's word

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word

    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    site = Site(ca, server.server_address[1])
    server.handle_error = lambda *_: site.seen.put(repr(sys.exc_info()[1]))  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield site
    server.shutdown()
    server.server_close()
