"""Streams of an opened tunnel: each decided, recorded and ended for itself."""

from __future__ import annotations

import asyncio
import json

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Limits, Policy, Scope
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.policy.terms.rule import Inject
from tests.proxy.inspection.http2.peers import Client, Message, Upstream2, UpstreamPeer
from tests.proxy.inspection.support import World, rule
from tests.proxy.support import until


async def test_streams_share_one_connection_and_each_has_its_own_decision_and_end(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    h2.allow(rule("api.test", h2.upstream.port, paths=("/ok/**",)))
    paths = [f"/ok/{n}" for n in range(20)] + [f"/no/{n}" for n in range(20)]
    streams = [client.begin(client.head(path)) for path in paths]
    answers = [await client.response(stream) for stream in streams]
    assert [answer.status for answer in answers] == ["200"] * 20 + ["403"] * 20
    assert answers[0].body == b"ok"
    told = json.loads(answers[-1].body)
    assert (told["reason"], told["host"], answers[-1].get("x-cloned-proxy-reason")) == (
        "path_not_allowed", "api.test", "path_not_allowed",
    )  # fmt: skip
    assert len(upstream.peers) == h2.upstream.connections == 1
    assert sorted(message.get(":path") or "" for message in upstream.requests) == sorted(paths[:20])
    assert len(h2.audit.requests) == 40
    await until(lambda: h2.in_use == 1)  # the CONNECT
    assert [end.cause for end in h2.audit.ends] == ["closed"] * 20
    assert {end.bytes_down for end in h2.audit.ends} == {2}


async def test_both_bodies_and_both_trailers_go_through(h2: World, upstream: Upstream2, client: Client) -> None:
    async def echo(peer: UpstreamPeer, stream: int, message: Message) -> None:
        await message.over.wait()
        peer.h2.send_headers(stream, [(":status", "200"), ("x-one", "1")])
        await peer.send_body(stream, bytes(message.body), end=False)
        trailers = [("x-sum", "3"), ("content-length", "7"), ("x-cloned-y", "z")]
        peer.h2.send_headers(stream, trailers, end_stream=True)
        peer.send()

    upstream.serve = echo
    sent = bytes(range(256)) * 4096
    answer = await client.ask(
        client.head("/up", method="POST", fields=[("te", "trailers")]), sent, [("x-end", "yes"), ("host", "other.test")]
    )
    assert answer.body == sent
    assert (answer.get("x-one"), answer.trailers) == ("1", [("x-sum", "3")])
    assert upstream.requests[0].trailers == [("x-end", "yes")]
    assert upstream.requests[0].get("te") == "trailers"
    await until(lambda: len(h2.audit.ends) == 1)
    assert (h2.audit.ends[0].bytes_up, h2.audit.ends[0].bytes_down) == (len(sent), len(sent))


async def test_own_fields_and_credentials_stop_here_and_the_name_is_the_a_label(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    fields = [("proxy-authorization", "Basic AAAA"), ("x-cloned-tool", "other"), ("x-kept", "1")]
    head = client.head(fields=fields)
    head[2] = (":authority", f"API.test.:{h2.upstream.port}")
    assert (await client.ask(head)).status == "200"
    assert upstream.requests[0].get(":authority") == h2.authority
    assert "cloned" not in upstream.text
    assert "proxy-" not in upstream.text
    assert upstream.requests[0].get("x-kept") == "1"


async def test_a_response_cannot_speak_for_the_proxy(upstream: Upstream2, client: Client) -> None:
    async def speak(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.send_headers(stream, [(":status", "200"), ("x-cloned-proxy-reason", "no")], end_stream=True)
        peer.send()

    upstream.serve = speak
    assert (await client.ask()).get("x-cloned-proxy-reason") is None


async def test_the_caller_is_that_of_the_connect(h2: World, upstream: Upstream2) -> None:
    h2.caller = Principal("a@v1", "run-1")
    scope = Scope(allow=HostIndex([rule("api.test", h2.upstream.port, paths=("/a/**",))]), inherit_global=False)
    h2.policies.current = Policy("v", tools={"a@v1": scope})
    client = await Client.connect(h2)
    assert (await client.ask(client.head("/a/1", fields=[("x-cloned-tool", "b@v1")]))).status == "200"
    assert (await client.ask(client.head("/b/1"))).status == "403"
    assert {request.tool for request in h2.audit.requests} == {"a@v1"}
    await client.close()


async def test_each_stream_counts_against_the_budget_of_its_tool(h2: World, upstream: Upstream2) -> None:
    h2.caller = Principal("a@v1", "run-1")
    allowed = HostIndex([rule("api.test", h2.upstream.port)])
    h2.policies.current = Policy("v", tools={"a@v1": Scope(allow=allowed, limits=Limits(concurrent=3))})

    async def never(peer: UpstreamPeer, stream: int, message: Message) -> None:
        return

    upstream.serve = never
    client = await Client.connect(h2)
    streams = [client.begin(client.head(f"/{n}")) for n in range(3)]  # with the CONNECT it is one too many
    refused = await client.response(streams[2])
    assert (refused.status, refused.get("retry-after") is not None) == ("429", True)
    await until(lambda: len(upstream.requests) == 2)
    client.h2.reset_stream(streams[0])
    client.send()
    await until(lambda: h2.in_use == 2)
    assert client.begin(client.head("/again"))
    await until(lambda: len(upstream.requests) == 3)
    await client.close()


async def test_a_revoked_stream_is_cut_and_its_neighbours_are_not(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    async def endless(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.send_headers(stream, [(":status", "200")])
        while not peer.closed.is_set() and message.reset is None:
            await peer.send_body(stream, b"data: x\n\n", end=False)
            await asyncio.sleep(0.001)

    upstream.serve = endless
    gone, stays = client.begin(client.head("/gone/1")), client.begin(client.head("/stays/1"))
    for stream in (gone, stays):
        await client.messages[stream].until(lambda stream=stream: bool(client.messages[stream].body))  # type: ignore[misc]
    h2.allow(rule("api.test", h2.upstream.port, paths=("/stays/**",)))
    h2.inspector.sweep()
    assert (await client.response(gone)).reset is not None
    seen = len(client.messages[stays].body)
    await client.messages[stays].until(lambda: len(client.messages[stays].body) > seen + 100)
    assert [end.cause for end in h2.audit.ends] == ["revoked:path_not_allowed"]
    # Upstream as well: the stream is gone, the connection is not.
    await upstream.requests[0].until(lambda: upstream.requests[0].reset is not None)
    assert len(upstream.peers) == 1


async def test_a_client_that_takes_back_its_request_ends_it_upstream(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    async def never(peer: UpstreamPeer, stream: int, message: Message) -> None:
        return

    upstream.serve = never
    stream = client.begin(client.head("/slow", method="POST"), end=False)
    await until(lambda: len(upstream.requests) == 1)
    client.h2.reset_stream(stream)
    client.send()
    await upstream.requests[0].until(lambda: upstream.requests[0].reset is not None)
    await until(lambda: h2.in_use == 1)
    assert [end.cause for end in h2.audit.ends] == ["client_reset"]


async def test_a_secret_goes_up_and_does_not_come_back(h2: World, upstream: Upstream2) -> None:
    h2.secrets.values["key"] = "sesame-123456"
    h2.allow(rule("api.test", h2.upstream.port, inject=Inject("authorization", "Bearer ${vault:key}")))

    async def repeat(peer: UpstreamPeer, stream: int, message: Message) -> None:
        said = (message.get("authorization") or "").encode()
        where = message.get(":path")
        head = [(":status", "200"), ("x-said", said.decode()) if where == "/head" else ("x-none", "1")]
        if where == "/head":
            peer.h2.send_headers(stream, head, end_stream=True)
        elif where == "/trailer":
            peer.h2.send_headers(stream, head)
            peer.h2.send_data(stream, b"body")
            peer.h2.send_headers(stream, [("x-said", said.decode())], end_stream=True)
        elif where == "/held":
            peer.h2.send_headers(stream, [*head, ("content-length", str(len(said)))])
            peer.h2.send_data(stream, said, end_stream=True)
        else:
            peer.h2.send_headers(stream, head)
            for at in range(len(said)):
                peer.h2.send_data(stream, said[at : at + 1])
                peer.send()
                await asyncio.sleep(0)
            peer.h2.send_data(stream, b"", end_stream=True)
        peer.send()

    upstream.serve = repeat
    client = await Client.connect(h2)
    answers = {}
    for path in ("/head", "/trailer", "/held", "/streamed"):
        answers[path] = await client.ask(client.head(path, fields=[("authorization", "mine")]))
    assert [m.get("authorization") for m in upstream.requests] == ["Bearer sesame-123456"] * 4
    assert (answers["/head"].status, answers["/head"].get("x-said")) == ("200", "[redacted]")
    assert answers["/trailer"].trailers == [("x-said", "[redacted]")]
    assert (answers["/held"].status, b"secret_echoed" in answers["/held"].body) == ("502", True)
    assert answers["/streamed"].reset is not None
    assert not any(b"sesame-123456" in bytes(answer.body) for answer in answers.values())
    await client.close()


async def test_a_goaway_of_the_upstream_ends_nothing_that_it_has_read(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    from hyperframe.frame import GoAwayFrame  # noqa: PLC0415  what one test sends

    release = asyncio.Event()

    async def slow(peer: UpstreamPeer, stream: int, message: Message) -> None:
        if len(upstream.requests) == 1:
            peer.send(GoAwayFrame(0, last_stream_id=stream))
            await release.wait()
        peer.h2.send_headers(stream, [(":status", "200")], end_stream=True)
        peer.send()

    upstream.serve = slow
    first = client.begin(client.head("/1"))
    await until(lambda: len(upstream.requests) == 1)
    second = await client.ask(client.head("/2"))
    release.set()
    assert ((await client.response(first)).status, second.status) == ("200", "200")
    assert len(upstream.peers) == 2


async def test_what_the_upstream_has_not_read_is_sent_again(h2: World, upstream: Upstream2, client: Client) -> None:
    async def refuse_first(peer: UpstreamPeer, stream: int, message: Message) -> None:
        if len(upstream.requests) == 1:
            peer.h2.reset_stream(stream, 7)  # REFUSED_STREAM
        else:
            peer.h2.send_headers(stream, [(":status", "200")], end_stream=True)
        peer.send()

    upstream.serve = refuse_first
    assert (await client.ask()).status == "200"
    assert len(h2.audit.requests) == 1


async def test_at_drain_the_client_is_told_and_what_is_open_goes_on(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    release = asyncio.Event()

    async def slow(peer: UpstreamPeer, stream: int, message: Message) -> None:
        await release.wait()
        peer.h2.send_headers(stream, [(":status", "200")], end_stream=True)
        peer.send()

    upstream.serve = slow
    stream = client.begin(client.head())
    await until(lambda: len(upstream.requests) == 1)
    h2.inspector.drain()
    async with asyncio.timeout(60):
        await client.gone_away.wait()
    assert (client.goaway, client.last_stream) == (0, stream)
    release.set()
    assert (await client.response(stream)).status == "200"
    async with asyncio.timeout(60):
        await client.closed.wait()
    assert [end.cause for end in h2.audit.ends] == ["closed"]


async def test_an_answer_comes_before_the_end_of_the_body_and_the_client_may_finish(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    h2.allow(rule("api.test", h2.upstream.port, paths=("/ok/**",)))
    stream = client.begin(client.head("/no", method="POST"), end=False)
    message = client.messages[stream]
    await message.until(lambda: message.ended)
    assert (message.status, message.reset) == ("403", None)
    await client.send_body(stream, b"x" * 300_000)
    assert (await client.ask(client.head("/ok/1"))).status == "200"
    assert (message.status, message.reset) == ("403", None)
    await until(lambda: not h2.front._streams)
    assert not any(m.get(":path") == "/no" for m in upstream.requests)


async def test_a_body_that_nobody_wants_and_that_does_not_end_is_taken_back(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    h2.allow(rule("api.test", h2.upstream.port, paths=("/ok/**",)))
    stream = client.begin(client.head("/no", method="POST"), end=False)
    message = client.messages[stream]
    await message.until(lambda: message.reset is not None)
    assert (message.status, message.reset) == ("403", 0)


async def test_a_silent_upstream_is_504_and_its_neighbour_is_answered(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    async def some(peer: UpstreamPeer, stream: int, message: Message) -> None:
        if message.get(":path") == "/answered":
            peer.h2.send_headers(stream, [(":status", "200")], end_stream=True)
            peer.send()

    upstream.serve = some
    services = h2.inspector.services
    services.settings = services.settings.model_copy(update={"response_timeout": 0.3})
    silent = client.begin(client.head("/silent"))
    assert (await client.ask(client.head("/answered"))).status == "200"
    answer = await client.response(silent)
    assert (answer.status, b'"phase":"response"' in answer.body) == ("504", True)
    await until(lambda: len(h2.audit.ends) == 2)
    assert {end.cause for end in h2.audit.ends} == {"closed", "upstream_error:response"}


async def test_a_stream_without_a_byte_is_cut_as_idle_and_its_neighbour_is_not(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    async def begin(peer: UpstreamPeer, stream: int, message: Message) -> None:
        peer.h2.send_headers(stream, [(":status", "200")])
        peer.send()

    upstream.serve = begin
    idle, busy = client.begin(client.head("/idle")), client.begin(client.head("/busy"))
    for number in (idle, busy):
        await client.messages[number].began.wait()
    h2.front._streams[idle].last_byte -= 1000
    h2.inspector.sweep()
    assert (await client.response(idle)).reset is not None
    assert not client.messages[busy].over.is_set()
    assert [end.cause for end in h2.audit.ends] == ["idle"]
