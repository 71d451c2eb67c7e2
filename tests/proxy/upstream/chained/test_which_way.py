"""What is reached directly and what by way of the proxy in front, which is itself no destination."""

from __future__ import annotations

import ipaddress

import pytest

from cloned_proxy.policy.terms.rule import HostPattern, PatternKind
from cloned_proxy.store.settings.upstream_settings import UpstreamSettings
from tests.proxy.support import HOST, LOOPBACK, allow, connect_head, hello, upstream, world
from tests.proxy.upstream.chained.asking import refused, rule
from tests.proxy.upstream.chained.fronts import TARGET, front


@pytest.mark.parametrize(
    ("entry", "direct"),
    [
        (HOST, True), (".example.com", True), (".com", True), ("127.0.0.0/8", True), ("127.0.0.1", True),
        ("example.com", False), ("pi.example.com", False), (".api.example.com", False), ("10.0.0.0/8", False),
    ],
)  # fmt: skip
async def test_no_proxy_means_what_it_says(entry: str, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else loopback would be direct whatever is written.
    monkeypatch.setattr(
        "cloned_proxy.policy.deciding.bypass.Bypass.covers", lambda self, a: any(a in n for n in self.networks)
    )
    async with front() as ahead, upstream() as server:
        settings = ahead.settings(no_proxy=[entry])
        async with world(allow(HOST, server.port), front=settings, addresses=(LOOPBACK,)) as w:
            _, writer = await w.tunnel(server.port)
            writer.close()
            await w.settled()
        assert (server.connections, len(ahead.heads)) == ((1, 0) if direct else (0, 1))


async def test_a_name_of_which_only_some_addresses_are_exempt_is_chained_to_the_others() -> None:
    async with (
        front() as ahead,
        world(
            rule(), front=ahead.settings(no_proxy=["10.0.0.0/8"]), addresses=(ipaddress.ip_address("10.1.2.3"), TARGET)
        ) as w,
    ):
        _, writer = await w.tunnel(443)
        writer.close()
        await w.settled()
    assert [head.split()[1] for head in ahead.heads] == [b"93.184.216.10:443"]


# Names and addresses.


async def test_by_name_nothing_is_looked_up_here() -> None:
    settings = {"resolve": "upstream"}
    async with front() as ahead, world(rule(addresses=frozenset()), front=ahead.settings(**settings)) as w:
        reader, writer = await w.tunnel(443)
        await reader.readexactly(len(hello()))
        w.gate.sweep()  # an open flow without addresses still passes
        writer.write(b"more")
        assert await reader.readexactly(4) == b"more"
        writer.close()
        await w.settled()
    assert [head.split()[1] for head in ahead.heads] == [b"api.example.com:443"]
    assert w.resolver.asked == []


async def test_by_name_what_is_exempt_is_looked_up_and_checked_here() -> None:
    settings = {"resolve": "upstream", "no_proxy": [HOST]}
    async with front() as ahead, world(rule(addresses=frozenset()), front=ahead.settings(**settings)) as w:
        reply = await w.ask(connect_head(443))
        assert (reply.status, reply.json["reason"]) == (403, "address_not_allowed")
    assert (ahead.heads, w.resolver.asked) == ([], [HOST])


@pytest.mark.parametrize("text", ["10.0.0.5", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.5"])
async def test_address_classes_hold_in_front_of_a_proxy(text: str) -> None:
    address = ipaddress.ip_address(text)
    async with front() as ahead, world(rule(addresses=frozenset()), front=ahead.settings(), addresses=(address,)) as w:
        reply = await w.ask(connect_head(443))
        assert (reply.status, reply.json["reason"]) == (403, "address_not_allowed")
    assert ahead.heads == []


@pytest.mark.parametrize(("host", "status"), [(HOST, 403), ("127.0.0.1", 200)])
async def test_a_tool_reaches_the_front_as_a_destination_only_by_a_rule_that_names_it(host: str, status: int) -> None:
    async with front() as ahead:
        reached = allow(host, ahead.port, raw_tcp=True)
        async with world(reached, front=ahead.settings(), addresses=(LOOPBACK,)) as w:
            reader, writer = await w.connect()
            writer.write(connect_head(ahead.port, host))
            assert f" {status} ".encode() in await reader.readuntil(b"\r\n\r\n")
            writer.close()


async def test_by_name_the_front_is_not_asked_for_itself_because_a_pattern_covers_it() -> None:
    """In a tunnel to itself it could be asked for anything: an HTTPS proxy at 443 is what `*.corp.example` covers."""
    host = "proxy.corp.example"
    async with front() as ahead:
        pattern = HostPattern(PatternKind.ONE_LABEL, "corp.example")
        covered, named = allow(host, ahead.port, pattern=pattern), allow(host, ahead.port)
        settings = UpstreamSettings.model_validate({"proxy": f"http://{host}:{ahead.port}", "resolve": "upstream"})
        for reached, other, status in ((covered, host, 403), (covered, "www.corp.example", 200), (named, host, 200)):
            async with world(reached, front=settings) as w:
                w.resolver.table[host] = (LOOPBACK,)
                reader, writer = await w.connect()
                writer.write(connect_head(ahead.port, other))
                assert f" {status} ".encode() in await reader.readuntil(b"\r\n\r\n"), other
                writer.close()
    assert [head.split()[1] for head in ahead.heads] == [
        f"{name}:{ahead.port}".encode() for name in ("www.corp.example", host)
    ]


async def test_a_front_that_is_this_proxy_itself_is_never_dialled() -> None:
    async with front() as ahead, world(rule(), front=ahead.settings(), addresses=(TARGET,)) as w:
        w.own.add_address("127.0.0.1", ahead.port)
        w.gate.sweep()  # as when a listener is opened
        told = await refused(w, ahead)
    assert (told["status"], w.troubles, ahead.heads) == (502, ["no_way"], [])
