"""A running `serve` with its control process, and a client that sends exactly what a test says."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.cli.program import Serving, Workspace, eventually

STRICT = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def strict(self) -> bool:
        """Whether it carries all the headers that every answer must, once."""
        return {name: self.headers.get(name) for name in STRICT} == STRICT


@dataclass
class Control:
    """The control address of a `serve`, and whose credentials to send."""

    workspace: Workspace
    port: int
    cookie: str = ""
    bearer: str = ""
    host: str = ""
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
        timeout: float = 60,
    ) -> Reply:
        """One request. A header that is None is left out."""
        sent: dict[str, str | None] = {"Host": self.host or f"127.0.0.1:{self.port}"}
        if self.cookie:
            sent["Cookie"] = self.cookie
        if self.bearer:
            sent["Authorization"] = f"Bearer {self.bearer}"
        if method not in ("GET", "HEAD"):
            sent |= {"Origin": self.origin, "X-Cloned-Request": "1"}
        if body is not None:
            sent["Content-Type"] = "application/json"
        sent |= {**self.extra, **(headers or {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None and "Transfer-Encoding" not in sent:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            raw = response.getheaders()
            assert len({name.lower() for name, _ in raw}) == len(raw), raw
            return Reply(response.status, {name.lower(): value for name, value in raw}, response.read().decode())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, headers=headers)

    def api(self, path: str) -> Any:
        """The JSON of a reading operation that must succeed."""
        reply = self.get(f"/api/v1{path}")
        assert reply.status == 200, reply
        return reply.json

    def post(self, path: str, body: object, **headers: str | None) -> Reply:
        return self.send("POST", f"/api/v1{path}", json.dumps(body).encode(), headers)

    def delete(self, path: str, **headers: str | None) -> Reply:
        return self.send("DELETE", f"/api/v1{path}", headers=headers)

    def code(self, name: str = "") -> str:
        return str(self.workspace.json("pair", *(("--name", name) if name else ()))["code"])

    def paired(self, name: str = "") -> Control:
        """A browser that has exchanged a code."""
        reply = self.post("/pair", {"code": self.code(), "name": name})
        assert reply.status == 200, reply
        return Control(self.workspace, self.port, cookie=reply.headers["set-cookie"].partition(";")[0])

    def client(self, name: str = "") -> Control:
        """An API client with a bearer token."""
        token = self.workspace.json("pair", "--api", *(("--name", name) if name else ()))["token"]
        return Control(self.workspace, self.port, bearer=token)


def control_of(workspace: Workspace, serving: Serving) -> Control:
    return Control(workspace, serving.control_port)


@dataclass
class Stream:
    """An open stream of events."""

    response: http.client.HTTPResponse

    def events(self) -> Iterator[tuple[str, Any, int]]:
        """Kind, data and id of each, until the stream ends."""
        fields: dict[str, str] = {}
        for raw in self.response:
            line = raw.decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield fields["event"], json.loads(fields["data"]), int(fields["id"])
                fields = {}

    def next(self, kind: str) -> Any:
        return next(data for found, data, _ in self.events() if found == kind)


@contextmanager
def stream(client: Control, query: str = "", last: int | None = None, timeout: float = 60) -> Iterator[Stream]:
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=timeout)
    headers = {"Cookie": client.cookie} if client.cookie else {"Authorization": f"Bearer {client.bearer}"}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    try:
        connection.request("GET", f"/api/v1/stream{query}", headers=headers)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.readline() == b"retry: 1000\n"  # it listens from now on
        yield Stream(response)
    finally:
        connection.close()


def raw(port: int, data: bytes, timeout: float = 60) -> bytes:
    """What comes back for these bytes, until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        sock.sendall(data)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer


def eventually_version(browser: Control, workspace: Workspace) -> str:
    """The version of the policy as the commands know it, once it is in force."""
    wanted = str(workspace.json("list")["version"])
    eventually(lambda: browser.api("/overview")["policy"]["version"] == wanted, what="the version in force")
    return wanted
