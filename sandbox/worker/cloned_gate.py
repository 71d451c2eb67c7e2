"""An MCP server by which a model can see what it may reach, why it was refused, and ask a person for more.

`python3 /opt/cloned/cloned_gate.py` in a sandbox, `cloned-proxy mcp gate` on the host. It speaks MCP over stdio
(JSON-RPC 2.0, one message a line) and asks `http://cloned.internal`, where the proxy answers for the tool that the
connection belongs to. It can open a request and wait for a person's answer; it can grant nothing.

Only the standard library: it runs in whatever image has a Python.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from cloned_gate_calls import MAX_WAIT, WAIT_SECONDS, GateError, content, known, my_rules, request_access, why_denied

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Of the protocol, the newest first."""
MAX_LINE = 1024 * 1024
CALLS_AT_ONCE = 16


class Gate:
    """One session with one client. `proxies` gives the URL of each tool's proxy: one in a sandbox, more on the host."""

    def __init__(self, proxies: Mapping[str, Callable[[], str]], version: str, out: BinaryIO) -> None:
        self._proxies = proxies
        self._version = version
        self._out = out
        self._write_lock = threading.Lock()
        self._cancelled: dict[Any, threading.Event] = {}
        self._calls: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._over = threading.Event()

    def serve(self, source: BinaryIO) -> None:
        """Answers until the end of the input; what still waits for a person then is given up."""
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(CALLS_AT_ONCE)]
        for worker in workers:
            worker.start()
        while line := source.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                self._send(_refusal(None, -32600, f"a message has at most {MAX_LINE} bytes"))
                while (rest := source.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                continue
            if line.strip():
                self._take(line)
        self._over.set()
        for event in list(self._cancelled.values()):
            event.set()
        for _ in workers:
            self._calls.put(None)
        for worker in workers:
            worker.join(5)

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            self._send(_refusal(None, -32700, "not JSON"))
            return
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            self._send(_refusal(None, -32600, "not one JSON-RPC 2.0 message"))
            return
        method, call = message.get("method"), message.get("id")
        params = message.get("params") if isinstance(message.get("params"), dict) else {}
        if not isinstance(method, str):
            return  # an answer to something that was never asked
        if call is None:
            if method == "notifications/cancelled" and (event := self._cancelled.get(params.get("requestId"))):
                event.set()
        elif isinstance(call, (str, int)):
            self._answer(call, method, params)
        else:
            self._send(_refusal(None, -32600, "an id is a text or a number"))

    def _answer(self, call: str | int, method: str, params: dict[str, Any]) -> None:
        if method == "tools/call":
            self._cancelled[call] = threading.Event()
            self._calls.put({"id": call, "params": params})
            return
        answers: dict[str, Callable[[], dict[str, Any]]] = {
            "initialize": lambda: self._greeting(params),
            "ping": dict,
            "tools/list": lambda: {"tools": self._tools()},
        }
        answer = answers.get(method)
        self._send(_result(call, answer()) if answer else _refusal(call, -32601, f"there is no method {method!r} here"))

    def _greeting(self, params: Mapping[str, Any]) -> dict[str, Any]:
        wanted = params.get("protocolVersion")
        return {
            "protocolVersion": wanted if wanted in VERSIONS else VERSIONS[0],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "cloned-gate", "title": "Egress gate", "version": self._version},
            "instructions": "When a network call is refused (403, 'egress_denied', a failed CONNECT), ask why_denied. "
            "If the task needs that host, ask a person with request_access and say why. Do not look for ways round it.",
        }

    def _tools(self) -> list[dict[str, Any]]:
        server = {}
        if len(self._proxies) > 1:
            server = {
                "server": {"type": "string", "enum": sorted(self._proxies), "description": "Whose network access."}
            }
        return [
            {
                "name": "why_denied",
                "description": "Why network calls were refused. With a url: whether it would pass now, and why not. "
                "Without: what was refused in the last 24 hours.",
                "inputSchema": _schema(
                    server,
                    url={"type": "string", "description": "Such as https://api.example.com/v1; optional."},
                    method={"type": "string", "description": "HTTP method; default GET."},
                ),
                "annotations": {"readOnlyHint": True, "openWorldHint": False},
            },
            {
                "name": "my_rules",
                "description": "The hosts, ports, methods and paths that may be reached. Everything else is refused.",
                "inputSchema": _schema(server),
                "annotations": {"readOnlyHint": True, "openWorldHint": False},
            },
            {
                "name": "request_access",
                "description": "Asks a person to allow hosts, and waits for the answer. Nothing is allowed before they "
                "say yes. Still waiting at the end? Call again with the request_id to wait on.",
                "inputSchema": _schema(
                    server,
                    hosts={
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "As narrow as the task needs: api.example.com, api.example.com:8443.",
                    },
                    reason={"type": "string", "description": "Why the task needs them; the person reads this."},
                    request_id={"type": "string", "description": "An earlier request, to wait on."},
                    wait_seconds={"type": "number", "minimum": 0, "maximum": MAX_WAIT, "default": WAIT_SECONDS},
                ),
                "annotations": {"readOnlyHint": False, "destructiveHint": False, "openWorldHint": False},
            },
        ]

    def _work(self) -> None:
        while (taken := self._calls.get()) is not None:
            call, params = taken["id"], taken["params"]
            event = self._cancelled.get(call) or threading.Event()
            try:
                answer = _result(call, self._call(params, event))
            except GateError as error:
                answer = _result(call, content(str(error), error=True))
            except Exception as error:  # noqa: BLE001  one call failed; the session goes on
                answer = _refusal(call, -32603, str(error) or type(error).__name__)
            cancelled = event.is_set()
            self._cancelled.pop(call, None)
            if self._over.is_set() or not cancelled:  # a cancelled call has no answer
                self._send(answer)

    def _call(self, params: Mapping[str, Any], cancelled: threading.Event) -> dict[str, Any]:
        name, given = params.get("name"), params.get("arguments") or {}
        if not isinstance(given, dict):
            raise GateError("the arguments are not an object")
        proxy = self._proxy_of(given.pop("server", None))
        if name == "why_denied":
            return why_denied(proxy, **known(given, "url", "method"))
        if name == "my_rules":
            known(given)
            return my_rules(proxy)
        if name == "request_access":
            meta = params.get("_meta")
            token = meta.get("progressToken") if isinstance(meta, dict) else None
            asked = known(given, "hosts", "reason", "request_id", "wait_seconds")
            return request_access(proxy, cancelled, lambda done: self._progress(token, done), **asked)
        raise GateError(f"there is no tool {name!r}; there are why_denied, my_rules and request_access")

    def _proxy_of(self, server: object) -> str:
        if server is None and len(self._proxies) == 1:
            return next(iter(self._proxies.values()))()
        if not isinstance(server, str) or server not in self._proxies:
            raise GateError(f"name a server: {', '.join(sorted(self._proxies))}")
        return self._proxies[server]()

    def _progress(self, token: object, seconds: float) -> None:
        if token is None or self._over.is_set():
            return
        params = {"progressToken": token, "progress": seconds, "message": "waiting for a person"}
        self._send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})

    def _send(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._write_lock:
            try:
                self._out.write(line)
                self._out.flush()
            except (OSError, ValueError):  # the client has gone: the end of the input follows
                self._over.set()


def _schema(server: Mapping[str, Any], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**properties, **server},
        "required": list(server),
        "additionalProperties": False,
    }


def _result(call: Any, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call, "result": result}


def _refusal(call: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call, "error": {"code": code, "message": message}}


def main() -> int:
    """In a sandbox: the proxy is that of the environment, and says itself whom it answers for."""
    proxy = os.environ.get("HTTP_PROXY") or os.environ.get("http_proxy")
    if not proxy:
        sys.stderr.write("cloned-gate: HTTP_PROXY is not set; on the host: `cloned-proxy mcp gate`\n")
        return 2
    Gate({"": lambda: proxy}, "1", sys.stdout.buffer).serve(sys.stdin.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
