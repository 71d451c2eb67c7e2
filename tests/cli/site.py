"""An upstream of HTTP or TLS on loopback for tests of what is sent, and of what comes back."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Site:
    """An upstream that keeps the heads it got, and repeats them where it is asked to."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[tuple[str, list[tuple[str, str]]]] = []
        self.elsewhere = ""
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.seen.append((self.path, list(self.headers.items())))
                repeats = self.path.startswith(("/v1/echo", "/v1/error"))
                body = json.dumps(dict(self.headers)).encode() if repeats else b"reached"
                self.send_response(500 if self.path == "/v1/error" else 302 if self.path == "/v1/away" else 200)
                if self.path == "/v1/away":
                    self.send_header("Location", site.elsewhere)
                if self.path == "/forged":
                    self.send_header("X-Cloned-Proxy-Reason", "host_not_allowed")
                if self.path == "/v1/head":
                    self.send_header("X-Seen", self.headers.get("Authorization", ""))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  http.server's own name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a caller that was cut is no event
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def secrets(self, path: str, name: str = "authorization") -> list[str]:
        """The values of a header in the requests for a path."""
        return [value for at, fields in self.seen if at == path for key, value in fields if key.lower() == name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
