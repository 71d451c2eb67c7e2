"""Where the workspace CA is and how clients come to trust it. Imports no library: `ca path` is about names."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

_CERTIFICATE: Final = "cloned-proxy-ca.pem"
_KEY: Final = "cloned-proxy-ca.key"
_BUNDLE: Final = "cloned-proxy-bundle.pem"


def certificate_path(directory: Path) -> Path:
    """The certificate that clients must trust; the file need not exist yet."""
    return directory / _CERTIFICATE


def key_path(directory: Path) -> Path:
    """The authority's private key; only this program reads it."""
    return directory / _KEY


def bundle_path(directory: Path) -> Path:
    """The system's roots and the certificate in one file; `bundle.refresh_bundle` makes it."""
    return directory / _BUNDLE


def install_hint(directory: Path) -> str:
    """How to make common clients trust it, as lines of a shell."""
    certificate = shlex.quote(str(certificate_path(directory)))
    bundle = shlex.quote(str(bundle_path(directory)))
    return "\n".join(
        [
            "# These replace the roots that a client trusts, so they name a bundle: the system's roots and this CA.",
            f"export SSL_CERT_FILE={bundle}       # Python's ssl, httpx, Go, uv, OpenSSL",
            f"export CURL_CA_BUNDLE={bundle}      # curl",
            f"export REQUESTS_CA_BUNDLE={bundle}  # Python requests",
            f"export PIP_CERT={bundle}            # pip",
            f"export GIT_SSL_CAINFO={bundle}      # git",
            "# This one is added to the roots that are built in.",
            f"export NODE_EXTRA_CA_CERTS={certificate}  # Node.js and npm",
            "# Instead of all of them, for every program of a Debian machine:",
            f"# sudo cp {certificate} /usr/local/share/ca-certificates/cloned-proxy.crt && sudo update-ca-certificates",
        ]
    )
