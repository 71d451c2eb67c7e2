"""`inject` on plain HTTP. The judge is what arrives at the upstream, and what comes back to the client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Policy, Scope
from cloned_proxy.policy.paths.path import parse_path_pattern
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import Inject, Rule
from cloned_proxy.policy.terms.vocabulary import Anonymous, Mode
from cloned_proxy.proxy.secrets import injection
from cloned_proxy.proxy.secrets.echo import HELD_BYTES, EchoFilter, EchoScanner
from cloned_proxy.proxy.secrets.injection import Injection, Injector
from cloned_proxy.proxy.upstream.dial import DialError
from cloned_proxy.proxy.upstream.ways import Ways
from tests.proxy.plain.support import Message, answering, client, read_message, reply, request
from tests.proxy.support import HOST, Handler, Secrets, Upstream, World, allow, upstream, world

CANARY = "sk-canary/4f+9="
BEARER = Inject("Authorization", "Bearer ${vault:llm.api_key}")


def injecting(port: int, inject: Inject = BEARER, **more: object) -> Rule:
    return allow(HOST, port, inject=inject, **more)


def vault() -> Secrets:
    return Secrets(**{"llm.api_key": CANARY})


@dataclass
class Scene:
    """One client of a proxy whose rule injects, and the upstream behind it."""

    world: World
    server: Upstream
    secrets: Secrets
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, path: str = "/", *, method: str = "GET", headers: str = "", body: bytes = b"") -> Message:
        self.writer.write(request(self.server.port, path, method=method, headers=headers, body=body))
        return await read_message(self.reader)


@contextlib.asynccontextmanager
async def scene(handler: Handler, inject: Inject = BEARER, **more: object) -> AsyncIterator[Scene]:
    secrets = vault()
    async with (
        upstream(handler) as server,
        world(injecting(server.port, inject, **more), secrets=secrets) as w,
        client(w) as (reader, writer),
    ):
        yield Scene(w, server, secrets, reader, writer)


async def test_the_header_is_added_and_the_tools_own_never_passes() -> None:
    seen: list[Message] = []
    own = (
        "Authorization: Bearer mine\r\naUTHORIZATION: Basic bWluZQ==\r\n"
        "Connection: authorization\r\nAccept-Encoding: gzip, br\r\nRange: bytes=0-3\r\nX-Kept: yes\r\n"
    )
    async with scene(answering(reply(), seen=seen)) as s:
        assert (await s.ask(headers=own)).body == b"ok"
    (message,) = seen
    assert message.all("authorization") == [f"Bearer {CANARY}"]
    assert message.all("accept-encoding") == ["identity"]
    assert (message.all("range"), message.all("x-kept")) == ([], ["yes"])


async def test_a_name_that_servers_read_alike_and_a_trailer_are_the_tools_own_too() -> None:
    seen: list[Message] = []
    own = "X_Api_Key: mine\r\nx-api_key: mine\r\nTransfer-Encoding: chunked\r\n"
    body = b"2\r\nhi\r\n0\r\nX-Api-Key: mine\r\nX-Sum: 1\r\n\r\n"
    async with scene(answering(reply(), seen=seen), Inject("X-Api-Key", "${vault:llm.api_key}")) as s:
        assert (await s.ask(method="POST", headers=own, body=body)).status == 200
    (message,) = seen
    assert [(name, value) for name, value in message.fields if "api" in name.lower()] == [("x-api-key", CANARY)]
    assert message.trailers == [b"X-Sum: 1\r\n"]


async def test_only_the_rules_own_path_gets_it() -> None:
    seen: list[Message] = []
    async with scene(answering(reply(), seen=seen), paths=(parse_path_pattern("/v1/**"),)) as s:
        answers = [await s.ask(path) for path in ("/v1/chat", "/v2", "/v1x", "/V1/chat", "/")]
        assert [message.status for message in answers] == [200, 403, 403, 403, 403]
        assert (await s.ask("/v1/../v2")).status in (400, 403)
    assert [(m.line.split()[1], m.all("authorization")) for m in seen] == [("/v1/chat", [f"Bearer {CANARY}"])]


async def test_a_kept_connection_carries_each_time_the_secret_of_the_moment() -> None:
    seen: list[Message] = []
    async with scene(answering(reply(), seen=seen)) as s:
        for value in (CANARY, "rotated-secret"):
            s.secrets.values["llm.api_key"] = value
            await s.ask()
        del s.secrets.values["llm.api_key"]
        assert (await s.ask()).status == 503
        assert s.server.connections == 1
    assert [m.all("authorization") for m in seen] == [[f"Bearer {CANARY}"], ["Bearer rotated-secret"]]


async def test_a_connection_that_carried_it_is_not_used_under_another_rule() -> None:
    seen: list[Message] = []
    async with scene(answering(reply(), seen=seen)) as s:
        await s.ask()
        assert s.world.policies.current is not None
        plain = Scope(allow=HostIndex([allow(HOST, s.server.port, id="r-plain")]))
        s.world.policies.current = replace(s.world.policies.current, global_scope=plain)
        await s.ask()
        assert s.server.connections == 2
    assert [m.all("authorization") for m in seen] == [[f"Bearer {CANARY}"], []]


async def test_a_rule_of_a_tool_gives_nothing_to_another_tool() -> None:
    seen: list[Message] = []
    async with upstream(answering(reply(), seen=seen)) as server:
        own = {"owner@v1": Scope(allow=HostIndex([injecting(server.port)]))}
        everybody = Scope(allow=HostIndex([allow(HOST, server.port, id="r-plain")]))
        current = Policy("v1", Mode.ENFORCE, Anonymous.DENY, everybody, own)
        for tool in ("owner@v1", "thief@v1"):
            async with (
                world(current=current, principal=Principal(tool, "run"), secrets=vault()) as w,
                client(w) as (reader, writer),
            ):
                writer.write(request(server.port))
                assert (await read_message(reader)).status == 200
    assert [m.all("authorization") for m in seen] == [[f"Bearer {CANARY}"], []]


@pytest.mark.parametrize("values", [{}, {"llm.other": "x"}], ids=["an empty vault", "another secret"])
async def test_without_its_secret_the_call_does_not_go_out(values: dict[str, str]) -> None:
    async with scene(answering(reply())) as s:
        s.secrets.values = values
        with capture_logs() as logs:
            message = await s.ask(headers="Authorization: Bearer mine\r\n")
        assert (message.status, message.all("x-cloned-proxy-reason")) == (503, ["internal_error"])
        assert b"llm.api_key" not in message.body
        assert s.server.connections == 0
        assert s.world.audit.verdicts[-1] == ("deny", "internal_error")
    assert [entry["problem"] for entry in logs] == ["holds no 'llm.api_key'"]


@pytest.mark.parametrize(("port", "address"), [(443, "10.0.0.1"), (443, "8.8.8.8"), (8080, "8.8.8.8")])
async def test_the_tool_cannot_make_the_secret_travel_in_the_clear(
    monkeypatch: pytest.MonkeyPatch, port: int, address: str
) -> None:
    dialled: list[object] = []

    async def dial(*target: object, **_: object) -> None:
        dialled.append(target)
        raise OSError("the test dials nobody")

    monkeypatch.setattr(Ways, "connect", dial)
    async with (
        world(injecting(port), secrets=vault(), addresses=(ipaddress.ip_address(address),)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(port))
        message = await read_message(reader)
    assert (message.status, message.all("x-cloned-proxy-reason")) == (403, ["protocol_not_allowed"])
    assert dialled == []


# What comes back.

ECHOES = {
    "raw": CANARY,
    "base64": base64.b64encode(f"Bearer {CANARY}".encode()).decode(),
    "percent": quote(CANARY, safe=""),
}


@pytest.mark.parametrize("spelled", ECHOES.values(), ids=ECHOES)
async def test_a_head_that_repeats_it_is_redacted(spelled: str) -> None:
    early = f"HTTP/1.1 103 Early Hints\r\nLink: <{spelled}>\r\n\r\n".encode()
    fields = f"X-Seen: Bearer {spelled} end\r\nLocation: http://x/?k={spelled}\r\nX-Kept: yes\r\n"
    async with scene(answering(early + reply(status=f"200 {spelled}", headers=fields))) as s:
        s.writer.write(request(s.server.port))
        interim = await read_message(s.reader, body=False)
        message = await read_message(s.reader)
    assert (interim.status, message.status, message.body) == (103, 200, b"ok")
    assert (message.all("x-seen"), message.all("location")) == (["[redacted]"], ["[redacted]"])
    assert message.all("x-kept") == ["yes"]
    assert all(spelled[4:-4] not in str(part) for part in (interim, message))


@pytest.mark.parametrize("spelled", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("framing", ["sized", "chunked", "unsized"])
async def test_a_small_body_that_repeats_it_is_refused(spelled: str, framing: str) -> None:
    body = f"you sent {spelled}, thank you".encode()
    answers = {
        "sized": reply(body, headers="X-Real: yes\r\n"),
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        "unsized": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }
    async with scene(answering(answers[framing], close=framing == "unsized")) as s:
        message = await s.ask()
        assert message.status == 502
        assert b'"error":"secret_echoed"' in message.body
        assert spelled.encode() not in message.body
        assert message.all("x-real") == []
        # The connection to the client is in order; that to the upstream is not used again.
        assert (await s.ask()).status == 502
        assert s.server.connections == 2
        assert {end.cause for end in s.world.audit.ends} == {"refused:secret_echoed"}
        assert CANARY not in repr(s.world.audit.events)


async def test_a_stream_is_cut_before_the_secret_is_whole() -> None:
    went_on = asyncio.Event()
    event = f"data: {CANARY}".encode()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
        writer.write(b"8\r\ndata: 1\n\r\n")
        await went_on.wait()
        writer.write(b"f\r\n" + event[:15] + b"\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(event) - 15, event[15:]))
        await reader.read()

    async with scene(stream) as s:
        s.writer.write(request(s.server.port))
        got = await s.reader.readuntil(b"data: 1\n\r\n")  # passed on at once
        went_on.set()
        with contextlib.suppress(ConnectionResetError):
            while data := await s.reader.read(100):
                got += data
        await s.world.settled()
        assert [end.cause for end in s.world.audit.ends] == ["refused:secret_echoed"]
    assert b"sk-" not in got
    assert not got.endswith(b"0\r\n\r\n")


async def test_trailers_are_redacted() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = f"2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Seen: {CANARY}\r\n\r\n".encode()
    async with scene(answering(head + body)) as s:
        message = await s.ask(headers="TE: trailers\r\n")
    assert (message.body, message.trailers) == (b"ok", [b"X-Sum: 1\r\n", b"X-Seen: [redacted]\r\n"])


async def test_a_compressed_answer_is_refused_because_nobody_can_look_into_it() -> None:
    async with scene(answering(reply(b"\x1f\x8b...", headers="Content-Encoding: gzip\r\n"))) as s:
        message = await s.ask()
    assert message.status == 502
    assert b"compressed" in message.body


@pytest.mark.parametrize("size", [0, 1, HELD_BYTES, HELD_BYTES + 1, 3 * HELD_BYTES])
async def test_what_repeats_nothing_arrives_as_it_is(size: int) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    async with scene(answering(reply(body))) as s:
        for _ in range(2):
            assert (await s.ask()).body == body
        assert s.server.connections == 1
        assert all(end.bytes_down > size for end in s.world.audit.ends)


@pytest.mark.parametrize("framing", ["chunked", "unsized"])
async def test_what_has_no_length_and_repeats_nothing_arrives_as_it_is(framing: str) -> None:
    body = b"ends like a secret: " + CANARY[:-1].encode()
    answers = {
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        "unsized": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }
    async with scene(answering(answers[framing], close=framing == "unsized")) as s:
        for _ in range(2):
            assert (await s.ask()).body == body


async def test_without_redact_echo_the_answer_is_the_upstreams() -> None:
    seen: list[Message] = []
    answer = reply(CANARY.encode(), headers="Content-Encoding: gzip\r\n")
    async with scene(answering(answer, seen=seen), replace(BEARER, redact_echo=False)) as s:
        assert (await s.ask(headers="Accept-Encoding: gzip\r\n")).body == CANARY.encode()
    assert seen[0].all("accept-encoding") == ["gzip"]


async def test_a_held_body_that_breaks_off_is_502_and_no_part_of_it() -> None:
    async with scene(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", close=True)) as s:
        message = await s.ask()
    assert message.status == 502
    assert b"only this" not in message.body


# Each guard taken out: the attack that it stops is real.


async def test_control_without_the_replacement_the_tools_header_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Injection, "is_own", lambda self, name: False)
    seen: list[Message] = []
    async with scene(answering(reply(), seen=seen)) as s:
        await s.ask(headers="Authorization: Bearer mine\r\n")
    assert "Bearer mine" in seen[0].all("authorization")


async def test_control_without_the_search_the_secret_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EchoFilter, "finds", lambda self, data: False)
    async with scene(answering(reply(CANARY.encode(), headers=f"X-Seen: {CANARY}\r\n"))) as s:
        message = await s.ask()
    assert (message.all("x-seen"), message.body) == ([CANARY], CANARY.encode())


async def test_control_without_the_hold_back_most_of_a_secret_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EchoFilter, "pending", lambda self, data: 0)
    scanner = EchoScanner(EchoFilter([CANARY]))
    pieces = (CANARY[:-1].encode(), CANARY[-1:].encode())
    assert b"".join(scanner.feed(piece) for piece in pieces) == CANARY.encode()


async def test_control_without_the_refusal_the_call_goes_out_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Injector, "injection_for", lambda self, grant: None)
    seen: list[Message] = []
    async with scene(answering(reply(), seen=seen)) as s:
        s.secrets.values.clear()
        assert (await s.ask()).status == 200
    assert [m.all("authorization") for m in seen] == [[]]


async def test_control_without_the_check_of_the_way_it_travels_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injection, "_in_the_clear", lambda grant: False)
    dialled: list[object] = []

    async def dial(*target: object, **_: object) -> None:
        dialled.append(target)
        raise DialError("connect")

    monkeypatch.setattr(Ways, "connect", dial)
    async with (
        world(injecting(443), secrets=vault(), addresses=(ipaddress.ip_address("8.8.8.8"),)) as w,
        client(w) as (reader, writer),
    ):
        writer.write(request(443))
        assert (await read_message(reader)).status == 502
    assert len(dialled) == 1
