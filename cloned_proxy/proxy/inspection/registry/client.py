"""The proxy's own request for the metadata of a package: HTTP/1.1 over verified TLS to an address of a grant."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Final

from cloned_proxy.proxy.grants.grant import Grant
from cloned_proxy.proxy.inspection.examining.held import HeldBody
from cloned_proxy.proxy.inspection.registry.encoding import MAX_METADATA, too_large
from cloned_proxy.proxy.inspection.registry.filtered import AbsentError, MetadataError
from cloned_proxy.proxy.secrets.injection import Injection
from cloned_proxy.proxy.upstream.dial import DialError, ExhaustedError
from cloned_proxy.proxy.upstream.ways import Ways
from cloned_proxy.proxy.wire.body import BodyError, Buffer, OversizeError, UnsizedBody, take_head
from cloned_proxy.proxy.wire.fields import request_fields
from cloned_proxy.proxy.wire.head import Head
from cloned_proxy.proxy.wire.response import FIRST_FINAL, ResponseError, ResponseHead, parse_response
from cloned_proxy.store.settings.config import ProxySettings

_READ: Final = 262_144
_HTTPS_PORT: Final = 443
_OK: Final = 200
_ABSENT: Final = frozenset({404, 410})
_TOLD: Final = frozenset({"user-agent", "authorization"})
"""Fields of the request that needs the metadata which go along. `authorization` goes to no other host than its own."""


class MetadataClient:
    """One for each process."""

    def __init__(self, settings: ProxySettings, ways: Ways, *, extra_ca: Path | None = None) -> None:
        """`extra_ca`: a PEM file of certificates that registries may chain to, beside the system's."""
        self._settings = settings
        self._ways = ways
        self._extra_ca = extra_ca
        self._tls: ssl.SSLContext | None = None

    async def fetch(
        self, grant: Grant, asking: Head, injection: Injection | None, held: HeldBody
    ) -> tuple[bytes, list[str]]:
        """The body, with its content codings, that answers `asking` (a `metadata_request`). Raises MetadataError."""
        host = grant.decision.host
        if host is None:
            raise MetadataError("the registry has no name")
        fields = request_fields(asking, host, default_port=_HTTPS_PORT, injection=injection)
        lines = [b"GET %b HTTP/1.1" % asking.path.encode("ascii"), *(b"%b: %b" % field for field in fields)]
        request = b"\r\n".join((*lines, b"connection: close", b"", b""))
        try:
            async with asyncio.timeout(self._settings.connect_timeout + self._settings.response_timeout) as limit:
                reader, writer = await self._connect(grant, host.text)
                try:
                    writer.write(request)
                    grant.charge.up(len(request))
                    head, body = await self._response(reader, held, limit)
                    grant.charge.down(len(body))
                finally:
                    writer.transport.abort()
        except (OSError, DialError, ExhaustedError, TimeoutError, ssl.SSLError) as error:
            raise MetadataError("the registry could not be asked about it") from error
        except (ResponseError, OversizeError, BodyError) as error:
            raise MetadataError("the registry answered in a way that is not HTTP/1.1") from error
        if head.status in _ABSENT:
            raise AbsentError("the registry has no such package")
        if head.status != _OK:
            raise MetadataError(f"the registry answered {head.status} when it was asked about it")
        return body, _values(head, b"content-encoding")

    async def _connect(self, grant: Grant, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            if self._extra_ca is not None:
                self._tls.load_verify_locations(str(self._extra_ca))
            self._tls.set_alpn_protocols(["http/1.1"])
        reader, writer = await asyncio.open_connection(sock=await self._ways.connect(grant))
        try:
            await writer.start_tls(self._tls, server_hostname=name)
        except BaseException:
            writer.transport.abort()  # the socket is the loop's by now
            raise
        return reader, writer

    async def _response(
        self, reader: asyncio.StreamReader, held: HeldBody, limit: asyncio.Timeout
    ) -> tuple[ResponseHead, bytes]:
        buffer, settings = Buffer(), self._settings
        while True:
            while (data := take_head(buffer, settings.max_head_bytes)) is None:
                buffer += await _more(reader)
            head = parse_response(data, max_fields=settings.max_head_fields)
            if head.status >= FIRST_FINAL:
                break
        framing = head.body("GET")
        pieces: list[bytes] = []
        size = 0
        while framing is not None and (piece := framing.read(buffer)) is not None:
            size += len(piece)
            if size > MAX_METADATA:
                raise too_large()
            pieces.append(piece)
            held.note(size)
            if not piece:
                await _room(held, limit)
                more = await reader.read(_READ)
                if not more and isinstance(framing, UnsizedBody):
                    break  # what was cut off is no whole JSON
                if not more:
                    raise BodyError("the connection was closed inside a response")
                buffer += more
        return head, b"".join(pieces)


def metadata_request(head: Head, host: str, port: int, path: str, accept: str, *, same_host: bool) -> Head:
    """The request for metadata that stands behind the request `head` for a file."""
    told = _TOLD if same_host else _TOLD - {"authorization"}
    fields = [(name, value) for name, value in head.fields if name in told]
    fields += [("accept", accept), ("accept-encoding", "gzip")]
    return replace(
        head, method="GET", host=host, port=port, path=path, fields=tuple(fields), content_length=None, chunked=False
    )


async def _room(held: HeldBody, limit: asyncio.Timeout) -> None:
    """Waits until more may be held. The registry is not to blame for that time."""
    if held.may_grow:
        return
    clock = asyncio.get_running_loop().time
    left = (limit.when() or clock()) - clock()
    limit.reschedule(None)
    await held.room()
    limit.reschedule(clock() + left)


async def _more(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(_READ)
    if not data:
        raise BodyError("the connection was closed before a response came")
    return data


def _values(head: ResponseHead, name: bytes) -> list[str]:
    lines = (line.partition(b":") for line in head.lines)
    return [value.strip().decode("latin-1") for found, _, value in lines if found.lower() == name]
