"""The Engine API by its socket: one request a connection, JSON both ways.

The Docker SDK does the same for all of the API, and more than half of the time and memory of a warm `exec` would be its
import. Paths carry no version: the engine then answers by its own newest one, which is what the SDK negotiates, too.
"""

from __future__ import annotations

import json
import os
import socket
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

_HEAD_END: Final = b"\r\n\r\n"
_MOST_HEAD: Final = 65_536
_PORT: Final = 2375


class EngineApiError(Exception):
    """The engine said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AnswerTimeoutError(Exception):
    """No answer within the time; the engine goes on with the request."""


class EngineApi:
    """Thread-safe: no request shares anything with another."""

    def __init__(self, host: str) -> None:
        """`host` is a value of DOCKER_HOST: `unix://PATH`, or `tcp://HOST:PORT` without TLS. Raises ValueError."""
        self._host = host
        if host.startswith("unix://"):
            return
        place = urlsplit(host)
        if place.scheme not in ("tcp", "http") or not place.hostname or os.environ.get("DOCKER_TLS_VERIFY"):
            raise ValueError(f"{host} is no engine that can be used here; set DOCKER_HOST=unix:///PATH")

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        timeout: float | None,
        **query: str | bytes | int | None,
    ) -> Any:
        """What the engine answers: a JSON value, or None for an empty answer. `timeout` is seconds for each read.

        Raises ApiError, AnswerTimeoutError, OSError or ValueError.
        """
        raw = self.ask_raw(method, path, body=body, timeout=timeout, **query)
        return json.loads(raw) if raw.strip() else None

    def ask_raw(
        self, method: str, path: str, *, body: Any = None, timeout: float | None, **query: str | bytes | int | None
    ) -> bytes:
        """Asks as `ask` does, and returns the body of the answer as it is."""
        content = b"" if body is None else json.dumps(body).encode()
        # HTTP/1.0: the answer comes unchunked and ends with the connection (RFC 9112, sections 6.3 and 9.3).
        head = [f"{method} {_target(path, query)} HTTP/1.0", "Host: engine", f"Content-Length: {len(content)}"]
        head += ["Content-Type: application/json"] if content else []
        try:
            with self._connect(timeout) as sock:
                sock.sendall("\r\n".join([*head, "", ""]).encode() + content)
                with sock.makefile("rb") as stream:
                    said = stream.read()
        except TimeoutError as error:
            raise AnswerTimeoutError(f"no answer within {timeout} s") from error
        status, answer = _answer(said)
        if status >= HTTPStatus.BAD_REQUEST:
            raise EngineApiError(status, _message(answer))
        return answer

    def open_stream(self, path: str, *, timeout: float, **query: str | bytes | int | None) -> socket.socket:
        """The raw stream behind a POST that the engine takes over (Engine API, "Hijacking"). Raises as `ask` does."""
        sock = self._connect(timeout)
        try:
            _ask_for_stream(sock, _target(path, query))
        except BaseException:
            sock.close()
            raise
        sock.settimeout(None)
        return sock

    def _connect(self, timeout: float | None) -> socket.socket:
        if not self._host.startswith("unix://"):
            place = urlsplit(self._host)
            return socket.create_connection((place.hostname or "", place.port or _PORT), timeout=timeout)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(timeout)
            sock.connect(self._host.removeprefix("unix://"))
        except OSError:
            sock.close()
            raise
        return sock


def _ask_for_stream(sock: socket.socket, target: str) -> None:
    head = [f"POST {target} HTTP/1.1", "Host: engine", "Upgrade: tcp", "Connection: Upgrade", "Content-Length: 0"]
    sock.sendall("\r\n".join([*head, "", ""]).encode())
    said = b""
    # One byte at a time: what follows the head is the container's, and the caller's to read.
    while not said.endswith(_HEAD_END) and len(said) < _MOST_HEAD and (byte := sock.recv(1)):
        said += byte
    words = said.split(b" ", 2)
    status = int(words[1]) if len(words) > 2 and words[1].isdigit() else 0  # noqa: PLR2004  version, status, reason
    if status not in (HTTPStatus.SWITCHING_PROTOCOLS, HTTPStatus.OK):
        raise EngineApiError(status, _message(sock.recv(_MOST_HEAD)) if status else "no answer")


def _target(path: str, query: dict[str, str | bytes | int | None]) -> str:
    given = {name.rstrip("_"): value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _answer(said: bytes) -> tuple[int, bytes]:
    """Status and body of a whole answer. Raises ValueError for one that is cut short, or none."""
    head, end, body = said.partition(_HEAD_END)
    status, *fields = head.decode("latin-1").split("\r\n")
    if not end or not status.startswith("HTTP/1."):
        raise ValueError("the engine broke off its answer")
    for field in fields:
        name, _, value = field.partition(":")
        if name.lower() == "content-length" and int(value) != len(body):
            raise ValueError("the engine broke off its answer")
    return int(status.split(" ")[1]), body


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip() or "no reason given"
