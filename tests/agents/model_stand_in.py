"""A stand-in for the models of Claude Code and Codex: it speaks their protocols and has one shell command run.

No model: whatever it is asked, it answers with a call of the agent's own shell tool, and then with "done".
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from typing import Any

from tests.agents.chat_stand_in import USAGE


class ModelStandIn:
    """On loopback. `results` is what the agents said that the command printed, `rounds` how often it came here."""

    def __init__(self, command: str) -> None:
        """`{port}` in the command is the one of this server."""
        self.results: list[str] = []
        self.rounds = 0
        stand_in = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                stand_in.rounds += self.path == "/round"
                self._send(b'{"data":[],"models":[]}', "application/json")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.startswith("/v1/responses"):
                    events = stand_in._responses(body)
                else:
                    events = stand_in._messages(body)
                lines = "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events)
                self._send(lines.encode(), "text/event-stream")

            def _send(self, raw: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # an agent leaves without a word
                    super().handle()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._command = command.format(port=self.port)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _messages(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Anthropic's Messages API, streamed."""
        found = [part["content"] for message in body["messages"] if isinstance(message["content"], list)
                 for part in message["content"] if part["type"] == "tool_result"]  # fmt: skip
        self.results += [str(each) for each in found]
        if found:
            block: dict[str, Any] = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": "done"}
        else:
            block = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}
            call = json.dumps({"command": self._command, "description": "as asked"})
            delta = {"type": "input_json_delta", "partial_json": call}
        message = {"id": "m", "type": "message", "role": "assistant", "model": body["model"], "content": [],
                   "stop_reason": None, "usage": {"input_tokens": 1, "output_tokens": 1}}  # fmt: skip
        stop = {"stop_reason": "end_turn" if found else "tool_use"}
        return [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 1}},
            {"type": "message_stop"},
        ]

    def _responses(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """OpenAI's Responses API, streamed; Codex offers its shell as a function of a script."""
        found = [item["output"] for item in body["input"] if item.get("type", "").endswith("_output")]
        self.results += [str(each) for each in found]
        if found:
            text = {"type": "output_text", "text": "done", "annotations": []}
            item = {"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": [text]}
        else:
            script = f"text(await tools.exec_command({{cmd: {json.dumps(self._command)}}}))"
            item = {"type": "custom_tool_call", "id": "i", "call_id": "c1", "name": "exec", "input": script}
        return [
            {"type": "response.created", "response": {"id": "r"}},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": {"id": "r", "usage": USAGE}},
        ]
