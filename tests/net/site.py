"""What a canary answers: a small HTTP/1.1 server with the things real clients ask for.

`/bytes/N` N zero bytes · `/chunked` · `/sse` three events, one every 100 ms · `/ws` WebSocket echo ·
`/to/URL` a redirect · any file below the content root ·
`/OWNER/NAME.git/…` git's smart protocol for a repository that is there · else one line that says who answered.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.net.git_site import git_call
from tests.net.tls_stream import Stream

_BLOCK: Final = bytes(262_144)
_TYPES: Final = {".html": "text/html", ".json": "application/json"}
_FORMS: Final = {
    "application/vnd.pypi.simple.v1+json": "simple.json",
    "application/vnd.npm.install-v1+json": "abbreviated.json",
}
"""Other forms of the index of a directory, for a client that asks for one, where there is one."""
_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_CLOSE: Final = 8
_PING: Final = 9


@dataclass(frozen=True, slots=True)
class _Asked:
    method: str
    path: str
    headers: dict[str, str]


class Reader:
    """Exact reads over a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    def until(self, end: bytes) -> bytes:
        """Up to and with `end`; raises ValueError at the end of the stream."""
        while (at := self._buffer.find(end)) < 0:
            self._more()
        return self.take(at + len(end))

    def take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def skip(self, count: int) -> None:
        """As `take`, without keeping: bodies of gigabytes pass here."""
        count -= len(self._buffer)
        if count < 0:
            del self._buffer[: len(self._buffer) + count]
            return
        self._buffer.clear()
        while count > 0:
            data = self._stream.recv()
            if not data:
                raise ValueError("the stream ended inside a body")
            count -= len(data)
            if count < 0:
                self._buffer += data[count:]

    def _more(self) -> None:
        data = self._stream.recv()
        if not data:
            raise ValueError("the stream ended")
        self._buffer += data


class Site:
    """The same content on every address; `root` holds packages, repositories and other files."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def serve(self, stream: Stream, name: str) -> None:
        """Answers requests until the client closes; raises ValueError or OSError when the stream breaks off."""
        reader = Reader(stream)
        while True:
            asked = _read_head(reader)
            if asked.headers.get("upgrade", "").lower() == "websocket":
                _websocket(reader, stream, asked)
                return
            if asked.headers.get("expect", "").lower() == "100-continue":
                stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            if (call := git_call(self._root, asked.method, asked.path, asked.headers)) is not None:
                stream.send(call.answer(_read_body(reader, asked)))
                continue
            received = _skip_body(reader, asked)
            self._answer(stream, asked, name, received)
            if asked.headers.get("connection", "").lower() == "close":
                return

    def _answer(self, stream: Stream, asked: _Asked, name: str, received: int) -> None:
        path = urllib.parse.unquote(asked.path.partition("?")[0])
        match = re.fullmatch(r"/bytes/(\d+)", path)
        file = self._root / path.lstrip("/")
        if match:
            _send_head(stream, "200 OK", {"Content-Length": match[1], "Content-Type": "application/octet-stream"})
            if asked.method != "HEAD":
                _send_zeros(stream, int(match[1]))
        elif path == "/sse":
            _server_sent_events(stream)
        elif path == "/chunked":
            _send_head(stream, "200 OK", {"Transfer-Encoding": "chunked"})
            stream.send(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        elif path.startswith("/to/"):
            _send_head(stream, "302 Found", {"Location": path.removeprefix("/to/"), "Content-Length": "0"})
        elif file.is_dir() and (file / "index.html").is_file():
            accept = asked.headers.get("accept", "")
            form = next((name for kind, name in _FORMS.items() if kind in accept and (file / name).is_file()), "")
            _send_file(stream, asked, file / (form or "index.html"))
        elif file.is_file():
            _send_file(stream, asked, file)
        elif path.startswith("/git/"):
            _send_head(stream, "404 Not Found", {"Content-Length": "0"})
        else:
            body = f"{name} {asked.method} {asked.path} received {received}\n".encode()
            _send_head(stream, "200 OK", {"Content-Length": str(len(body)), "Content-Type": "text/plain"})
            if asked.method != "HEAD":
                stream.send(body)


def _read_head(reader: Reader) -> _Asked:
    # Lenient on purpose: a canary accepts what a sloppy server would, or smuggling could not show.
    lines = reader.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
    method, _, rest = lines[0].partition(" ")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        key, _, value = line.partition(":")
        headers[key.strip().lower()] = value.strip()
    return _Asked(method, rest.rpartition(" ")[0], headers)


def _read_body(reader: Reader, asked: _Asked) -> bytes:
    if "chunked" not in asked.headers.get("transfer-encoding", "").lower():
        return reader.take(int(asked.headers.get("content-length", "0")))
    body = bytearray()
    while size := int(reader.until(b"\r\n").partition(b";")[0], 16):
        body += reader.take(size)
        reader.until(b"\r\n")
    while reader.until(b"\r\n") != b"\r\n":
        pass
    return bytes(body)


def _skip_body(reader: Reader, asked: _Asked) -> int:
    """The size of the body; Transfer-Encoding wins over Content-Length (RFC 9112, section 6.3)."""
    if "chunked" in asked.headers.get("transfer-encoding", "").lower():
        total = 0
        while size := int(reader.until(b"\r\n").partition(b";")[0], 16):
            reader.skip(size)
            reader.until(b"\r\n")
            total += size
        while reader.until(b"\r\n") != b"\r\n":
            pass
        return total
    size = int(asked.headers.get("content-length", "0"))
    reader.skip(size)
    return size


def _send_head(stream: Stream, status: str, headers: dict[str, str]) -> None:
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    stream.send(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode())


def _send_zeros(stream: Stream, count: int) -> None:
    while count > 0:
        stream.send(_BLOCK[:count])
        count -= len(_BLOCK)


def _send_file(stream: Stream, asked: _Asked, file: Path) -> None:
    body = file.read_bytes()
    kind = next((kind for kind, name in _FORMS.items() if name == file.name), "")
    kind = kind or _TYPES.get(file.suffix, "application/octet-stream")
    _send_head(stream, "200 OK", {"Content-Length": str(len(body)), "Content-Type": kind})
    if asked.method != "HEAD":
        stream.send(body)


def _server_sent_events(stream: Stream) -> None:
    _send_head(stream, "200 OK", {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
    for number in range(3):
        event = f"data: event {number}\n\n".encode()
        stream.send(f"{len(event):x}\r\n".encode() + event + b"\r\n")
        time.sleep(0.1)
    stream.send(b"0\r\n\r\n")


def _websocket(reader: Reader, stream: Stream, asked: _Asked) -> None:
    """RFC 6455, without extensions: text and binary frames come back as they are."""
    key = asked.headers.get("sec-websocket-key", "").encode()
    accept = base64.b64encode(hashlib.sha1(key + _WEBSOCKET_GUID, usedforsecurity=False).digest()).decode()
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
    _send_head(stream, "101 Switching Protocols", upgrade)
    while True:
        first, second = reader.take(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", reader.take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", reader.take(8))
        mask = reader.take(4)
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(reader.take(size)))
        code = first & 0x0F
        if code == _PING:
            first = 0x8A
        stream.send(bytes([first]) + _frame_size(size) + payload)
        if code == _CLOSE:
            return


def _frame_size(size: int) -> bytes:
    if size < 126:
        return bytes([size])
    return b"\x7e" + struct.pack("!H", size) if size < 65_536 else b"\x7f" + struct.pack("!Q", size)
