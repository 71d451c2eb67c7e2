"""A stand-in for the models of Claude Code, Codex and Gemini CLI: it speaks their protocols, and knows one sentence."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, Final

ANSWER: Final = "the-stand-in-has-answered"
"""One word: what lies between two, a screen may show by moving the cursor."""
USAGE: Final = {
    "input_tokens": 1,
    "output_tokens": 1,
    "total_tokens": 2,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


def anthropic(model: str) -> Iterator[dict[str, Any]]:
    """The Messages API, streamed."""
    usage = {"input_tokens": 1, "output_tokens": 1}
    message: dict[str, Any] = {"id": "m", "type": "message", "role": "assistant", "model": model, "content": [],
               "stop_reason": None, "usage": usage}  # fmt: skip
    yield {"type": "message_start", "message": message}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ANSWER}}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}


def openai() -> Iterator[dict[str, Any]]:
    """The Responses API, streamed."""
    text = {"type": "output_text", "text": ANSWER, "annotations": []}
    item = {"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": [text]}
    yield {"type": "response.created", "response": {"id": "r"}}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": {"id": "r", "usage": USAGE}}


def gemini() -> dict[str, Any]:
    """One chunk of `streamGenerateContent`, which is the whole answer of `generateContent`, too."""
    content = {"role": "model", "parts": [{"text": ANSWER}]}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    return {"candidates": [{"content": content, "finishReason": "STOP", "index": 0}], "usageMetadata": usage}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[str]

    def do_HEAD(self) -> None:
        self._send("", "text/plain")

    def do_GET(self) -> None:
        self._send('{"data": [], "models": []}', "application/json")

    def do_POST(self) -> None:
        body = json.loads(self._body() or b"{}")
        self.asked.append(self.path)
        if "enerateContent" in self.path and "alt=sse" not in self.path:
            self._send(json.dumps(gemini()), "application/json")
            return
        if "enerateContent" in self.path:
            lines = [f"data: {json.dumps(gemini())}\n\n"]
        else:
            events = openai() if "/responses" in self.path else anthropic(body.get("model", ""))
            lines = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events]
        self._send("".join(lines), "text/event-stream")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _send(self, text: str, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # an agent leaves without a word
            super().handle()

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def chat_stand_in() -> Iterator[tuple[int, list[str]]]:
    """On loopback: its port, and the paths of the calls that came."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], asked
    server.shutdown()
    server.server_close()
    thread.join()
