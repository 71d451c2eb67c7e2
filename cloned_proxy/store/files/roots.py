"""The roots that this machine trusts, which host tools and sandboxed tools are to trust alike.

Among them may be a company's own, which its administrator installed: without it everything behind a proxy that opens
TLS would fail in a sandbox and work beside it.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import certifi

from cloned_proxy.store.files.errors import StoreError

_ROOTS: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # BSD, macOS
)


def system_roots() -> bytes:
    """The PEM file of this machine's roots, whole. Raises StoreError where there is none, and OSError."""
    for candidate in (*_ROOTS, _compiled_in()):
        if Path(candidate).is_file():
            return Path(candidate).read_bytes()
    raise StoreError("no root certificates on this machine; install its package ca-certificates")


def public_roots() -> bytes:
    """`system_roots`, or where there are none those of Mozilla that are shipped with certifi."""
    try:
        return system_roots()
    except (StoreError, OSError):
        return Path(certifi.where()).read_bytes()


def _compiled_in() -> str:
    """OpenSSL's own path, and not what `SSL_CERT_FILE` names: that may be a bundle of ours."""
    return ssl.get_default_verify_paths().openssl_cafile
