"""gRPC through opened TLS: grpcio as client and as server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from cloned_proxy.policy.callers.caller import Principal
from cloned_proxy.policy.model.model import Limits, Policy, Scope
from cloned_proxy.policy.terms.host_index import HostIndex
from cloned_proxy.proxy.inspection.http2.grpc import encoded
from tests.proxy.inspection.support import World, rule
from tests.proxy.support import until


def _unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata((("x-sum", str(len(request))),))
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing of that name: ü%")
    return request[::-1]


def _collect(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    return b",".join(requests)


def _spread(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


def _converse(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    for request in requests:
        yield request.upper()


@pytest.fixture
async def server(h2: World) -> AsyncIterator[World]:
    """A grpcio server as the upstream of the world."""
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "Collect": grpc.stream_unary_rpc_method_handler(_collect),
        "Spread": grpc.unary_stream_rpc_method_handler(_spread),
        "Converse": grpc.stream_stream_rpc_method_handler(_converse),
    }
    served = grpc.server(futures.ThreadPoolExecutor(8))
    for service in ("test.Allowed", "test.Other"):
        served.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    leaf = h2.ca.issue_cert("api.test")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    h2.upstream.port = served.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(leaf.private_key_pem.bytes(), chain)])
    )
    served.start()
    h2.allow(rule("api.test", h2.upstream.port, paths=("/test.Allowed/*",)))
    yield h2
    await asyncio.to_thread(served.stop(None).wait)


def _channel(world: World) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(*_where(world))


def _where(world: World) -> tuple[str, grpc.ChannelCredentials, list[tuple[str, Any]]]:
    world.client_tls()
    roots = (world.directory / "ca" / "cloned-proxy-ca.pem").read_bytes()
    options = [("grpc.ssl_target_name_override", "api.test"), ("grpc.default_authority", world.authority)]
    return f"127.0.0.1:{world.port}", grpc.ssl_channel_credentials(roots), [*options, ("grpc.enable_retries", 0)]


@pytest.fixture
async def channel(server: World) -> AsyncIterator[grpc.aio.Channel]:
    async with _channel(server) as made:
        yield made


async def test_unary_calls_and_both_kinds_of_streams_and_their_status(server: World, channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/test.Allowed/Unary")(b"abc")
    assert await call == b"cba"
    assert dict(await call.trailing_metadata()) == {"x-sum": "3"}
    big = b"x" * 3_000_000
    assert await channel.unary_unary("/test.Allowed/Unary")(big) == big
    assert await channel.stream_unary("/test.Allowed/Collect")(iter([b"a", b"b", b"c"])) == b"a,b,c"
    spread = [piece async for piece in channel.unary_stream("/test.Allowed/Spread")(b"1000")]
    assert spread == [b"%d" % number for number in range(1000)]
    converse = channel.stream_stream("/test.Allowed/Converse")()
    for word in (b"one", b"two", b"three"):
        await converse.write(word)
        assert await converse.read() == word.upper()
    await converse.done_writing()
    assert await converse.read() is grpc.aio.EOF
    assert await converse.code() is grpc.StatusCode.OK
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await channel.unary_unary("/test.Allowed/Unary")(b"fail")
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.NOT_FOUND, "nothing of that name: ü%")
    assert {request.path for request in server.audit.requests} == {
        "/test.Allowed/Unary", "/test.Allowed/Collect", "/test.Allowed/Spread", "/test.Allowed/Converse",
    }  # fmt: skip
    assert {request.method for request in server.audit.requests} == {"POST"}
    assert len(server.inspector._connections) == 1


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary", "unary_stream", "stream_stream"])
async def test_a_denied_call_is_told_as_permission_denied_with_the_fix(kind: str, server: World) -> None:
    """With the client of threads: that of asyncio tells a write that comes too late in place of the status."""

    def denied() -> Any:
        with grpc.secure_channel(*_where(server)) as channel:
            method = getattr(channel, kind)("/test.Other/Unary")
            call = method(iter([b"a"]) if kind.startswith("stream") else b"a")
            return list(call) if kind.endswith("stream") else call

    with pytest.raises(grpc.RpcError) as told:
        await asyncio.to_thread(denied)
    assert told.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert told.value.details() == (
        f"path_not_allowed: cloned-proxy allow {server.authority} --method POST --path /test.Other/Unary"
    )
    assert server.audit.reasons == ["path_not_allowed"]


async def test_a_limit_is_resource_exhausted(server: World) -> None:
    server.caller = Principal("a@v1", "run-1")
    rules = HostIndex([rule("api.test", server.upstream.port)])
    server.policies.current = Policy("v", tools={"a@v1": Scope(allow=rules, limits=Limits(requests_per_minute=1))})
    async with _channel(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/test.Allowed/Unary")(b"a")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "limit_exceeded" in str(refused.value.details())


async def test_an_upstream_that_is_not_there_is_unavailable(server: World) -> None:
    server.upstream.port = 9
    server.allow(rule("api.test", 9))
    async with _channel(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/test.Allowed/Unary")(b"a")
    assert (failed.value.code(), failed.value.details()) == (
        grpc.StatusCode.UNAVAILABLE, "upstream_unreachable (connect)",
    )  # fmt: skip


async def test_a_revoked_call_ends_with_its_status_and_its_neighbour_goes_on(
    server: World, channel: grpc.aio.Channel
) -> None:
    server.allow(rule("api.test", server.upstream.port))
    gone = channel.stream_stream("/test.Other/Converse")()
    stays = channel.stream_stream("/test.Allowed/Converse")()
    for call in (gone, stays):
        await call.write(b"a")
        assert await call.read() == b"A"
    server.allow(rule("api.test", server.upstream.port, paths=("/test.Allowed/*",)))
    server.inspector.sweep()
    with pytest.raises(grpc.aio.AioRpcError) as cut:
        await gone.read()
    assert (cut.value.code(), cut.value.details()) == (
        grpc.StatusCode.PERMISSION_DENIED, "path_not_allowed: the call was cut",
    )  # fmt: skip
    await stays.write(b"b")
    assert await stays.read() == b"B"
    await stays.done_writing()
    await until(lambda: {end.cause for end in server.audit.ends} >= {"revoked:path_not_allowed"})


async def test_a_deadline_of_the_client_reaches_the_server(server: World, channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream("/test.Allowed/Converse")(timeout=0.5)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await call.read()
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: server.in_use == 1)


def test_messages_are_percent_encoded() -> None:
    assert encoded("a b%c\r\nü") == b"a b%25c%0D%0A%C3%BC"
