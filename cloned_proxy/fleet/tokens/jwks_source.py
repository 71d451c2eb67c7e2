"""Where the keys of an issuer come from: a file of this machine, or a URL. Nothing here is waited for by a request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol

import httpx

from cloned_proxy.fleet.tokens.jwks import MAX_JWKS_BYTES
from cloned_proxy.policy.terms.strict_json import read_json
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.settings.issuer_settings import IssuerSettings, check_https, is_url

_TIMEOUT: Final = 10.0
_MAX_CA_BYTES: Final = 1_048_576
_MAX_CREDENTIAL: Final = 16_384
_DISCOVERY: Final = "/.well-known/openid-configuration"

type ProxyFor = Callable[[str], httpx.Proxy | None]
"""The proxy in front that leads to a URL. Raises StoreError."""


class SourceError(Exception):
    """The keys cannot be had now; the message says why and quotes no secret."""


class JwksSource(Protocol):
    """One place with the keys of an issuer."""

    @property
    def name(self) -> str:
        """Path or URL."""

    @property
    def seconds(self) -> float:
        """Between two looks."""

    async def read(self) -> bytes:
        """The document. Raises SourceError."""


class JwksFile:
    """A file, which may be replaced at any time."""

    seconds: Final = 2.0

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self.name = str(path)

    async def read(self) -> bytes:
        """As of a `JwksSource`."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> bytes:
        try:
            return read_regular_file(self._path, limit=MAX_JWKS_BYTES, what="JWK set")
        except StoreError as error:
            raise SourceError(str(error)) from error


class JwksUrl:
    """`https://`, without redirects: found by discovery (OpenID Connect Discovery 1.0, section 4) or named itself."""

    seconds: Final = 300.0

    def __init__(self, settings: IssuerSettings, base: Path, proxy_for: ProxyFor) -> None:
        self._settings: Final = settings
        self._base: Final = base
        self._proxy_for: Final = proxy_for
        self.name = settings.jwks or settings.issuer.rstrip("/") + _DISCOVERY

    async def read(self) -> bytes:
        """As of a `JwksSource`."""
        try:
            context = await asyncio.to_thread(self._context)
            credential = await asyncio.to_thread(self._credential)
            text = await self._get(self.name, context, credential)
            if self._settings.jwks is not None:
                return text
            place = self._place_in(text)
            # The credential goes where this machine's operator has sent it, and not where a document says.
            near = httpx.URL(place).netloc == httpx.URL(self.name).netloc
            return await self._get(place, context, credential if near else None)
        except (httpx.HTTPError, httpx.InvalidURL, StoreError, OSError, ValueError) as error:
            raise SourceError(f"{self.name}: {str(error) or type(error).__name__}") from error

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._settings.ca_file is not None:
            path = self._base / Path(self._settings.ca_file).expanduser()
            pem = read_regular_file(path, limit=_MAX_CA_BYTES, what="CA file").decode("ascii")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # that CA and no other: it is a cluster's own
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_verify_locations(cadata=pem)
        return context

    def _credential(self) -> str | None:
        if self._settings.credentials_file is None:
            return None
        path = self._base / Path(self._settings.credentials_file).expanduser()
        text = read_regular_file(path, limit=_MAX_CREDENTIAL, what="credential").decode("ascii").strip()
        if not text.isprintable() or " " in text:
            raise ValueError(f"{path}: this is not a bearer token; it has more than one word")
        return text

    async def _get(self, url: str, context: ssl.SSLContext, credential: str | None) -> bytes:
        # No compression is asked for: a small answer could become any number of bytes before they are counted.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if credential is not None:
            headers["Authorization"] = f"Bearer {credential}"
        async with (
            asyncio.timeout(_TIMEOUT),
            httpx.AsyncClient(verify=context, trust_env=False, timeout=_TIMEOUT, proxy=self._proxy_for(url)) as client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            if answer.status_code != HTTPStatus.OK:
                raise ValueError(f"it answered {answer.status_code}")
            text = b""
            async for part in answer.aiter_raw():
                text += part
                if len(text) > MAX_JWKS_BYTES:
                    raise ValueError(f"it answered more than {MAX_JWKS_BYTES} bytes")
            return text

    def _place_in(self, text: bytes) -> str:
        document = read_json(text)
        if not isinstance(document, dict) or document.get("issuer") != self._settings.issuer:
            raise ValueError("the document there is of another issuer")
        place = document.get("jwks_uri")
        if not isinstance(place, str):
            raise ValueError("the document there has no `jwks_uri`")  # noqa: TRY004  a fault of the document
        check_https(place)
        return place


def source_of(settings: IssuerSettings, base: Path, proxy_for: ProxyFor) -> JwksSource:
    """`base` is where relative paths begin."""
    if settings.jwks is not None and not is_url(settings.jwks):
        return JwksFile(base / Path(settings.jwks).expanduser())
    return JwksUrl(settings, base, proxy_for)
