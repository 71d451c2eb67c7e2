"""A stand-in of the Anthropic Messages API on loopback: it speaks the real protocol, streamed, and follows a script.

In place of a model: the first turn that offers the wanted tool calls it, the next one repeats what the tool said. Until
it is offered, the model waits a second by a shell command.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ModelStandIn:
    """`tools` are the names that the client offered, `results` what its tools answered."""

    def __init__(self, tool: str, arguments: dict[str, Any]) -> None:
        self.tools: set[str] = set()
        self.results: list[str] = []
        stand_in = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
                if "count_tokens" in self.path:
                    self._send("application/json", json.dumps({"input_tokens": 1}).encode())
                    return
                blocks = stand_in.answer(body, tool, arguments)
                if body.get("stream"):
                    self._send("text/event-stream", b"".join(_events(blocks)))
                else:
                    self._send("application/json", json.dumps(_message(blocks)).encode())

            def do_GET(self) -> None:
                self._send("application/json", b'{"data": []}')

            do_HEAD = do_GET  # noqa: N815  http.server's word

            def _send(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[ModelStandIn]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        yield self
        self._server.shutdown()
        self._server.server_close()
        thread.join()

    def answer(self, body: dict[str, Any], tool: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """The content of the next turn."""
        offered = {each["name"] for each in body.get("tools") or ()}
        self.tools |= offered
        if not offered:
            return [{"type": "text", "text": "ok"}]
        calls, results = {}, []
        for message in body.get("messages", ()):
            for block in message["content"] if isinstance(message["content"], list) else ():
                if block.get("type") == "tool_use":
                    calls[block["id"]] = block["name"]
                if block.get("type") == "tool_result" and calls.get(block["tool_use_id"]) == tool:
                    results.append(json.dumps(block["content"]))
        if results:
            self.results += results
            return [{"type": "text", "text": f"The tool said: {results[-1]}"}]
        if tool in offered:
            return [{"type": "tool_use", "id": f"toolu_{len(calls)}", "name": tool, "input": arguments}]
        # A client may ask the model before its servers are up.
        return [{"type": "tool_use", "id": f"toolu_{len(calls)}", "name": "Bash", "input": {"command": "sleep 1"}}]


def _message(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    reason = "tool_use" if blocks[-1]["type"] == "tool_use" else "end_turn"
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "stand-in", "content": blocks,
        "stop_reason": reason, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip


def _events(blocks: list[dict[str, Any]]) -> Iterator[bytes]:
    message = _message(blocks)
    begun = {**message, "content": [], "stop_reason": None}
    yield _event("message_start", {"message": begun})
    for index, block in enumerate(blocks):
        if block["type"] == "text":
            start, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield _event("content_block_start", {"index": index, "content_block": start})
        yield _event("content_block_delta", {"index": index, "delta": delta})
        yield _event("content_block_stop", {"index": index})
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", {"delta": ended, "usage": {"output_tokens": 1}})
    yield _event("message_stop", {})


def _event(kind: str, body: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **body})}\n\n".encode()
