"""`upstream:` as people write it, and the way of the operator's own parts through it."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import httpx
import pytest

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.settings.config import ConfigError, load_config
from cloned_proxy.store.settings.upstream_client import proxy_for
from cloned_proxy.store.settings.upstream_settings import UpstreamSettings

NO_FILES = Path("/nowhere")


def settings(text: str, directory: Path) -> UpstreamSettings:
    (directory / "config.yaml").write_text(f"upstream: {text}\n")
    return load_config(directory / "config.yaml").upstream


def test_nothing_is_in_front_by_default(tmp_path: Path) -> None:
    assert not load_config(tmp_path / "config.yaml").upstream.wanted


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{proxy: 'http://user:s3cret@proxy.example:3128'}", "a password does not belong into this file"),
        ("{proxy: 'socks5://proxy.example:1080'}", "SOCKS proxy is not spoken to"),
        ("{proxy: 'proxy.example:3128'}", "not the URL of an HTTP proxy"),
        ("{proxy: 'http://proxy.example'}", "not the URL of an HTTP proxy"),
        ("{proxy: 'http://proxy.example:3128/path'}", "not the URL of an HTTP proxy"),
        ("{proxy: 'http://proxy.example:0'}", "not the URL of an HTTP proxy"),
        ("{proxy: 'http://0x7f.1:3128'}", "ends in a number"),
        ("{no_proxy: [a.example]}", "`proxy` is missing"),
        ("{proxy: 'http://a.example:1', pac: x.pac}", "two answers to one question"),
        ("{proxy: 'http://a.example:1', ca_files: [x.pem]}", "reached by https"),
        ("{proxy: 'http://a.example:1', auth: 'corp-user:s3cret'}", "kept in the vault"),
        ("{proxy: 'http://a.example:1', auth: 'Basic ${vault:a}'}", "kept in the vault"),
        ("{proxy: 'http://a.example:1', no_proxy: ['*']}", "without `upstream` all is direct"),
        ("{proxy: 'http://a.example:1', resolve: there}", "here"),
        ("{proxy: 'http://a.example:1', no_proxies: []}", "did you mean `no_proxy`"),
    ],
)
def test_what_is_wrong_is_told_without_quoting_a_secret(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(text, tmp_path)
    assert problem in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:4318", "http://localhost:4318", "http://a.corp.example", "http://10.1.2.3:4318"]
)
def test_exports_to_what_is_exempt_go_directly(url: str, tmp_path: Path) -> None:
    made = settings("{proxy: 'http://a.example:1', no_proxy: [.corp.example, 10.0.0.0/8]}", tmp_path)
    assert proxy_for(url, made, str, NO_FILES) is None


def test_other_exports_go_through_it_with_its_credential(tmp_path: Path) -> None:
    heads: list[bytes] = []

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            heads.append(connection.recv(65_536))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=serve)
        answering.start()
        place = f"http://127.0.0.1:{listening.getsockname()[1]}"
        made = settings(f"{{proxy: '{place}', auth: '${{vault:upstream.proxy}}'}}", tmp_path)
        proxy = proxy_for(
            "http://collector.example:4318", made, {"upstream.proxy": "me:pass:word"}.__getitem__, NO_FILES
        )
        with httpx.Client(proxy=proxy, trust_env=False) as client:
            assert client.post("http://collector.example:4318/v1/logs").status_code == 200
        answering.join()
    assert heads[0].startswith(b"POST http://collector.example:4318/v1/logs HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic bWU6cGFzczp3b3Jk" in heads[0]


@pytest.mark.parametrize(
    ("text", "value", "problem"),
    [
        ("{proxy: 'http://a.example:1', auth: '${vault:upstream.proxy}'}", "no-colon", "not user:password"),
        ("{pac: proxy.pac}", "me:word", "no PAC file is asked"),
    ],
)
def test_exports_that_cannot_be_chained_are_refused(text: str, value: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=problem) as caught:
        proxy_for("https://collector.example", settings(text, tmp_path), lambda _: value, NO_FILES)
    assert value not in str(caught.value)
