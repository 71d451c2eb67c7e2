"""TLS of an opened tunnel: our certificate towards the client, a verified one from the upstream, HTTP/1.1 on both.

In place of mitmproxy's TlsConfig, whose options can turn verification off and HTTP/2 on, and whose failures pass.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mitmproxy.connection import Client, Server
from mitmproxy.tls import TlsData
from OpenSSL import SSL

from cloned_proxy.proxy.answers import UpstreamFailure

if TYPE_CHECKING:
    from cloned_proxy.proxy.inspection.authority import Authority
    from cloned_proxy.proxy.inspection.connection import InspectedConnection

_HTTP1: Final = b"http/1.1"
_HOST_FLAGS: Final = 0x04 | 0x20
"""X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT (x509_vfy.h)."""


class TlsHooks:
    """`authority` is asked for when the first tunnel is opened: without such a rule there is no CA."""

    def __init__(self, authority: Callable[[], Authority], *, extra_ca: Path | None = None) -> None:
        self._authority = authority
        self._extra_ca = extra_ca
        self._accepting: SSL.Context | None = None
        self._connecting: SSL.Context | None = None

    async def tls_start_client(self, connection: InspectedConnection, data: TlsData) -> None:
        if not isinstance(data.conn, Client) or connection.tunnel.decision.host is None:
            raise TypeError("TLS that no CONNECT was granted for")
        authority = self._authority()
        if self._accepting is None:
            self._accepting = SSL.Context(SSL.TLS_SERVER_METHOD)
            self._accepting.set_min_proto_version(SSL.TLS1_2_VERSION)
            self._accepting.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
            self._accepting.set_alpn_select_callback(_select_http1)
        session = SSL.Connection(self._accepting)
        session.use_certificate(authority.leaf(connection.tunnel.decision.host.text))
        session.use_privatekey(authority.leaf_key)
        session.set_accept_state()
        data.ssl_conn = session

    async def tls_start_server(self, connection: InspectedConnection, data: TlsData) -> None:  # noqa: ARG002  hook
        server = data.conn
        if not isinstance(server, Server) or server.sni is None:
            raise TypeError("an upstream without a name to verify")
        if self._connecting is None:
            self._connecting = _verifying_context(self._extra_ca)
        session = SSL.Connection(self._connecting)
        _expect_name(session, server.sni)
        session.set_connect_state()
        data.ssl_conn = session

    async def tls_established_server(self, connection: InspectedConnection, data: TlsData) -> None:  # noqa: ARG002
        connection.tls_established()

    async def tls_failed_server(self, connection: InspectedConnection, data: TlsData) -> None:  # noqa: ARG002  hook
        failure = connection.current.failure
        if failure is None or failure.phase != "tls":
            connection.current.failure = UpstreamFailure("tls")


def _select_http1(_: SSL.Connection, offers: list[bytes]) -> Any:
    return _HTTP1 if _HTTP1 in offers else SSL.NO_OVERLAPPING_PROTOCOLS


def _verifying_context(extra_ca: Path | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION)
    context.set_verify(SSL.VERIFY_PEER)
    context.set_default_verify_paths()
    if extra_ca is not None:
        context.load_verify_locations(str(extra_ca))
    context.set_alpn_protos([_HTTP1])
    return context


def _expect_name(session: SSL.Connection, name: str) -> None:
    """There is no public call for the name to verify; without it any valid certificate would do."""
    library: Any = vars(SSL)["_lib"]
    binding: Any = session._ssl  # noqa: SLF001  as mitmproxy's TlsConfig does
    parameters = library.SSL_get0_param(binding)
    library.X509_VERIFY_PARAM_set_hostflags(parameters, _HOST_FLAGS)
    try:
        packed = ipaddress.ip_address(name).packed
    except ValueError:
        text = name.encode("ascii")
        session.set_tlsext_host_name(text)
        ok = library.X509_VERIFY_PARAM_set1_host(parameters, text, len(text))
    else:
        ok = library.X509_VERIFY_PARAM_set1_ip(parameters, packed, len(packed))
    if ok != 1:
        raise ValueError("the name of the upstream cannot be verified")
