"""A PAC file says which proxy leads where; what it says besides HTTP proxies is not taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloned_proxy.policy.terms.rule import Host, HostPattern, PatternKind
from cloned_proxy.proxy.upstream.chained import pac
from cloned_proxy.proxy.upstream.chained.failure import UpstreamProxyError
from cloned_proxy.proxy.upstream.chained.pac import PacFile, places_in
from cloned_proxy.proxy.upstream.chained.place import Place, places_named_in
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.upstream_settings import UpstreamSettings
from tests.proxy.plain.support import answering, client, read_message, request
from tests.proxy.support import HOST, LOOPBACK, World, allow, connect_head, hello, upstream, world
from tests.proxy.upstream.chained.fronts import TARGET, front

HERE = Host("127.0.0.1", LOOPBACK)


def written(directory: Path, body: str) -> Path:
    path = directory / "proxy.pac"
    path.write_text(f"function FindProxyForURL(url, host) {{ {body} }}")
    return path


@asynccontextmanager
async def behind(directory: Path, body: str) -> AsyncIterator[World]:
    settings = UpstreamSettings(pac=str(written(directory, body)))
    async with world(allow(HOST, 443), allow(HOST, 80), front=settings, addresses=(TARGET,)) as w:
        yield w


@pytest.mark.parametrize(
    ("answer", "places"),
    [
        ("PROXY 127.0.0.1:3128", [Place(HERE, 3128, secure=False)]),
        ("http 127.0.0.1:3128;DIRECT", [Place(HERE, 3128, secure=False)]),
        ("SOCKS b:1; HTTPS a.example:443", [Place(Host("a.example"), 443, secure=True)]),
        ("DIRECT", []), ("SOCKS 127.0.0.1:1080", []), ("SOCKS5 a.example:1080; DIRECT", []), ("", []),
        ("PROXY", []), ("PROXY a.example", []), ("PROXY a b:1", []), ("PROXY 0x7f.1:80", []), ("undefined", []),
    ],
)  # fmt: skip
def test_only_http_proxies_are_read_from_an_answer(answer: str, places: list[Place]) -> None:
    assert list(places_in(answer)) == places


async def test_the_file_is_asked_for_each_destination_once(tmp_path: Path) -> None:
    known = 'dnsDomainIs(host, ".example.com") && url == "https://api.example.com/"'
    body = f'return {known} ? "PROXY 127.0.0.1:1" : "DIRECT";'
    program = PacFile(written(tmp_path, body))
    try:
        name = Host("api.example.com")
        assert await program.places(name, 443, tunnel=True) == (Place(HERE, 1, secure=False),)
        for port, tunnel in ((8443, True), (80, False)):
            with pytest.raises(UpstreamProxyError):
                await program.places(name, port, tunnel=tunnel)
    finally:
        program.close()


async def test_a_tunnel_takes_the_first_proxy_that_answers(tmp_path: Path) -> None:
    async with front() as ahead:
        body = f'return "DIRECT; SOCKS 127.0.0.1:1; PROXY 127.0.0.1:1; PROXY 127.0.0.1:{ahead.port}";'
        async with behind(tmp_path, body) as w:
            reader, writer = await w.tunnel(443)
            assert len(await reader.readexactly(len(hello())))
            writer.close()
    assert [head.split()[1] for head in ahead.heads] == [b"93.184.216.10:443"]


async def test_plain_http_asks_it_too(tmp_path: Path) -> None:
    async with upstream(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as server:
        body = f'return url == "http://api.example.com/" ? "PROXY 127.0.0.1:{server.port}" : "DIRECT";'
        async with behind(tmp_path, body) as w, client(w) as (reader, writer):
            writer.write(request(80, "/secret/path?of=mine"))
            assert (await read_message(reader)).body == b"ok"
    assert server.connections == 1


@pytest.mark.parametrize(
    "body", ['return "DIRECT";', 'return "SOCKS5 127.0.0.1:1";', "return null;", "throw 1;", "return [host];"]
)
async def test_what_cannot_be_chained_is_refused_and_never_sent_directly(body: str, tmp_path: Path) -> None:
    # The interpreter tries the file with `0.0.0.0` when it is loaded: there it must not fail.
    guarded = f'if (host == "0.0.0.0") return "DIRECT"; {body}'
    async with behind(tmp_path, guarded) as w:
        reply = await w.ask(connect_head(443) + hello())
        assert (reply.status, reply.json["phase"], w.troubles) == (502, "upstream_proxy", ["no_way"])
        assert w.metrics.connects == 0


def test_a_file_that_is_none_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "proxy.pac").write_text("function (")
    with pytest.raises(StoreError, match=r"proxy\.pac is no PAC file"):
        PacFile(tmp_path / "proxy.pac")
    with pytest.raises(StoreError, match=r"missing\.pac"):
        PacFile(tmp_path / "missing.pac")


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: str) -> None:
        raise ModuleNotFoundError(name="pypac")

    monkeypatch.setattr(pac, "_load", load)
    with pytest.raises(StoreError, match=r"pip install 'cloned-proxy\[pac\]'"):
        PacFile(written(tmp_path, 'return "DIRECT";'))


@pytest.mark.parametrize(
    "text",
    [
        'return "PROXY proxy.corp.example:3128; DIRECT"',
        "var p = 'proxy.corp.example:3128'",
        '"https Proxy.corp.example:3128"',
        'return "SOCKS a:1; PROXY  proxy.corp.example:3128"',
    ],
)
def test_the_proxies_that_a_file_names_are_known_before_it_is_asked(text: str) -> None:
    assert [(place.host.text, place.port) for place in places_named_in(text)] == [("proxy.corp.example", 3128)]


PROXY = "proxy.corp.example"
COVERED = HostPattern(PatternKind.ONE_LABEL, "corp.example")


@pytest.mark.parametrize(
    ("body", "host", "no_proxy"),
    [
        (f'return "PROXY {PROXY}:PORT";', PROXY, [PROXY]),
        (f'return "PROXY {PROXY}:PORT";', PROXY, []),
        ('return "PROXY 127.0.0.1:PORT";', PROXY, ["127.0.0.0/8"]),
        ('return "PROXY 127.0.0.1:PORT";', "www.corp.example", []),
        ('return ["PROXY 127", "0", "0", "1:PORT"].join(".");', "www.corp.example", []),
        ('return url == "https://cloned-proxy.invalid/" ? "DIRECT" : "PROXY 127" + ".0.0.1:PORT";', PROXY, []),
    ],
)
async def test_a_proxy_that_no_answer_has_named_yet_is_no_destination(
    body: str, host: str, no_proxy: list[str], tmp_path: Path
) -> None:
    async with front() as ahead:
        path = written(tmp_path, body.replace("PORT", str(ahead.port)))
        settings = UpstreamSettings.model_validate({"pac": str(path), "no_proxy": no_proxy})
        async with world(allow(host, ahead.port, pattern=COVERED, raw_tcp=True), front=settings) as w:
            w.resolver.table[host] = (LOOPBACK,)
            reply = await w.ask(connect_head(ahead.port, host))
            assert (reply.status, reply.json["reason"]) == (403, "address_not_allowed")
        assert (ahead.heads, ahead.ended) == ([], 0)


async def test_a_proxy_that_is_named_for_itself_alone_is_not_asked_for_itself(tmp_path: Path) -> None:
    """Nobody could know of it before: it is refused on the way."""
    body = f'return host == "{PROXY}" ? ["PROXY proxy.corp", "example:PORT"].join(".") : "DIRECT";'
    async with front() as ahead:
        path = written(tmp_path, body.replace("PORT", str(ahead.port)))
        covered = allow(PROXY, ahead.port, pattern=COVERED)
        async with world(covered, front=UpstreamSettings(pac=str(path)), addresses=(TARGET,)) as w:
            w.resolver.table[PROXY] = (TARGET, LOOPBACK)
            reply = await w.ask(connect_head(ahead.port, PROXY) + hello(PROXY))
            assert (reply.status, w.troubles) == (502, ["no_way"])
        assert (ahead.heads, ahead.ended) == ([], 0)
