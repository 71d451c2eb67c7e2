"""The keys of an issuer: which of a set count, where they come from, and how they are kept fresh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from cloned_proxy.fleet.tokens.issuer import MISS_SECONDS, Issuer
from cloned_proxy.fleet.tokens.jwks import MAX_JWKS_BYTES, read_jwks
from cloned_proxy.fleet.tokens.jwks_source import JwksSource, SourceError, source_of
from cloned_proxy.fleet.tokens.token_form import Fault
from cloned_proxy.store.settings.issuer_settings import IssuerSettings
from tests.fleet.minting import (
    CLUSTER,
    EC,
    ED,
    RSA,
    HeldKeys,
    jwk,
    jwks,
    pod_claims,
    pod_header,
    sealed,
    settings,
    verifying,
)

POD = sealed(pod_header(), pod_claims(), RSA)


def private(key: Any, kid: str) -> dict[str, Any]:
    found: dict[str, Any] = RSAAlgorithm.to_jwk(key, as_dict=True)
    return found | {"kid": kid}


@pytest.mark.parametrize(
    ("entry", "algorithms"),
    [
        (jwk(RSA, "k"), ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        (jwk(RSA, "k", alg="PS256", use="sig", key_ops=["verify"]), ("PS256",)),
        (jwk(EC, "k"), ("ES256",)),
        (jwk(ec.generate_private_key(ec.SECP384R1()), "k"), ("ES384",)),
        (jwk(ED, "k"), ("EdDSA",)),
    ],
)
def test_what_a_key_may_verify(entry: dict[str, Any], algorithms: tuple[str, ...]) -> None:
    assert read_jwks(jwks(entry), "test")["k"].algorithms == algorithms


@pytest.mark.parametrize(
    "entry",
    [
        jwk(RSA, "k", use="enc"),
        jwk(RSA, "k", key_ops=["encrypt"]),
        jwk(RSA, "k", key_ops=5),
        jwk(RSA, "k", alg="HS256"),
        jwk(RSA, "k", alg="RSA-OAEP"),
        jwk(EC, "k", alg="RS256"),
        jwk(rsa.generate_private_key(65537, 1024), "k"),
        jwk(ec.generate_private_key(ec.SECP256K1()), "k"),
        OKPAlgorithm.to_jwk(Ed448PrivateKey.generate().public_key(), as_dict=True) | {"kid": "k"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "k"},
        private(RSA, "k"),
        jwk(RSA, ""),
        {name: value for name, value in jwk(RSA, "k").items() if name != "kid"},
        jwk(RSA, "k") | {"n": "!"},
        jwk(EC, "k") | {"x": "AA"},
        jwk(ED, "k") | {"x": "AA"},
        {"kid": "k"},
        "k",
    ],
    ids=[
        "for-encryption",
        "for-another-operation",
        "operations-of-no-list",
        "symmetric-algorithm",
        "algorithm-of-encryption",
        "algorithm-of-another-family",
        "short-rsa",
        "unknown-curve",
        "ed448",
        "symmetric-key",
        "private-key",
        "empty-kid",
        "no-kid",
        "bad-modulus",
        "bad-x",
        "short-x",
        "no-type",
        "no-object",
    ],
)
def test_a_key_that_verifies_nothing_is_left_out_and_the_others_count(entry: Any) -> None:
    assert set(read_jwks(jwks(entry, jwk(EC, "other")), "test")) == {"other"}


def test_of_two_keys_with_one_name_none_counts() -> None:
    assert read_jwks(jwks(jwk(RSA, "k"), jwk(EC, "k")), "test") == {}


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": [], "keys": []}', jwks(*[jwk(EC, "k")] * 257)]
)
def test_what_is_no_set(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  whatever it says
        read_jwks(text, "test")


# Rotation. ------------------------------------------------------------------------------------------------------------


async def test_a_new_key_counts_after_the_first_token_that_names_it() -> None:
    place = await verifying()
    issuer, source = place.issuers[CLUSTER], place.sources[CLUSTER]
    following = asyncio.create_task(issuer.follow())
    await until_reads(source, 2)
    source.text = jwks(jwk(EC, "k9"))
    token = sealed(pod_header(kid="k9", alg="ES256"), pod_claims(), EC)
    place.uptime += MISS_SECONDS
    assert place.fault_of(token) is Fault.KEY  # at once: nobody waits for an issuer
    await until_reads(source, 3)
    assert place.fault_of(token) is None
    assert place.fault_of(POD) is Fault.KEY
    following.cancel()


async def test_unknown_keys_have_them_loaded_once_in_a_while() -> None:
    place = await verifying()
    issuer, source = place.issuers[CLUSTER], place.sources[CLUSTER]
    following = asyncio.create_task(issuer.follow())
    await until_reads(source, 2)
    for number in range(50):
        assert place.fault_of(sealed(pod_header(kid=f"k{number + 10}"), pod_claims(), RSA)) is Fault.KEY
        await asyncio.sleep(0)
    assert source.reads == 2
    place.uptime += MISS_SECONDS
    for number in range(50):
        assert place.fault_of(sealed(pod_header(kid=f"k{number + 10}"), pod_claims(), RSA)) is Fault.KEY
        await asyncio.sleep(0)
    await until_reads(source, 3)
    await asyncio.sleep(0)
    assert source.reads == 3
    following.cancel()


async def until_reads(source: HeldKeys, count: int) -> None:
    async with asyncio.timeout(60):
        while source.reads < count:  # noqa: ASYNC110  it has no event of its own
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("failure", [SourceError("away"), b"not json", RuntimeError("a fault of ours")])
async def test_an_issuer_that_is_away_keeps_its_keys_for_a_day(failure: Exception | bytes) -> None:
    place = await verifying()
    issuer, source = place.issuers[CLUSTER], place.sources[CLUSTER]
    source.text = failure
    for hours in (0, 23):
        place.uptime += hours * 3600
        assert not await issuer.load()
        assert place.fault_of(POD) is None
    place.uptime += 3700
    assert not await issuer.load()
    assert place.fault_of(POD) is Fault.KEY
    source.text = jwks(jwk(RSA, "k1"))
    assert await issuer.load()
    assert place.fault_of(POD) is None


# Sources. -------------------------------------------------------------------------------------------------------------


def way(_: str) -> None:
    return None


async def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    source = source_of(settings(CLUSTER, jwks="jwks.json"), tmp_path, way)
    changes: list[int] = []
    issuer = Issuer(settings(CLUSTER), source, on_change=lambda: changes.append(1))
    assert not await issuer.load()
    file.write_bytes(jwks(jwk(RSA, "k1")))
    assert await issuer.load()
    assert await issuer.load()  # the same file
    assert set(issuer.keys) == {"k1"}
    (tmp_path / "new").write_bytes(jwks(jwk(RSA, "k2")))
    (tmp_path / "new").rename(file)
    assert await issuer.load()
    assert set(issuer.keys) == {"k2"}
    file.write_text("{")  # half-written: the last good ones stay
    assert not await issuer.load()
    assert not await issuer.load()
    assert set(issuer.keys) == {"k2"}
    assert len(changes) == 2


class JwksServer:
    """A real HTTPS server on loopback, with what it was asked."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.ca = directory / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        self.pages: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host = self.headers["Host"].partition(":")[0]
                server.asked.append((f"{host}{self.path}", self.headers["Authorization"]))
                status, body = server.pages.get(self.path, (404, b""))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", body.decode())
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  http.server's own name
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # a caller that hangs up is no event
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.port = self.http.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def source(self, **more: Any) -> JwksSource:
        found = settings(self.url, **{"jwks": f"{self.url}/keys", "ca_file": str(self.ca)} | more)
        return source_of(found, self.ca.parent, way)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[JwksServer]:
    made = JwksServer(tmp_path)
    made.pages["/keys"] = 200, jwks(jwk(RSA, "k1"))
    yield made
    made.http.shutdown()
    made.http.server_close()


async def test_keys_by_https_with_the_clusters_ca_and_a_credential(server: JwksServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc.def\n")
    assert await server.source(credentials_file="token").read() == jwks(jwk(RSA, "k1"))
    assert server.asked == [("127.0.0.1/keys", "Bearer abc.def")]


async def test_discovery_leads_to_the_keys_and_takes_the_credential_nowhere_else(
    server: JwksServer, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    elsewhere = f"https://localhost:{server.port}/keys"
    document = {"issuer": server.url, "jwks_uri": elsewhere}
    server.pages["/.well-known/openid-configuration"] = 200, json.dumps(document).encode()
    assert await server.source(jwks=None, credentials_file="token").read() == jwks(jwk(RSA, "k1"))
    assert server.asked == [
        ("127.0.0.1/.well-known/openid-configuration", "Bearer secret"),
        ("localhost/keys", None),
    ]


@pytest.mark.parametrize(
    ("page", "status", "body", "said"),
    [
        ("/keys", 500, b"", "answered 500"),
        ("/keys", 302, b"/other", "answered 302"),
        ("/keys", 200, b" " * (MAX_JWKS_BYTES + 1), "more than"),
        (
            "/.well-known/openid-configuration",
            200,
            b'{"issuer": "https://evil", "jwks_uri": "https://evil"}',
            "another",
        ),
        ("/.well-known/openid-configuration", 200, b'{"issuer": "%s", "jwks_uri": "http://127.0.0.1/"}', "https://"),
        ("/.well-known/openid-configuration", 200, b'{"issuer": "%s"}', "jwks_uri"),
    ],
)
async def test_an_answer_that_is_not_taken(server: JwksServer, page: str, status: int, body: bytes, said: str) -> None:
    server.pages[page] = status, body.replace(b"%s", server.url.encode())
    server.pages["/other"] = 200, jwks(jwk(RSA, "k1"))
    with pytest.raises(SourceError, match=said):
        await server.source(jwks=f"{server.url}/keys" if page == "/keys" else None).read()


async def test_a_server_with_another_ca_is_not_believed(server: JwksServer, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for more in ({"ca_file": None}, {"ca_file": "other.pem"}):
        with pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED"):
            await server.source(**more).read()
    assert server.asked == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"jwks": "http://keys.example"}, "https://"),
        ({"jwks": "https://user:pw@keys.example"}, "password"),
        ({"jwks": ""}, "a file"),
        ({"jwks": None, "issuer": "kubernetes"}, "https://"),
        ({"map": {}}, "at least 1"),
        ({"map": {"s": "a b"}}, "not a tool id"),
        ({"map": {"s": "global"}}, "not a tool id"),
        ({"ca_file": "ca.pem"}, "is a file"),
        ({"audiences": []}, "Extra"),
    ],
)
def test_settings_that_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        IssuerSettings(**{"issuer": CLUSTER, "audience": "a", "jwks": "file", "map": {"s": "t@v1"}} | more)
