"""Stands in for LocalAI, whose image cannot be had everywhere: the same HTTP interface, no model behind it."""

from __future__ import annotations

import http.server
import json
import os
import sys

HEALTH = sys.argv[1] if len(sys.argv) > 1 else "/readyz"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == HEALTH:
            self._answer(200, {})
        elif self.path == "/metrics":
            self._answer(200, None, "# TYPE api_call histogram\n")
        elif self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [{"id": "stand-in", "object": "model"}]})
        else:
            self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers.get("Authorization", "no key")
        text = f"{body['messages'][-1]['content']} ({key})"
        self._answer(200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})

    def _answer(self, status: int, value: object, text: str | None = None) -> None:
        data = (json.dumps(value) if text is None else text).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if text is None else "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word


if __name__ == "__main__":
    host, _, port = os.environ.get("LOCALAI_ADDRESS", ":8080").rpartition(":")
    http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
