from __future__ import annotations

import json

from tests.proxy.inspection.support import World


async def test_an_allowed_request_reaches_the_upstream_in_origin_form(world: World) -> None:
    answer = await world.talk(world.get("/a?b=1", "Connection: close\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok")
    assert world.upstream.text.startswith(f"GET /a?b=1 HTTP/1.1\r\nhost: {world.authority}\r\n")
    assert world.audit.reasons == ["allowed"]
    assert [end.cause for end in world.audit.ends] == ["closed"]


async def test_a_denied_host_is_told_so_and_nothing_is_resolved_or_dialled(world: World) -> None:
    answer = await world.talk(b"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["reason"] == "host_not_allowed"
    assert world.resolver.asked == []
    assert not world.upstream.connections
