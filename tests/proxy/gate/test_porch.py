"""A listener behind a load balancer: whose header is read, what of it counts, and what a stranger gains."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloned_proxy.policy.callers.caller import ANONYMOUS, CallerSource, Principal
from cloned_proxy.policy.model.model import Policy, Scope
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.vocabulary import Anonymous, Mode
from cloned_proxy.proxy.gate.porch import Porch
from cloned_proxy.proxy.transport.listener import Listener, bind_tcp
from cloned_proxy.proxy.wire.proxy_protocol import MAX_BYTES
from cloned_proxy.store.audit.audit_queue import AuditQueue
from cloned_proxy.store.settings.config import ConfigError, load_config
from cloned_proxy.telemetry.events import DecisionEvent
from tests.proxy.support import Upstream, World, allow, connect_head, hello, until, upstream, world
from tests.proxy.wire.test_proxy_protocol import EMPTY, IPV4, WHOLE, WRONG, second

NAMED = (ipaddress.ip_network("127.0.0.0/30"),)
BALANCER, STRANGER = "127.0.0.2", "127.0.0.9"
HOST = "127.0.0.1"
_QUICKLY_FED = 300
"""Bytes, one segment each."""


@pytest.fixture
async def canary() -> AsyncIterator[Upstream]:
    async with upstream() as seen:
        yield seen


async def said(
    made: World,
    *parts: bytes,
    sender: str = BALANCER,
    port: int | None = None,
    slowly: bool = False,
    then: Callable[[], bool] = lambda: True,
) -> bytes:
    """What comes back first, or b"" when the proxy closes."""
    host, listening = made.listener.socket.getsockname()[:2]
    local = None if ":" in host else (sender, 0)
    try:
        reader, writer = await asyncio.open_connection(host, port or listening, local_addr=local)
    except ConnectionError:
        return b""
    try:
        for part in parts:
            for piece in [part[at : at + 1] for at in range(len(part))] if slowly else [part]:
                writer.write(piece)
                await writer.drain()
                if slowly:
                    await asyncio.sleep(0)
        async with asyncio.timeout(60):
            answer = await reader.read(65_536)
        await until(then)
    except ConnectionError:
        return b""
    else:
        return answer
    finally:
        writer.transport.abort()


async def test_behind_a_header_all_is_as_without(canary: Upstream) -> None:
    async with world(allow(HOST, canary.port), header_from=NAMED) as made:
        for name, header in WHOLE.items():
            one_segment = header + connect_head(canary.port, HOST)
            assert (await said(made, one_segment)).startswith(b"HTTP/1.1 200 "), name
            if len(header) < _QUICKLY_FED:
                assert (await said(made, one_segment, slowly=True)).startswith(b"HTTP/1.1 200 "), name


async def test_bytes_reach_the_canary_whole(canary: Upstream) -> None:
    async with world(allow(HOST, canary.port), header_from=NAMED) as made:
        reader, writer = await asyncio.open_connection(*made.listener.socket.getsockname(), local_addr=(BALANCER, 0))
        first = hello(None)
        writer.write(WHOLE["v2 with TLVs"] + connect_head(canary.port, HOST))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(first)
        assert len(await reader.readexactly(len(first))) == len(first)
        assert bytes(canary.received) == first
        writer.transport.abort()


async def test_from_a_named_address_nothing_passes_without_a_whole_header(canary: Upstream) -> None:
    async with world(allow(HOST, canary.port), header_from=NAMED, head_timeout=0.2) as made:
        for name, wrong in WRONG.items():
            assert not await said(made, wrong + connect_head(canary.port, HOST)), name
        assert made.metrics.headers_refused == len(WRONG)
        assert not canary.connections
        assert made.audit.verdicts == []


async def test_the_address_of_a_header_is_on_record_and_makes_nobody_another_caller(canary: Upstream) -> None:
    forged = "X-Cloned-Tool-Token: forged\r\n"
    asked = {
        "allow": connect_head(canary.port, HOST),
        "deny": connect_head(443, "denied.example"),
        "no credential": connect_head(443, "denied.example", headers=forged),
        "malformed": b"GET http://x/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "plain": b"GET http://denied.example/ HTTP/1.1\r\nHost: denied.example\r\nConnection: close\r\n\r\n",
    }
    headers = {"192.0.2.1": WHOLE["v1 IPv4"], "2001:db8::1": WHOLE["v2 IPv6"], "": WHOLE["v2 LOCAL"]}
    async with world(allow(HOST, canary.port), header_from=NAMED) as made:
        for head in asked.values():
            for header in headers.values():
                for _ in range(2):  # the second one could be told from memory
                    assert await said(made, header + head)
            assert await said(made, head, sender=STRANGER)
        decisions = [event for event in made.audit.events if isinstance(event, DecisionEvent)]
        assert [event.source_address for event in decisions] == len(asked) * [
            *(source for source in headers for _ in range(2)),
            STRANGER,  # who goes round the load balancer is seen; "" is what the load balancer asks for itself
        ]
        assert {event.tool for event in decisions} == {None}


async def test_denials_of_two_clients_are_two_entries() -> None:
    queue: AuditQueue[DecisionEvent] = AuditQueue(10)
    async with world() as made:
        await made.ask(connect_head(443, "denied.example"))
        (event,) = made.audit.events
    assert isinstance(event, DecisionEvent)
    for source in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        queue.put_denial(replace(event, source_address=source), None, summary=False)
    assert [(entry.source_address, entry.times) for entry, _ in queue.take()] == [("192.0.2.1", 2), ("192.0.2.2", 1)]


async def test_a_second_header_is_not_one(canary: Upstream) -> None:
    async with world(allow(HOST, canary.port), header_from=NAMED) as made:
        header = WHOLE["v1 IPv4"]
        assert (await said(made, header + header + connect_head(canary.port, HOST))).startswith(b"HTTP/1.1 400 ")
        assert not canary.connections


STRANGERS = ["v1 IPv4", "v1 UNKNOWN", "v2 IPv4", "v2 LOCAL"]


@pytest.mark.parametrize("name", STRANGERS)
async def test_a_header_from_a_stranger_is_never_believed(
    name: str, canary: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(allow(HOST, canary.port), header_from=NAMED) as made:
        attack = WHOLE[name] + connect_head(canary.port, HOST) + hello(None)
        assert (await said(made, attack, sender=STRANGER)).startswith(b"HTTP/1.1 400 ")
        assert not canary.connections
        assert (await said(made, connect_head(canary.port, HOST), sender=STRANGER)).startswith(b"HTTP/1.1 200 ")
        await until(lambda: canary.connections == 1)
        assert not canary.received
        # The broken build: whoever sends one is believed. The attack reaches the canary then.
        monkeypatch.setattr(Porch, "_is_named", lambda self, address: True)
        arrived = lambda: bool(canary.received)  # noqa: E731
        assert (await said(made, attack, sender=STRANGER, then=arrived)).startswith(b"HTTP/1.1 200 ")


async def test_a_listener_that_names_nobody_believes_nobody(canary: Upstream) -> None:
    async with world(allow(HOST, canary.port)) as made:
        attack = WHOLE["v1 IPv4"] + connect_head(canary.port, HOST)
        assert (await said(made, attack)).startswith(b"HTTP/1.1 400 ")
        assert not canary.connections


async def test_no_source_that_a_header_names_is_an_identity(canary: Upstream, tmp_path: Path) -> None:
    """A rule of one tool, whose slot listens beside: naming the slot's address, or the tool, opens nothing."""
    scope = Scope(allow=HostIndex((allow(HOST, canary.port, scope="alpha@v1"),)))
    current = Policy("v1", Mode.ENFORCE, Anonymous.GLOBAL, Scope(), {"alpha@v1": scope})
    async with world(current=current, principal=ANONYMOUS, header_from=NAMED) as made:
        slot = bind_tcp("127.0.0.1", 0)
        place, port = slot.getsockname()
        await made.gate.open(Listener(slot, Principal("alpha@v1", "run-1", CallerSource.LISTENER), "slot alpha"))
        head = connect_head(canary.port, HOST)
        named = b"\x02" + len(b"alpha@v1").to_bytes(2) + b"alpha@v1"
        for header in (
            f"PROXY TCP4 {place} {place} {port} {port}\r\n".encode(),
            b"PROXY TCP4 127.0.0.1 127.0.0.1 0 0\r\n",
            b"PROXY TCP6 ::1 ::1 1 1\r\n",
            second(0x31, str(tmp_path / "proxy.sock").encode().ljust(216, b"\0")),
            second(0x11, IPV4 + named + EMPTY),
        ):
            assert (await said(made, header + head)).startswith(b"HTTP/1.1 403 ")
        assert not canary.connections
        assert {event.tool for event in made.audit.events} == {None}  # type: ignore[union-attr]
        # The slot itself is the control: it is no listener behind a load balancer, and its caller is the tool.
        assert (await said(made, head, port=port)).startswith(b"HTTP/1.1 200 ")


async def test_ipv6(canary: Upstream) -> None:
    networks = (ipaddress.ip_network("::1"),)
    async with world(allow(HOST, canary.port), header_from=networks, bound="::1") as made:
        head = connect_head(canary.port, HOST)
        assert (await said(made, WHOLE["v2 IPv6"] + head)).startswith(b"HTTP/1.1 200 ")
        assert not await said(made, head)


@pytest.mark.parametrize(
    "begun", [b"", b"P", b"PROXY TCP4 1", WHOLE["v2 IPv4"][:-1], second(0x00, b"", length=MAX_BYTES - 16)]
)
async def test_a_header_that_does_not_come_is_not_waited_for(begun: bytes, canary: Upstream) -> None:
    async with world(allow(HOST, canary.port), header_from=NAMED, head_timeout=0.2) as made:
        assert not await said(made, begun)


async def test_who_only_connects_is_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    async with world(header_from=NAMED) as made:
        reader, writer = await asyncio.open_connection(*made.listener.socket.getsockname(), local_addr=(BALANCER, 0))
        writer.write_eof()
        assert not await reader.read()
        writer.close()
    assert "refused" not in capsys.readouterr().out


async def test_headers_that_are_waited_for_are_bounded_and_who_comes_then_waits(canary: Upstream) -> None:
    async with world(allow(HOST, canary.port), header_from=NAMED, max_connections=2, head_timeout=60) as made:
        place = made.listener.socket.getsockname()
        slow = [await asyncio.open_connection(*place, local_addr=(BALANCER, 0)) for _ in range(2)]
        third = asyncio.create_task(said(made, WHOLE["v1 IPv4"] + connect_head(canary.port, HOST)))
        await until(lambda: made.gate._room.is_wanted(made.listener, contended=False))
        assert not third.done()
        slow[0][1].transport.abort()
        assert (await third).startswith(b"HTTP/1.1 200 ")
        slow[1][1].transport.abort()


async def test_who_waits_is_let_go_when_the_gate_stops() -> None:
    async with world(header_from=NAMED) as made:
        place = made.listener.socket.getsockname()
        reader, writer = await asyncio.open_connection(*place, local_addr=(BALANCER, 0))
        writer.write(b"PROXY ")
        await asyncio.sleep(0)  # whether it is accepted already or not: it is not served
        made.gate.stop_accepting()
        with pytest.raises(ConnectionError):
            await reader.read()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(*place)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[10.0.0.0/8, 0.0.0.0/0]", "0.0.0.0/0 is everybody"),
        ("['::/0']", "is everybody"),
        ("[10.0.0.1/8]", "write an address or a network such as 10.0.0.5 or 10.0.0.0/28"),
        ("[balancer.example]", "write an address or a network"),
        ("10.0.0.1", "list"),
    ],
)
def test_a_bad_setting_is_told_with_its_place(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"listen: {{proxy_protocol_from: {text}}}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:1: listen\.proxy_protocol_from") as caught:
        load_config(tmp_path / "config.yaml")
    assert problem in str(caught.value)


def test_networks_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("listen:\n  proxy_protocol_from: [10.0.0.5, 2001:db8::/32]\n")
    networks = load_config(tmp_path / "config.yaml").listen.networks
    assert networks == (ipaddress.ip_network("10.0.0.5/32"), ipaddress.ip_network("2001:db8::/32"))
    assert not load_config(tmp_path / "nothing.yaml").listen.networks
