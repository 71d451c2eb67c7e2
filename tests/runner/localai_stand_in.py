"""Stands in for LocalAI, llama.cpp's server, Ollama and vLLM: the same HTTP interface, no model behind it.

It reads each one's own variables and words, and does on request what a real one does only on a bad day: the last
message of a chat says which (`die`, `stall`, `half`, `cut`, `endless`, `tool URL`, `hog`, those of `ODD`); else echoed.
`STAND_IN_*` variables say how it starts.
"""

from __future__ import annotations

import http.server
import json
import os
import sys
import threading
import time
import urllib.request
from pathlib import Path

HEALTH = os.environ.get("STAND_IN_HEALTH", "/readyz")
KEYS = ("LOCALAI_API_KEY", "LLAMA_API_KEY", "VLLM_API_KEY")
KEY = "" if os.environ.get("STAND_IN_NO_KEY") else next(filter(None, map(os.environ.get, KEYS)), "")
"""As llama.cpp: health and the list of models are open to everybody."""
LOADED_WITH = Path(os.environ.get("STAND_IN_LOADED_WITH", "/"))
"""It is loading until there is such a file."""
ODD = {
    "garbage": "data: {]\n\n",
    "nothing": 'data: {"choices": []}\n\ndata: [DONE]\n\n',
    "failure": 'data: {"error": "out of slots"}\n\n',
}


def address() -> tuple[str, int]:
    words = sys.argv[1:]
    if "--port" in words:
        return words[words.index("--host") + 1], int(words[words.index("--port") + 1])
    if "LLAMA_ARG_PORT" in os.environ:
        return os.environ["LLAMA_ARG_HOST"], int(os.environ["LLAMA_ARG_PORT"])
    host, _, port = (os.environ.get("LOCALAI_ADDRESS") or os.environ.get("OLLAMA_HOST") or ":8080").rpartition(":")
    return host, int(port)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/self":
            self._answer(200, {})
        elif not LOADED_WITH.exists():
            self._answer(503, {"error": {"message": "Loading model"}})
        elif self.path == HEALTH:
            self._answer(200, {})
        elif self.path == "/metrics":
            self._answer(200, None, "# TYPE api_call histogram\n")
        elif self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [{"id": "stand-in", "object": "model"}]})
        elif self.path == "/environment":
            self._answer(200, dict(os.environ) | {"affinity": str(len(os.sched_getaffinity(0)))})
        else:
            self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(length))
        if KEY and self.headers.get("Authorization") != f"Bearer {KEY}":
            self._answer(401, {"error": {"message": "Invalid API Key"}})
            return
        if not body["messages"]:
            self._answer(400, {"error": {"message": "no messages"}})
            return
        last = str(body["messages"][-1]["content"])
        if last == "size":
            last = str(length)
        if last.startswith("tool "):
            call = {"name": "fetch", "arguments": json.dumps({"url": last.removeprefix("tool ")})}
            message = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]}
            self._answer(200, {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
        elif last == "hog":
            held = [bytearray(8 * 1024 * 1024) for _ in range(100_000)]
            self._answer(200, {"held": len(held)})
        elif body.get("stream"):
            self._stream(last)
        else:
            text = f"{last} ({self.headers.get('Authorization', 'no key')})"
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            self._answer(200, {"choices": [choice]})

    def _stream(self, last: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if last in ODD:
            self._chunk(ODD[last])
            self._chunk("")
            return
        words = ["one ", "two ", "three "] if last in ("die", "stall", "cut", "half") else last.split(" ")
        for word in ["x" * 100_000] * 100 if last == "endless" else words:
            self._event({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
        if last == "die":
            os._exit(9)
        if last == "half":
            self.close_connection = True
            return
        if last == "stall":
            time.sleep(3600)
        if last != "cut":
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._chunk("data: [DONE]\n\n")
        self._chunk("")

    def _event(self, value: object) -> None:
        self._chunk(f"data: {json.dumps(value)}\n\n")

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())

    def _answer(self, status: int, value: object, text: str | None = None) -> None:
        data = (json.dumps(value) if text is None else text).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if text is None else "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word


if __name__ == "__main__":
    place = address()
    server = http.server.ThreadingHTTPServer(place, Handler)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    # As engines do that warm up over their own port: with the variables of the environment, proxies included.
    urllib.request.urlopen(f"http://127.0.0.1:{place[1]}/self", timeout=5).close()
    sys.stdout.write("the stand-in listens\n")
    sys.stdout.flush()
    serving.join()
