"""However a request ends, no byte of it is read as another one, and the next one is served or the connection closed.

Rows: every way to end, how the body is framed, how much of it has been sent by then. Then random sequences.
"""

from __future__ import annotations

import random
import socket
from http import HTTPStatus
from pathlib import Path
from typing import cast

import pytest

from cloned_proxy.policy.callers.caller import CallerSource, Principal
from cloned_proxy.policy.model.model import Limits
from cloned_proxy.proxy.enforce import answers
from cloned_proxy.proxy.enforce.answers import Answer
from cloned_proxy.proxy.own.requests_api import RequestsApi
from cloned_proxy.proxy.plain.client import PlainClient
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.telemetry.events import DecisionEvent
from tests.proxy.plain.support import read_message
from tests.proxy.random_sequences import check
from tests.proxy.scenes import inspected_scene, plain_scene
from tests.proxy.sequences import (
    CHUNKED,
    ENDINGS,
    EXPECT,
    FRAMINGS,
    HEAD_ONLY,
    LIMITED,
    OK,
    PART,
    SIZED,
    UPSTREAM_ENDINGS,
    WHENS,
    WHOLE,
    Asked,
    Ending,
    Ports,
    Scene,
    SequenceError,
    Step,
    encode,
    play,
)
from tests.proxy.support import HOST, allow, gone, upstream, world
from tests.proxy.trouble import Trouble

SEQUENCES = 150


async def faults(scene: Scene, ending: Ending) -> list[str]:
    """What goes wrong behind this ending, in every framing and with all, a part or nothing of the body sent."""
    found = []
    for framing in FRAMINGS:
        for when in WHENS if not ending.whole_only else (WHOLE,):
            first, second = Asked(0, ending, framing, when), Asked(1, OK)
            for name, steps in ways(scene, first, second).items():
                try:
                    await play(scene, (first, second), steps)
                except SequenceError as error:
                    found.append(f"{framing}, {when} sent, {name}: {error}")
    return found


def ways(scene: Scene, first: Asked, second: Asked) -> dict[str, list[Step]]:
    """How the client goes on behind the first answer."""
    rng = random.Random(3)
    head, body = encode(first, scene.ports, rng)
    following = b"".join(encode(second, scene.ports, rng))
    sent = {HEAD_ONLY: 0, PART: len(body) // 2, WHOLE: len(body)}[first.when]
    begin, rest = head + body[:sent], body[sent:]
    made: dict[str, list[Step]] = {"then the rest": [begin, 1, rest + following]}
    if not rest:
        made["pipelined"] = [head + body + following]
    elif not scene.ports.tunnelled:
        made["then FIN"] = [begin, 1, "fin"]
        made["then a reset"] = [begin, 1, "reset"]
    # In an opened tunnel the proxy itself says 100 first: then the body is what comes, and nothing else.
    if first.framing == EXPECT and first.when == HEAD_ONLY and not scene.ports.tunnelled:
        made["then another in its place"] = [begin, 1, following]
    return made


@pytest.mark.parametrize("name", ENDINGS)
async def test_a_request_that_ends_early_leaves_nothing_of_itself_behind(name: str) -> None:
    async with plain_scene() as scene:
        assert await faults(scene, ENDINGS[name]) == []


@pytest.mark.parametrize("name", [*(e.name for e in UPSTREAM_ENDINGS), "refused", "bad-host"])
async def test_nor_does_one_in_an_opened_tunnel(name: str, tmp_path: Path) -> None:
    async with inspected_scene(tmp_path) as scene:
        assert await faults(scene, ENDINGS[name]) == []


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_nor_does_one_over_its_limit(framing: str) -> None:
    async with plain_scene(limits=Limits(requests_per_minute=1)) as scene:
        asked = (Asked(0, OK), Asked(1, LIMITED, framing), Asked(2, LIMITED))
        whole = [b"".join(encode(one, scene.ports, random.Random(3))) for one in asked]
        await play(scene, asked, [whole[0], 1, whole[1], 2, whole[2]])


class OwnApi:
    """Answers at `cloned.internal` from the head alone, or when it has read the whole request."""

    def refusal(self, _tool: str, _method: str, path: str, _length: int | None) -> Answer | None:
        return answers.own(HTTPStatus.NOT_FOUND, {}) if path == "/from-the-head" else None

    async def answer(self, _caller: Principal, _method: str, _path: str, _body: bytes) -> Answer:
        return answers.own(HTTPStatus.BAD_REQUEST, {})


@pytest.mark.parametrize("framing", ["Content-Length: 420", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(("path", "sent"), [("/from-the-head", 0), ("/from-the-head", 200), ("/whole", None)])
async def test_nor_does_one_to_the_proxy_itself(path: str, sent: int | None, framing: str) -> None:
    trouble, tool = Trouble(), Principal("demo@v1", "run", CallerSource.LISTENER)
    async with upstream(trouble) as server:
        api = cast(RequestsApi, OwnApi())
        async with world(allow(HOST, server.port), principal=tool, requests=api) as w:
            ports = Ports(HOST, server.port)
            head = f"POST http://cloned.internal{path} HTTP/1.1\r\nHost: cloned.internal\r\n{framing}\r\n\r\n".encode()
            body = encode(Asked(0, OK, SIZED if "420" in framing else CHUNKED), ports, random.Random(3))[1]
            following = b"".join(encode(Asked(1, OK), ports, random.Random(3)))
            reader, writer = await w.connect()
            writer.write(head + body[:sent])
            answer = await read_message(reader)
            writer.write((b"" if sent is None else body[sent:]) + following)
            if not answer.all("connection"):
                assert (await read_message(reader)).status == 200
            else:
                assert await reader.read() == b""
            writer.close()
            await w.settled()
            # Only a body whose end nobody has to look for is thrown away for the sake of the connection.
            kept = sent is None or framing.startswith("Content-Length")
            assert bool(answer.all("connection")) is not kept
            decided = [event.path for event in w.audit.events if isinstance(event, DecisionEvent)]
            assert decided == (["/ok/whole/1"] if kept else [])
            assert [arrival.line for arrival in trouble.seen] == (["POST /ok/whole/1 HTTP/1.1"] if kept else [])


@pytest.mark.parametrize("name", ["reset", "silent", "cut", "echo"])
async def test_control_a_body_that_is_thrown_away_twice_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PlainClient.answer

    def answer(self: PlainClient, head: object, *rest: object, **more: object) -> None:
        self.intake.begin(head)  # type: ignore[arg-type]  # as if nothing of the body had been read
        original(self, head, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(PlainClient, "answer", answer)
    async with plain_scene() as scene:
        assert any("/evil/" in fault for fault in await faults(scene, ENDINGS[name]))


async def test_random_sequences(tmp_path: Path) -> None:
    async with plain_scene() as plain, inspected_scene(tmp_path) as inspected:
        for number in range(SEQUENCES):
            await check(plain if number % 8 else inspected, random.Random().getrandbits(32))


async def test_an_upstream_that_is_gone_when_it_is_reached_is_502_in_an_opened_tunnel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dial(*_: object, **__: object) -> socket.socket:
        return gone()

    async with inspected_scene(tmp_path) as scene:
        monkeypatch.setattr(Ways, "connect", dial)
        asked = Asked(0, ENDINGS["reset"])
        await play(scene, (asked,), [b"".join(encode(asked, scene.ports, random.Random(3)))])
