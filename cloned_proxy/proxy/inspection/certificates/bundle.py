"""The system's roots and the workspace CA in one file, for clients whose variable replaces the roots they trust.

`SSL_CERT_FILE` with the workspace CA alone would let a client trust the inspected hosts and nothing else: every
ordinary tunnel, whose certificate the upstream itself shows, would fail.
"""

from __future__ import annotations

from pathlib import Path

from cloned_proxy.proxy.inspection.certificates.ca import bundle_path, certificate_path
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.roots import system_roots


def refresh_bundle(directory: Path) -> Path:
    """Writes the bundle where it is missing or no longer what its parts say; its path. Raises StoreError."""
    path = bundle_path(directory)
    try:
        content = system_roots().rstrip() + b"\n" + certificate_path(directory).read_bytes()
        if path.is_file() and path.read_bytes() == content:
            return path
    except OSError as error:
        raise StoreError(f"{path}: cannot be made: {error}; run `cloned-proxy ca path`, and see its message") from error
    write_atomically(path, content)
    return path
