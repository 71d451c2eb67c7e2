"""A tool that asks: calls through a proxy of the fake internet under its own name, and requests for other rules."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import select
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloned_proxy.store.approvals.approvals import ApprovalService
from cloned_proxy.store.workspaces.workspace import Workspace
from tests.cli.program import eventually
from tests.net.proxy_process import ProxyProcess

REQUESTS = "http://cloned.internal/v1/egress/requests"

ASKING_GUARDS = ("who may ask", "whose request it is", "our own name", "redaction")
"""What `test_asking.py` takes out."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    fields: Mapping[str, str]
    body: bytes

    @property
    def content(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Call:
    """One request on a connection of its own, sent; the answer may take its time."""

    def __init__(self, connection: socket.socket, head: str, body: bytes = b"", *, timeout: float = 30.0) -> None:
        self.connection = connection
        connection.settimeout(timeout)
        connection.sendall(head.encode() + body)

    def waits(self, seconds: float = 0.5) -> bool:
        """Whether nothing has come yet, looked at for so long."""
        readable, _, _ = select.select([self.connection], [], [], seconds)
        return not readable

    def answer(self, method: str = "GET") -> Answer:
        response = http.client.HTTPResponse(self.connection, method=method)
        response.begin()
        fields = {name.lower(): value for name, value in response.getheaders()}
        body = b"" if method == "CONNECT" and response.status == 200 else response.read()
        return Answer(response.status, fields, body)

    def close(self) -> None:
        self.connection.close()


class Asker:
    """One tool at one proxy."""

    def __init__(self, proxy: ProxyProcess, tool: str | None) -> None:
        self.proxy = proxy
        self.tool = tool
        self.credential = "" if tool is None else f"Proxy-Authorization: Bearer {proxy.token(tool)}\r\n"

    def begin(self, method: str, url: str, body: bytes = b"", extra: str = "", *, timeout: float = 30.0) -> Call:
        authority = url.partition("://")[2].partition("/")[0] if "://" in url else url
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {url} HTTP/1.1\r\nHost: {authority}\r\n{self.credential}{length}{extra}\r\n"
        return Call(self.proxy.connect(), head, body, timeout=timeout)

    def call(self, method: str, url: str, body: bytes = b"", extra: str = "") -> Answer:
        with contextlib.closing(self.begin(method, url, body, extra)) as call:
            return call.answer(method)

    def get(self, url: str) -> Answer:
        return self.call("GET", url)

    def ask(self, *domains: str, **more: Any) -> Answer:
        more = {name.removesuffix("_"): value for name, value in more.items()}
        return self.call("POST", REQUESTS, json.dumps({"domains": domains, **more}).encode())

    def state(self, approval_id: str) -> str:
        found: str = self.get(f"{REQUESTS}/{approval_id}").content["state"]
        return found

    def tls(self, host: str, port: int = 443) -> ssl.SSLSocket | Answer:
        """A tunnel with TLS in it, or the refusal."""
        call = self.begin("CONNECT", f"{host}:{port}")
        answer = call.answer("CONNECT")
        if answer.status != 200:
            call.close()
            return answer
        context = ssl.create_default_context(cafile=self.proxy.world.certificate)
        return context.wrap_socket(call.connection, server_hostname=host)


def decide(proxy: ProxyProcess, word: str, approval_id: str, *more: str) -> str:
    """A person's `approvals approve` or `reject`; what it printed. What was approved is in force when this returns."""
    before = len(proxy.said())
    done = proxy.command("approvals", word, approval_id, *more)
    assert done.returncode == 0, done.stderr
    if (version := re.search(r"policy version (\w+)", done.stderr)) is not None:
        eventually(lambda: version[1] in proxy.said()[before:], what="what was approved in force")
    return done.stdout


def requests_of(proxy: ProxyProcess) -> ApprovalService:
    """The store itself, for what has to be looked at often; people's words go through `decide`."""
    return ApprovalService(Workspace(proxy.files), proxy.policy)


def awaited(proxy: ProxyProcess, *calls: Call) -> list[dict[str, Any]]:
    """The requests of these calls, one of each, once they wait for a person; nothing has come to the calls then."""
    eventually(lambda: len(pending(proxy)) >= len(calls), what="a request of each call")
    assert all(call.waits(0.1) for call in calls)
    return pending(proxy)


def pending(proxy: ProxyProcess) -> list[dict[str, Any]]:
    return [approval.as_data() for approval in requests_of(proxy).list("pending")]
