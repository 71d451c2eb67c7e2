"""The system's roots and the workspace CA in one file, for clients whose variable replaces the roots they trust.

`SSL_CERT_FILE` with the workspace CA alone would let a client trust the inspected hosts and nothing else: every
ordinary tunnel, whose certificate the upstream itself shows, would fail.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from cloned_proxy.proxy.inspection.certificates.ca import bundle_path, certificate_path
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import StoreError

_ROOTS: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # BSD, macOS
)


def refresh_bundle(directory: Path) -> Path:
    """Writes the bundle where it is missing or no longer what its parts say; its path. Raises StoreError."""
    path = bundle_path(directory)
    try:
        content = _system_roots().read_bytes().rstrip() + b"\n" + certificate_path(directory).read_bytes()
        if path.is_file() and path.read_bytes() == content:
            return path
    except OSError as error:
        raise StoreError(f"{path}: cannot be made: {error}; run `cloned-proxy ca path`, and see its message") from error
    write_atomically(path, content)
    return path


def _system_roots() -> Path:
    for candidate in (*_ROOTS, _compiled_in()):
        if Path(candidate).is_file():
            return Path(candidate)
    raise StoreError("no root certificates on this machine; install its package ca-certificates")


def _compiled_in() -> str:
    """OpenSSL's own path, and not what `SSL_CERT_FILE` names: that may be the bundle itself."""
    return ssl.get_default_verify_paths().openssl_cafile
