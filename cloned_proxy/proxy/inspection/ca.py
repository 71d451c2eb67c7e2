"""Where the workspace CA is and how clients come to trust it. Imports no library: `ca path` is about names."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_CERTIFICATE: Final = "cloned-proxy-ca.pem"
_KEY: Final = "cloned-proxy-ca.key"


def certificate_path(directory: Path) -> Path:
    """The certificate that clients must trust; the file need not exist yet."""
    return directory / _CERTIFICATE


def key_path(directory: Path) -> Path:
    """Its private key; only this program reads it."""
    return directory / _KEY


def install_hint(directory: Path) -> str:
    """How to make common clients trust it, one command a line."""
    path = certificate_path(directory)
    return "\n".join(
        [
            f"export SSL_CERT_FILE={path}        # Python, curl, Go, OpenSSL",
            f"export REQUESTS_CA_BUNDLE={path}   # requests, pip",
            f"export NODE_EXTRA_CA_CERTS={path}  # Node.js",
            f"sudo cp {path} /usr/local/share/ca-certificates/cloned-proxy.crt && sudo update-ca-certificates",
        ]
    )
