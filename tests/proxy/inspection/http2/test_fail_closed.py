"""What breaks inside refuses the one request, and nothing of it goes upstream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from h2.exceptions import ProtocolError

from cloned_proxy.policy.terms.vocabulary import Reason
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.inspection.connections import heads
from cloned_proxy.proxy.inspection.examining.examiners import (
    Admitted,
    BodyFilter,
    HeldFilter,
    RefusedError,
    ResponseSeen,
    StreamFilter,
    UnfitError,
)
from cloned_proxy.proxy.inspection.http2.answering import Http2Stream
from cloned_proxy.proxy.inspection.requests import admission, stream
from cloned_proxy.proxy.inspection.upstream import pool
from tests.proxy.inspection.http2.peers import Client, Message, Upstream2, UpstreamPeer
from tests.proxy.inspection.support import World
from tests.proxy.support import until


def _raising(*_: object, **__: object) -> Any:
    raise RuntimeError("broken")


BROKEN = {
    "the admission": (admission.Admission, "admit"),
    "the decision": (admission.Admission, "_authorise"),
    "the fields that go up": (stream, "request_fields"),
    "the block that goes up": (heads, "request_block"),
    "the last line before the dial": (pool, "_check"),
    "the dial": (pool.Pool, "_connect"),
    "the TLS to the upstream": (pool.Pool, "_secured"),
}


@pytest.mark.parametrize("part", BROKEN)
async def test_a_part_that_raises_is_503_and_its_neighbours_go_on(
    part: str, h2: World, upstream: Upstream2, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(*BROKEN[part], _raising)
        answer = await client.ask(client.head("/broken", method="POST"), b"canary")
        assert (answer.status, b"proxy_unavailable" in answer.body) == ("503", True), answer
        assert not upstream.requests
    assert (await client.ask(client.head("/whole"))).status == "200"
    assert [message.get(":path") for message in upstream.requests] == ["/whole"]
    await until(lambda: h2.in_use == 1)


async def test_a_body_that_fails_ends_its_request_and_nothing_looks_whole(
    h2: World, upstream: Upstream2, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(stream, "send_body", _raising)
        answer = await client.ask(client.head("/broken", method="POST"), b"canary")
    assert answer.reset is not None
    assert (await client.ask(client.head("/whole"))).status == "200"
    assert b"canary" not in b"".join(bytes(message.body) for message in upstream.requests)
    assert not any(message.ended for message in upstream.requests if message.get(":path") == "/broken")
    assert {end.cause for end in h2.audit.ends} == {"internal_error", "closed"}


async def test_a_response_that_the_library_refuses_to_send_ends_its_stream(
    h2: World, upstream: Upstream2, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ProtocolError("not like this")

    with monkeypatch.context() as broken:
        broken.setattr(Http2Stream, "_send_head", refuse)
        answer = await client.ask(client.head("/broken"))
    assert (answer.status, answer.reset) == (None, 8)  # CANCEL
    assert (await client.ask(client.head("/whole"))).status == "200"


async def test_an_admission_that_leaves_nothing_is_no_permission(
    h2: World, upstream: Upstream2, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(admission.Admission, "admit", nothing)
    assert (await client.ask()).status == "503"
    assert not upstream.requests


async def test_a_held_call_waits_for_its_answer_and_its_neighbours_do_not(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    h2.hold_decisions()
    held = client.begin(client.head("/held"))
    await h2.audit.asked.wait()
    assert not client.messages[held].began.is_set()
    h2.enforcer._strict_durability = False
    assert (await client.ask(client.head("/now"))).status == "200"
    assert [message.get(":path") for message in upstream.requests] == ["/now"]
    h2.audit.free.set()
    assert (await client.response(held)).status == "200"


async def test_a_client_that_takes_back_a_held_call_never_has_it_sent(
    h2: World, upstream: Upstream2, client: Client
) -> None:
    h2.hold_decisions()
    held = client.begin(client.head("/held"))
    await h2.audit.asked.wait()
    client.h2.reset_stream(held)
    client.send()
    await until(lambda: not h2.front._streams)
    h2.audit.free.set()
    h2.enforcer._strict_durability = False
    assert (await client.ask(client.head("/now"))).status == "200"
    assert [message.get(":path") for message in upstream.requests] == ["/now"]
    await until(lambda: h2.in_use == 1)


class _Upper(StreamFilter):
    resizes = True

    def feed(self, piece: bytes) -> bytes:
        if b"forbidden" in piece:
            raise _unfit()
        return piece.upper() + b"!"

    def rest(self) -> bytes:
        return b"END"


class _Whole(HeldFilter):
    limit = 100

    async def whole(self, body: bytes) -> bytes:
        await asyncio.sleep(0)
        if b"forbidden" in body:
            raise _unfit()
        return body[::-1] + b"more"

    def too_long(self) -> UnfitError:
        return _unfit()


def _unfit() -> UnfitError:
    return UnfitError("a forbidden word", answer=answers.unavailable(), cause="refused:test")


class _Examiner:
    async def request_admitted(self, admitted: Admitted) -> StreamFilter | None:
        if admitted.head.path == "/refused":
            raise RefusedError(Reason.PATH_NOT_ALLOWED, "not today")
        return _Upper() if admitted.head.path.startswith("/up") else None

    def response_came(self, admitted: Admitted, response: ResponseSeen) -> BodyFilter | None:
        if admitted.head.path == "/streamed":
            return _Upper()
        return _Whole() if admitted.head.path == "/held" else None


async def test_examiners_refuse_requests_and_change_both_bodies(
    h2: World, upstream: Upstream2, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def repeat(peer: UpstreamPeer, number: int, message: Message) -> None:
        await message.over.wait()
        if message.ended:
            body = bytes(message.body)
            peer.h2.send_headers(number, [(":status", "200"), ("content-length", str(len(body)))])
            await peer.send_body(number, body)

    upstream.serve = repeat
    monkeypatch.setattr(h2.inspector.services.admission, "_examiners", (_Examiner(),))

    async def post(path: str, body: bytes) -> Message:
        head = client.head(path, method="POST", fields=[("content-length", str(len(body)))])
        return await client.ask(head, body)

    refused = await post("/refused", b"x")
    assert (refused.status, b"not today" in refused.body) == ("403", True)
    assert (await post("/up/1", b"abc")).body == b"ABC!END"
    assert (await post("/streamed", b"abc")).body == b"ABC!END"
    held = await post("/held", b"abc")
    assert (bytes(held.body), held.get("content-length")) == (b"cbamore", "7")
    assert (await post("/held", b"x" * 101)).status == "503"
    assert (await post("/held", b"forbidden")).status == "503"
    assert (await post("/up/2", b"forbidden")).status == "503"
    assert (await post("/streamed", b"forbidden")).reset is not None
    assert b"forbidden" not in bytes(upstream.requests[-2].body)
    await until(lambda: h2.in_use == 1)
    assert [end.cause for end in h2.audit.ends].count("refused:test") == 4
