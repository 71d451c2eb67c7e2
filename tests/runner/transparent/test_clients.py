"""Real clients with an empty environment in a real slot: what is allowed works, what is not is refused and recorded.

The judge of what got out is the fake internet: its canaries and its name server.
"""

from __future__ import annotations

import json
from typing import Final

import pytest

from cloned_proxy.store.audit.audit_log import AuditLog
from tests.cli.program import eventually
from tests.runner.transparent.conftest import OTHER, Slots

pytestmark = [pytest.mark.docker, pytest.mark.net]

API: Final = "https://other.example.com"
ANSWER: Final = "https 93.184.216.16 GET /x received 0"


def python(program: str) -> tuple[str, ...]:
    return ("python3", "-c", program)


AIOHTTP: Final = """
import asyncio, aiohttp, socket
async def main():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector({options})) as s:
        async with s.get("https://other.example.com/x") as r: print(await r.text())
asyncio.run(main())
"""
NODE: Final = "fetch('https://other.example.com/x').then(r => r.text()).then(t => console.log(t))"
NODE_HTTPS: Final = "require('https').get('https://other.example.com/x', r => r.pipe(process.stdout))"
NODE_WEBSOCKET: Final = (
    "const s = new WebSocket('wss://other.example.com/ws'); s.onopen = () => s.send('hello'); "
    "s.onmessage = e => { console.log(e.data); s.close() }"
)
WEBSOCKETS: Final = """
import asyncio, websockets
async def main():
    async with websockets.connect("{url}", proxy=None) as s:
        await s.send("hello"); print(await s.recv())
asyncio.run(main())
"""
BANNER: Final = "import socket; s = socket.create_connection(('shell.example.com', 22), 60); print(s.recv(100))"
PIP: Final = (
    "pip download -q --no-deps --no-cache-dir --disable-pip-version-check -d /sandbox/wheels "
    "--index-url https://files.example.com/simple named && ls /sandbox/wheels"
)
WORKING: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "curl": (("curl", "-sS", f"{API}/x"), ANSWER),
    "curl, another port": (("curl", "-sS", f"{API}:8443/x"), ANSWER),
    "curl, plain": (("curl", "-sS", "http://other.example.com/x"), "http 93.184.216.16 GET /x received 0"),
    "curl, the model's port": (
        ("curl", "-sS", "http://other.example.com:8080/x"),
        "http 93.184.216.16 GET /x received 0",
    ),
    "curl, upload": (("curl", "-sS", "-d", "12345", f"{API}/x"), "https 93.184.216.16 POST /x received 5"),
    "curl, inspected": (("curl", "-sS", "https://inspected.example.com/x"), "https 93.184.216.12 GET /x received 0"),
    "curl, wildcard": (("curl", "-sS", "https://one.wild.example.org/x"), "https 93.184.216.13 GET /x received 0"),
    "curl, our own name": (("curl", "-sS", "http://cloned.internal/"), "You are demo.tool@v1"),
    "git": (("git", "clone", "-q", "https://files.example.com/git/named.git", "/sandbox/named"), ""),
    "pip": (("sh", "-c", PIP), "named-1.0-py3-none-any.whl"),
    "node": (("node", "-e", NODE), ANSWER),
    "node, https": (("node", "-e", NODE_HTTPS), ANSWER),
    "node, WebSocket": (("node", "-e", NODE_WEBSOCKET), "hello"),
    "urllib": (python(f"import urllib.request as u; print(u.urlopen('{API}/x').read())"), ANSWER),
    "requests": (python(f"import requests; print(requests.get('{API}/x').text)"), ANSWER),
    "httpx": (python(f"import httpx; print(httpx.get('{API}/x').text)"), ANSWER),
    "aiohttp": (python(AIOHTTP.format(options="")), ANSWER),
    "aiohttp, IPv4 by threads": (
        python(AIOHTTP.format(options="family=socket.AF_INET, resolver=aiohttp.ThreadedResolver()")),
        ANSWER,
    ),
    "websockets": (python(WEBSOCKETS.format(url="wss://other.example.com/ws")), "hello"),
    "websockets, plain": (python(WEBSOCKETS.format(url="ws://other.example.com/ws")), "hello"),
    "a server that speaks first": (python(BANNER), "SSH-2.0-canary"),
    "ssh, as far as its server goes": (("sh", "-c", "ssh-keyscan -T 1 ssh.example.com; true"), "SSH-2.0-canary"),
    "the slot itself": (python("import socket; print(socket.gethostbyname(socket.gethostname()))"), "127.0.0.1"),
}


def test_what_is_allowed_works_without_a_single_variable(slots: Slots) -> None:
    """Every client where ports are steered; the other ways differ in how a connection arrives, not in what it says."""
    slots.world.reset()
    asked = (
        WORKING if slots.way == "steered" else {n: row for n, row in WORKING.items() if n.startswith(("curl", "a "))}
    )
    said = slots.together({name: command for name, (command, _) in asked.items()})
    wrong = {name: s for name, s in said.items() if s.code != 0 or WORKING[name][1] not in s.out}
    assert wrong == {}
    assert set(slots.world.dns_names()) == {
        "other.example.com", "inspected.example.com", "shell.example.com", "one.wild.example.org",
        *({"files.example.com", "ssh.example.com"} if slots.way == "steered" else ()),
    }  # fmt: skip


TLS_OTHER: Final = """
import socket, ssl
c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
s = c.wrap_socket(socket.create_connection(("other.example.com", 443), 60), server_hostname={name!r})
s.sendall(b"GET /marker-sni HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"); print(s.recv(100))
"""
SEND: Final = """
import socket
s = socket.create_connection(({host!r}, {port}), 60); s.sendall({data!r}); print("got", s.recv(500))
"""
UDP: Final = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60)
s.connect((socket.gethostbyname("other.example.com"), 443)); s.send(b"\\xc0quic"); print(s.recv(10))
"""
NEVER: Final = """
import socket
a, b, c, d = socket.gethostbyname("other.example.com").split(".")
s = socket.create_connection((f"{a}.{b}.{int(c) ^ 64}.{d}", 443), 60); s.sendall(b"x"); print(s.recv(9))
"""
POSTGRES: Final = b"\0\0\0\x08\x04\xd2\x16\x2f"
"""SSLRequest (PostgreSQL's protocol, section 55.7): no ClientHello, though TLS would follow."""
REFUSED: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "a denied name": (("curl", "-sS", "https://denied.example/marker"), "access denied"),
    "a denied name, node": (("node", "-e", NODE.replace("other.example.com", "denied.example")), "fetch failed"),
    "a denied name, plain": (("curl", "-fsS", "http://denied.example/marker"), "403"),
    "deeper than the wildcard": (("curl", "-sS", "https://two.one.wild.example.org/marker"), "access denied"),
    "a port of no rule": (("curl", "-sS", "https://alpha.example.com:8443/marker"), ""),
    "a private address": (("curl", "-sS", "https://private.example.com/marker"), "access denied"),
    "a method": (("curl", "-fsS", "-X", "DELETE", "https://inspected.example.com/marker"), "403"),
    "another Host": (("curl", "-fsS", "-H", "Host: denied.example", "http://other.example.com/marker"), "400"),
    "another SNI": (python(TLS_OTHER.format(name="denied.example")), "ACCESS_DENIED"),
    "no SNI": (python(TLS_OTHER.format(name=None)), "ACCESS_DENIED"),
    "a protocol": (python(SEND.format(host="other.example.com", port=443, data=POSTGRES)), "ConnectionResetError"),
    "an address in it": (("curl", "-sS", "https://93.184.216.16/marker"), ""),
    "an address that was never given": (python(NEVER), "Connection"),
    "QUIC": (python(UDP), "ConnectionRefusedError"),
    "the gate as a way around": (
        ("sh", "-c", "curl -fsS -p -x http://127.0.0.1:8081 https://$(getent ahostsv4 denied.example | head -c 15)/"),
        "",
    ),
}
AT_ONCE: Final = 10.0
"""Seconds: a resolver or a client that waits and tries again takes longer, a busy machine does not."""


def test_what_is_not_allowed_is_refused_at_once_and_nothing_of_it_is_asked_outside(slots: Slots) -> None:
    slots.world.reset()
    said = slots.together({name: command for name, (command, _) in REFUSED.items()})
    wrong = {n: s for n, s in said.items() if s.code == 0 or REFUSED[n][1] not in s.out or s.seconds > AT_ONCE}
    assert wrong == {}
    slots.world.settle()
    assert slots.world.saw("marker") == []
    assert slots.world.text_at("other.example.com", 443) == ""
    assert set(slots.world.dns_names()) <= {"other.example.com", "private.example.com", "inspected.example.com"}


def test_refusals_are_on_record_with_name_and_port(slots: Slots) -> None:
    slots.together({"it": ("curl", "-sS", "https://recorded.example/", "http://recorded.example/")}, OTHER)
    refused = {(port, "deny", "host_not_allowed") for port in (80, 443)}

    def recorded() -> bool:
        with AuditLog(slots.proxy.files / "state.db") as log:
            made = [entry.body for entry in log.entries(tool=OTHER) if entry.body["host"] == "recorded.example"]
        return {(body["port"], body["verdict"], body["reason"]) for body in made} == refused

    eventually(recorded, what="both refusals on record")


def test_with_the_variables_set_everything_goes_through_the_proxy_as_before(slots: Slots) -> None:
    commands = {"curl": ("curl", "-sS", f"{API}/x"), "denied": ("curl", "-sS", "https://denied.example/")}
    said = slots.together(commands, proxied=True)
    assert ANSWER in said["curl"].out
    assert "403" in said["denied"].out


def test_a_proxy_command_needs_no_other_program(slots: Slots) -> None:
    greeted = r"printf 'SSH-2.0-x\r\n' | cloned-connect {} 22"
    commands = {host: ("sh", "-c", greeted.format(host)) for host in ("ssh.example.com", "denied.example")}
    said = slots.together(commands, proxied=True)
    assert (said["ssh.example.com"].code, said["ssh.example.com"].out) == (0, "SSH-2.0-canary\n")
    assert said["denied.example"].code == 1
    assert "denied.example:22: host_not_allowed: ask for it: cloned-ask denied.example:22" in said["denied.example"].out


LOOK_UP: Final = """
import json, socket
print(json.dumps({
    "addrconfig": bool(socket.getaddrinfo("other.example.com", 443, socket.AF_INET, 0, 0, socket.AI_ADDRCONFIG)),
    "any": len({a[4][0] for a in socket.getaddrinfo("other.example.com", 443)}),
}))
"""


def test_the_c_library_finds_an_address_however_it_is_asked(slots: Slots) -> None:
    if slots.way == "handed":
        pytest.skip("with 127.0.0.1 alone on the interface it asks for no address: docs say so")
    assert json.loads(slots.python(LOOK_UP)) == {"addrconfig": True, "any": 1}
