"""What a client does first with an MCP server over stdio: `initialize`, then `tools/list`.

JSON-RPC 2.0, one message a line (https://modelcontextprotocol.io/specification, "Lifecycle" and "Transports"). A check
needs these two calls only, so it speaks them itself: the SDK takes a second to import.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

PROTOCOL: Final = "2025-06-18"
_END_SECONDS: Final = 15.0
_KEPT_STDERR: Final = 16_384


class HandshakeError(Exception):
    """The server did not answer as one does. The message says what came instead."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server said of itself."""

    name: str
    version: str
    protocol: str
    tools: tuple[str, ...]
    initialize_seconds: float
    """From its start to the answer to `initialize`."""
    list_seconds: float
    exit_code: int | None
    """After the end of its input; None when it had to be ended."""


def greet(
    command: Sequence[str], environment: Mapping[str, str], *, seconds: float, version: str
) -> tuple[Greeting, str]:
    """Starts a server, asks it, and ends it; what it wrote on stderr comes along. Raises HandshakeError."""
    began = time.monotonic()
    with _Server(command, environment, began, seconds) as server:
        answer = server.call(
            "initialize",
            {
                "protocolVersion": PROTOCOL,
                "capabilities": {},
                "clientInfo": {"name": "cloned-proxy", "version": version},
            },
        )
        initialized = time.monotonic()
        server.tell("notifications/initialized")
        tools = server.tools() if "tools" in (answer.get("capabilities") or {}) else []
        listed = time.monotonic()
        about = answer.get("serverInfo") or {}
        code = server.end()
    greeting = Greeting(
        name=str(about.get("name", "")),
        version=str(about.get("version", "")),
        protocol=str(answer.get("protocolVersion", "")),
        tools=tuple(tools),
        initialize_seconds=initialized - began,
        list_seconds=listed - initialized,
        exit_code=code,
    )
    return greeting, server.said()


class _Server:
    """A process that speaks MCP on its standard streams."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], began: float, seconds: float) -> None:
        self._deadline = began + seconds
        self._seconds = seconds
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._stderr = bytearray()
        self._calls = 0
        self._process = subprocess.Popen(  # noqa: S603  this program itself
            command, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_stdout, self._read_stderr)]

    def __enter__(self) -> Self:
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for reader in self._readers:
            reader.join(_END_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                # What it has not read of a call was still to be written, and it has ended.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def call(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The result of one call; what the server asks or tells meanwhile is passed over. Raises HandshakeError."""
        self._calls += 1
        self._send({"jsonrpc": "2.0", "id": self._calls, "method": method, "params": params})
        while True:
            message = self._next(method)
            if message.get("id") != self._calls or "method" in message:
                continue
            if (error := message.get("error")) is not None:
                told = error.get("message") if isinstance(error, dict) else error
                raise HandshakeError(f"it refused {method}: {told}")
            result = message.get("result")
            if not isinstance(result, dict):
                raise HandshakeError(f"its answer to {method} is no result")
            return result

    def tools(self) -> list[str]:
        """The names of all tools, page by page. Raises HandshakeError."""
        names, cursor = list[str](), None
        while True:
            page = self.call("tools/list", {"cursor": cursor} if cursor is not None else {})
            names += [str(tool.get("name")) for tool in page.get("tools") or () if isinstance(tool, dict)]
            if (cursor := page.get("nextCursor")) is None:
                return names

    def tell(self, method: str) -> None:
        self._send({"jsonrpc": "2.0", "method": method})

    def end(self) -> int | None:
        """The end of its input, on which a server ends by itself."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            return self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def said(self) -> str:
        return self._stderr.decode(errors="replace")

    def _send(self, message: Mapping[str, Any]) -> None:
        stdin = self._process.stdin
        try:
            if stdin is not None:
                stdin.write(json.dumps(message).encode() + b"\n")
                stdin.flush()
        except OSError:
            return  # it has ended: `_next` says so, with its exit code

    def _next(self, method: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except queue.Empty:
            raise HandshakeError(
                f"it did not answer {method} within {self._seconds:g} s (--timeout waits longer){self._last_words()}"
            ) from None
        if not line:
            code = self._process.wait()
            raise HandshakeError(f"it ended with exit code {code} before it had answered {method}{self._last_words()}")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            shown = line[:80].decode(errors="replace").strip()
            raise HandshakeError(f"it wrote what is no JSON-RPC message to stdout: {shown!r}")
        return message

    def _last_words(self) -> str:
        for reader in self._readers[1:] if self._process.poll() is not None else ():
            reader.join(1)
        lines = self.said().strip().splitlines()
        return f"; it said: {lines[-1]}" if lines else ""

    def _read_stdout(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                if line.strip():
                    self._lines.put(line)
        self._lines.put(b"")

    def _read_stderr(self) -> None:
        if self._process.stderr is not None:
            while piece := os.read(self._process.stderr.fileno(), 4096):
                self._stderr += piece
                del self._stderr[:-_KEPT_STDERR]
