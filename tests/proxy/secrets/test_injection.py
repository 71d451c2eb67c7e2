"""`inject` on plain HTTP. The judge is what arrives at the upstream, and what comes back to the client."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Policy, Scope
from cloned_proxy.policy.paths.path import parse_path_pattern
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import Inject
from cloned_proxy.policy.terms.vocabulary import Anonymous, Mode
from cloned_proxy.proxy.secrets import injection
from cloned_proxy.proxy.secrets.injection import Injection, Injector
from cloned_proxy.proxy.upstream.dial import DialError
from cloned_proxy.proxy.upstream.ways import Ways
from tests.proxy.plain.support import Message, answering, client, read_message, reply, request
from tests.proxy.secrets.injecting import CANARY, injecting, scene, vault
from tests.proxy.support import HOST, allow, upstream, world


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


# Each guard taken out: the attack that it stops is real.


async def test_control_without_the_replacement_the_tools_header_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Injection, "is_own", lambda self, name: False)
    seen: list[Message] = []
    async with scene(answering(reply(), seen=seen)) as s:
        await s.ask(headers="Authorization: Bearer mine\r\n")
    assert "Bearer mine" in seen[0].all("authorization")


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
