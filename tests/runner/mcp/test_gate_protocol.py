"""The gate as a program of the image, without a proxy behind it: whatever comes, it answers or passes over it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from cloned_proxy.share import share_path

CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}


def talk(*lines: bytes | dict[str, Any], proxy: str = "http://127.0.0.1:9") -> tuple[list[dict[str, Any]], int]:
    """The answers to these lines and the end of the input, and the exit code."""
    sent = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    done = subprocess.run(
        [sys.executable, share_path("sandbox", "worker", "cloned_gate.py")],
        input=sent, env={"HTTP_PROXY": proxy, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode


def test_it_says_the_version_of_the_client_or_its_newest() -> None:
    def hello(version: str) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": version}}

    (old, unknown), code = talk(hello("2024-11-05"), hello("1999-01-01"))
    assert (old["result"]["protocolVersion"], unknown["result"]["protocolVersion"]) == ("2024-11-05", "2025-11-25")
    assert code == 0


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"\xff\xfe", -32700),
        (b"{", -32700),
        (b"[]", -32600),
        (b'{"id": 1, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": [1], "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "resources/list"}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "x": "' + b"y" * 2_000_000 + b'"}', -32600),
    ],
)
def test_garbage_is_refused_and_the_next_call_answered(line: bytes, error: int) -> None:
    (refused, pong), code = talk(line, {"jsonrpc": "2.0", "id": 2, "method": "ping"})
    assert (refused["error"]["code"], pong, code) == (error, {"jsonrpc": "2.0", "id": 2, "result": {}}, 0)


@pytest.mark.parametrize(
    "line", [b"", b'{"jsonrpc": "2.0", "method": "notifications/x"}', b'{"jsonrpc":"2.0","id":1,"result":{}}']
)
def test_what_wants_no_answer_gets_none(line: bytes) -> None:
    assert talk(line) == ([], 0)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"name": "my_rules"}, "the proxy does not answer"),
        ({"name": "nothing"}, "there is no tool 'nothing'"),
        ({"name": "why_denied", "arguments": {"url": 5}}, "url: 5 is of another kind"),
        ({"name": "my_rules", "arguments": {"grant": True}}, "there is no argument 'grant'"),
        ({"name": "request_access", "arguments": {"hosts": ["a.example"], "reason": " "}}, "name the hosts, and the"),
    ],
)
def test_a_call_that_cannot_be_says_why(params: dict[str, Any], told: str) -> None:
    (answer,), _ = talk({**CALL, "params": params})
    assert answer["result"]["isError"] is True
    assert answer["result"]["content"][0]["text"].startswith(told)


def test_without_a_proxy_it_says_how_to_start_it() -> None:
    assert talk(proxy="") == ([], 2)
