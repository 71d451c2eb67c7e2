"""How the proxy in front is verified where the way to it is TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.settings.upstream_settings import UpstreamSettings

_MAX_CA_BYTES: Final = 4 * 1024 * 1024


def verifying_context(settings: UpstreamSettings, base: Path) -> ssl.SSLContext:
    """For the TLS of the proxy itself: the system's roots and `ca_files`. Raises StoreError."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for named in settings.ca_files:
        path = base / Path(named).expanduser()
        try:
            pem = read_regular_file(path, limit=_MAX_CA_BYTES, what="CA file").decode("ascii")
            context.load_verify_locations(cadata=pem)
        except StoreError as error:
            raise StoreError(f"upstream.ca_files: {error}") from error
        except (ssl.SSLError, ValueError) as error:
            fix = "`openssl x509 -inform der -in FILE` makes PEM of DER"
            raise StoreError(f"upstream.ca_files: {path}: no PEM certificate in it, or a broken one; {fix}") from error
    return context
