"""A small OpenAI-compatible server around a real model: llama.cpp by its Python binding, standard library beside it.

It reads llama-server's variables (`LLAMA_ARG_HOST`, `_PORT`, `_MODEL`, `_THREADS`, `LLAMA_API_KEY`) and has its health,
its answer while it loads, and the names of its metrics. One generation at a time; the next ones wait.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from llama_cpp_py_sync import Llama  # type: ignore[import-not-found]  # only in the image that this runs in

KEY = os.environ.get("LLAMA_API_KEY", "")
NAME = os.path.basename(os.environ["LLAMA_ARG_MODEL"])  # noqa: PTH119  a label
CONTEXT = int(os.environ.get("LLAMA_ARG_CTX_SIZE", "2048"))
LOCK = threading.Lock()
METRICS = dict.fromkeys(
    (
        "llamacpp:prompt_tokens_total",
        "llamacpp:tokens_predicted_total",
        "llamacpp:tokens_predicted_seconds_total",
        "llamacpp:requests_processing",
        "llamacpp:requests_deferred",
        "cancelled_total",
    ),
    0.0,
)


class Counting(Llama):  # type: ignore[misc]
    """The binding never says why a generation ended; here it is known."""

    sampled = 0
    ended = False

    def _sample_token(self) -> int:
        token: int = super()._sample_token()
        self.ended = bool(self._lib.llama_vocab_is_eog(self._vocab, token))
        self.sampled += not self.ended
        return token


MODEL: list[Counting] = []


def load() -> None:
    threads = int(os.environ["LLAMA_ARG_THREADS"])
    # The binding keeps the logits of a whole batch, a MiB a token: with its 512 a long prompt fills the memory limit.
    sizes = {"n_ctx": CONTEXT, "n_batch": 64, "n_threads": threads, "n_threads_batch": threads}
    MODEL.append(Counting(os.environ["LLAMA_ARG_MODEL"], **sizes))


@contextlib.contextmanager
def turn() -> Iterator[Counting]:
    METRICS["llamacpp:requests_deferred"] += 1
    with LOCK:
        METRICS["llamacpp:requests_deferred"] -= 1
        METRICS["llamacpp:requests_processing"] += 1
        try:
            yield MODEL[0]
        finally:
            METRICS["llamacpp:requests_processing"] -= 1


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0

    def do_GET(self) -> None:
        if self.path == "/metrics":
            lines = [f"# TYPE {name} gauge\n{name} {value}\n" for name, value in METRICS.items()]
            self._answer(200, "".join(lines).encode(), "text/plain; version=0.0.4")
        elif not MODEL:
            self._json(503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}})
        elif self.path == "/health":
            self._json(200, {"status": "ok"})
        elif self.path == "/v1/models":
            self._json(200, {"object": "list", "data": [{"id": NAME, "object": "model"}]})
        else:
            self._json(404, {"error": {"message": "File Not Found"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if KEY and self.headers.get("Authorization") != f"Bearer {KEY}":
            self._json(401, {"error": {"message": "Invalid API Key"}})
        elif not body.get("messages"):
            self._json(400, {"error": {"message": "'messages' is required"}})
        else:
            self._chat(body)

    def _chat(self, body: dict[str, Any]) -> None:
        prompt = "\n".join(str(message["content"]) for message in body["messages"])
        wanted = int(body.get("max_tokens") or 64)
        with turn() as model:
            given = len(model.tokenize(prompt))
            if given + wanted > CONTEXT:
                self._json(400, {"error": {"message": f"the request exceeds the context size of {CONTEXT} tokens"}})
                return
            model.sampled, model.ended = 0, False
            pieces = model.generate(
                prompt,
                wanted,
                temperature=body.get("temperature", 0.0),
                stream=True,
                cancel_callback=self._gone,
                seed=1,
            )
            write: Callable[[str], None] | None = None
            if body.get("stream"):
                self._start_stream()
                write = self._piece
            began = time.monotonic()
            try:
                text = self._generate(pieces, write)
            except (RuntimeError, OSError):  # the client went away: nothing is computed for nobody
                METRICS["cancelled_total"] += 1
                self.close_connection = True
                return
            METRICS["llamacpp:prompt_tokens_total"] += given
            METRICS["llamacpp:tokens_predicted_total"] += model.sampled
            METRICS["llamacpp:tokens_predicted_seconds_total"] += time.monotonic() - began
            reason = "stop" if model.ended else "length"
            usage = {"prompt_tokens": given, "completion_tokens": model.sampled, "total_tokens": given + model.sampled}
        if write is None:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            self._json(200, {"object": "chat.completion", "model": NAME, "choices": [choice], "usage": usage})
            return
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            self._event({"choices": [], "usage": usage})
        self._chunk("data: [DONE]\n\n")
        self._chunk("")

    def _generate(self, pieces: Iterator[str], write: Callable[[str], None] | None) -> str:
        text = ""
        for piece in pieces:
            text += piece
            if write is not None:
                write(piece)
        return text

    def _gone(self) -> bool:
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _start_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _piece(self, text: str) -> None:
        self._event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})

    def _event(self, value: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps({'object': 'chat.completion.chunk', 'model': NAME, **value})}\n\n")

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())

    def _json(self, status: int, value: object) -> None:
        self._answer(status, json.dumps(value).encode(), "application/json")

    def _answer(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  the base class's word


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


if __name__ == "__main__":
    server = Server((os.environ["LLAMA_ARG_HOST"], int(os.environ["LLAMA_ARG_PORT"])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    load()
    threading.Event().wait()
