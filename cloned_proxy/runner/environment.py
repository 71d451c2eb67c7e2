"""The variables that a tool finds: how to reach the proxy, and which roots to trust. Pure."""

from __future__ import annotations

from typing import Final

PROXY_PORT: Final = 8081
PROXY_URL: Final = f"http://127.0.0.1:{PROXY_PORT}"
_PROXY_NAMES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_CA_NAMES: Final = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
)
_NOWHERE: Final = "nothing.invalid"
"""A host that cannot be (RFC 6761 section 6.4). Emacs takes an empty NO_PROXY for "every host"; a variable that is not
set lets one of the image's own through."""

RESERVED: Final = frozenset({*_PROXY_NAMES, *_CA_NAMES, "NO_PROXY", "NODE_USE_ENV_PROXY"})
"""Nobody but the sandbox sets these, in either case."""


def proxy_environment(url: str) -> dict[str, str]:
    """The variables by which clients find the proxy, in both cases, and none that lets them leave it out."""
    env = dict.fromkeys((*_PROXY_NAMES, *(name.lower() for name in _PROXY_NAMES)), url)
    return env | {"NO_PROXY": _NOWHERE, "no_proxy": _NOWHERE, "NODE_USE_ENV_PROXY": "1"}


def ca_environment(path: str) -> dict[str, str]:
    """The variables by which clients find the roots that they trust."""
    return dict.fromkeys(_CA_NAMES, path)
