"""What `mcp check` says of a server that does not answer as one does; each is a small program here."""

from __future__ import annotations

import os
import sys
from typing import Final

import pytest

from cloned_proxy.runner.mcp.handshake import Greeting, HandshakeError, greet

_ANSWERING: Final = """
import json, sys
pages = {None: {"tools": [{"name": "a"}], "nextCursor": "2"}, "2": {"tools": [{"name": "b"}]}}
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "initialize":
        print(json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}))
        about = {"name": "n", "version": "1"}
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": about}
    else:
        result = pages[asked.get("params", {}).get("cursor")] if asked["method"] == "tools/list" else None
    if "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
print("bye", file=sys.stderr)
"""


def asked(program: str, seconds: float = 60.0) -> tuple[Greeting, str]:
    return greet([sys.executable, "-c", program], os.environ, seconds=seconds, version="1")


def test_a_server_tells_its_name_and_the_tools_of_all_pages() -> None:
    greeting, said = asked(_ANSWERING)
    assert (greeting.name, greeting.version, greeting.protocol) == ("n", "1", "2025-06-18")
    assert (greeting.tools, greeting.exit_code, said) == (("a", "b"), 0, "bye\n")


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (
            "import sys; sys.exit('no file')",
            "exit code 1 before it had answered initialize; it said: no file",
        ),
        ("print('Listening on port 3000')", "wrote what is no JSON-RPC message to stdout: 'Listening on port 3000'"),
        ("print('[1]')", "no JSON-RPC message"),
        ("""print('{"id": 1, "error": {"message": "go away"}}')""", "it refused initialize: go away"),
        ("""print('{"id": 1, "result": 7}')""", "its answer to initialize is no result"),
    ],
)
def test_what_came_instead_of_an_answer_is_said(program: str, told: str) -> None:
    with pytest.raises(HandshakeError) as raised:
        asked(program)
    assert told in str(raised.value)


def test_of_a_server_that_is_silent_it_is_said_how_long_it_had_and_how_to_wait_longer() -> None:
    with pytest.raises(HandshakeError, match=r"did not answer initialize within 0\.2 s \(--timeout waits longer\)"):
        asked("import sys; sys.stdin.read()", seconds=0.2)
