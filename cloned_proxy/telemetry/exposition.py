"""`/metrics`, `/healthz` and `/readyz` over HTTP on a loopback address, away from the event loop."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import ClassVar, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

_MAX_CONNECTIONS: Final = 16
_TIMEOUT: Final = 5.0
"""Seconds a scraper may take for its request or for reading the answer."""


class _MetricsServer(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        place: tuple[str, int] | socket.socket,
        registry: CollectorRegistry,
        problems: Callable[[], tuple[str, ...]],
    ) -> None:
        self.registry = registry
        self.problems = problems
        self._places = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        if isinstance(place, tuple):
            super().__init__(place, _Handler)
        else:
            super().__init__(place.getsockname()[:2], _Handler, bind_and_activate=False)
            self.socket.close()
            self.socket = place

    def process_request(self, request: object, client_address: object) -> None:
        # One thread a connection, so the number of connections bounds the threads; the rest are closed at once.
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)  # type: ignore[arg-type]
        else:
            self.shutdown_request(request)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A scraper that hangs up is no event; everything else answers for itself with a 500 in the handler."""


class _Handler(BaseHTTPRequestHandler):
    server: _MetricsServer
    timeout = _TIMEOUT
    server_version = "cloned-proxy"
    sys_version = ""
    _ROUTES: ClassVar = {"/metrics": "_metrics", "/healthz": "_healthz", "/readyz": "_readyz"}

    def do_GET(self) -> None:
        route = self._ROUTES.get(self.path.partition("?")[0])
        if route is None:
            self._answer(404, "text/plain; charset=utf-8", b"/metrics, /healthz or /readyz\n")
            return
        getattr(self, route)()

    do_HEAD = do_GET  # noqa: N815  the name that http.server looks for

    def _metrics(self) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept") or "")
        self._answer(200, content_type, encode(self.server.registry))

    def _healthz(self) -> None:
        self._answer(200, "application/json", b'{"status": "ok"}\n')

    def _readyz(self) -> None:
        try:
            problems = self.server.problems()
        except Exception as error:  # noqa: BLE001  a readiness check that fails is itself a reason not to be ready
            problems = (f"the readiness check failed: {error}",)
        body = {"status": "not ready" if problems else "ready", "problems": list(problems)}
        self._answer(503 if problems else 200, "application/json", json.dumps(body).encode() + b"\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it so
        """A scrape every few seconds is not worth a line each."""


class Exposition:
    """The endpoint, from construction to `close`. `problems` runs in a thread of the server."""

    def __init__(
        self,
        place: tuple[str, int] | socket.socket,
        registry: CollectorRegistry,
        problems: Callable[[], tuple[str, ...]],
    ) -> None:
        """Starts to answer at an address, or on a listening socket, which it then owns.

        Raises OSError when the address cannot be bound.
        """
        self._server = _MetricsServer(place, registry, problems)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port is the real one when 0 was asked for."""
        host, port = self._server.server_address[:2]
        return str(host), port

    def close(self) -> None:
        """Stops answering and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=_TIMEOUT)
