"""The way to a proxy in front by TLS, and how it breaks."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from cloned_proxy.proxy.upstream.chained import front as module
from cloned_proxy.proxy.upstream.chained import tls
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.upstream_settings import UpstreamSettings
from cloned_proxy.store.settings.upstream_tls import verifying_context
from tests.proxy.support import LOOPBACK, World, hello, until, world
from tests.proxy.upstream.chained.asking import AUTH, refused, reset, rule
from tests.proxy.upstream.chained.fronts import BASIC, TARGET, front, vault

# TLS to the proxy itself.


def _served(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def _trusting(monkeypatch: pytest.MonkeyPatch, authority: trustme.CA) -> None:
    def context(*_: object) -> ssl.SSLContext:
        made = ssl.create_default_context()
        authority.configure_trust(made)
        return made

    monkeypatch.setattr(module, "verifying_context", context)


async def _one_way(w: World) -> None:
    w.resolver.table["localhost"] = (LOOPBACK,)


async def test_the_way_to_the_front_is_tls_where_its_url_says_so(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trusting(monkeypatch, authority)
    monkeypatch.setattr(tls, "_AFTER_FIN", 0.05)
    async with (
        front(tls=_served(authority, "localhost")) as ahead,
        world(rule(), front=ahead.settings(auth=AUTH), secrets=vault(), addresses=(TARGET,)) as w,
    ):
        await _one_way(w)
        reader, writer = await w.tunnel(443)
        await reader.readexactly(len(hello()))
        bulk = b"b" * 3_000_000
        sending = asyncio.ensure_future(_send(writer, bulk))
        assert await reader.readexactly(len(bulk)) == bulk
        await sending
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await w.settled()
        await until(lambda: ahead.ended == 1)
    assert BASIC.encode() in ahead.heads[0]


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


@pytest.mark.parametrize("names", [("proxy.corp.example",), None])
async def test_a_front_that_cannot_be_verified_is_told_nothing(
    names: tuple[str, ...] | None, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trusting(monkeypatch, authority)
    served = _served(authority, *names) if names is not None else _served(trustme.CA(), "localhost")
    async with (
        front(tls=served) as ahead,
        world(rule(), front=ahead.settings(auth=AUTH), secrets=vault(), addresses=(TARGET,)) as w,
    ):
        await _one_way(w)
        told = await refused(w, ahead)
    assert (told["status"], told["phase"], ahead.heads) == (502, "upstream_proxy", [])
    assert w.troubles == ["tls"]


async def test_a_front_without_a_half_close_is_left_when_it_falls_silent(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trusting(monkeypatch, authority)
    monkeypatch.setattr(tls, "_AFTER_FIN", 0.05)

    async def deaf(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass

    async with (
        front(tls=_served(authority, "localhost"), behind=deaf) as ahead,
        world(rule(raw_tcp=True), front=ahead.settings(), addresses=(TARGET,)) as w,
    ):
        await _one_way(w)
        _, writer = await w.tunnel(443, first=b"")
        writer.write(b"all that there is")
        writer.write_eof()
        await until(lambda: ahead.ended == 1)
        writer.close()
        await w.settled()


async def test_a_front_whose_connection_breaks_resets_the_client(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trusting(monkeypatch, authority)

    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        reset(writer)

    async with (
        front(tls=_served(authority, "localhost"), behind=breaks) as ahead,
        world(rule(raw_tcp=True), front=ahead.settings(), addresses=(TARGET,)) as w,
    ):
        await _one_way(w)
        reader, writer = await w.tunnel(443, first=b"")
        writer.write(b"more")
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        await w.settled()
        assert ahead.heads


def test_a_ca_file_that_is_none_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    settings = UpstreamSettings(proxy="https://proxy.example.com:3128", ca_files=["ca.pem"])
    with pytest.raises(StoreError, match=r"upstream\.ca_files: .*ca\.pem: no PEM certificate"):
        verifying_context(settings, tmp_path)
