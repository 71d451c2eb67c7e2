"""TLS of an opened tunnel: our certificate towards the client, a verified one from the upstream, ALPN on each side."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from OpenSSL import SSL

if TYPE_CHECKING:
    from cloned_proxy.proxy.inspection.certificates.certificate_authority import CertificateAuthority

_HTTP1: Final = b"http/1.1"
_HTTP2: Final = b"h2"
_HOST_FLAGS: Final = 0x04 | 0x20
"""X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT (x509_vfy.h)."""


class Sessions:
    """Makes what both versions of HTTP run in.

    `authority` is asked for when the first tunnel is opened: without such a rule there is no CA.
    """

    def __init__(self, authority: Callable[[], CertificateAuthority], *, extra_ca: Path | None = None) -> None:
        self._authority = authority
        self._extra_ca = extra_ca
        self._accepting: dict[bool, SSL.Context] = {}
        self._connecting: SSL.Context | None = None

    def accepting(self, host: str, *, http2: bool = False) -> SSL.Connection:
        """For a client that was granted a CONNECT to `host`; with `http2` for one that has offered it."""
        authority = self._authority()
        context = self._accepting.get(http2)
        if context is None:
            context = self._accepting[http2] = _accepting_context(_HTTP2 if http2 else _HTTP1)
        session = SSL.Connection(context)
        session.use_certificate(authority.leaf(host))
        session.use_privatekey(authority.leaf_key)
        session.set_accept_state()
        return session

    def connecting(self, name: str, *, http2: bool = False, only_http2: bool = False) -> SSL.Connection:
        """A session to an upstream whose certificate must be for `name`; `http2` asks for that, too, or alone."""
        if self._connecting is None:
            self._connecting = _verifying_context(self._extra_ca)
        session = SSL.Connection(self._connecting)
        session.set_alpn_protos([_HTTP2] if only_http2 else [_HTTP2, _HTTP1] if http2 else [_HTTP1])
        _expect_name(session, name)
        session.set_connect_state()
        return session


def _accepting_context(protocol: bytes) -> SSL.Context:
    def select(_: SSL.Connection, offers: list[bytes]) -> Any:
        return protocol if protocol in offers else SSL.NO_OVERLAPPING_PROTOCOLS

    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_alpn_select_callback(select)
    return context


def _verifying_context(extra_ca: Path | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION)
    context.set_verify(SSL.VERIFY_PEER)
    context.set_default_verify_paths()
    if extra_ca is not None:
        context.load_verify_locations(str(extra_ca))
    return context


def _expect_name(session: SSL.Connection, name: str) -> None:
    """There is no public call for the name to verify; without it any valid certificate would do."""
    library: Any = vars(SSL)["_lib"]
    binding: Any = session._ssl  # noqa: SLF001  see above
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
