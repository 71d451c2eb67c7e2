"""The variables that a tool finds: how to reach the proxy, and which roots to trust. Pure."""

from __future__ import annotations

from collections.abc import Mapping
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
    "DENO_CERT",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)
JAVA_OPTIONS: Final = "JAVA_TOOL_OPTIONS"
JAVA_PASSWORD: Final = "changeit"  # noqa: S105  Java's own default; the store holds public certificates
_NOWHERE: Final = "nothing.invalid"
"""A host that cannot be (RFC 6761 section 6.4). Emacs takes an empty NO_PROXY for "every host"; a variable that is not
set lets one of the image's own through."""

CA_NAMES: Final = frozenset(_CA_NAMES)
RESERVED: Final = frozenset({*_PROXY_NAMES, *_CA_NAMES, "NO_PROXY", "NODE_USE_ENV_PROXY"})
"""Nobody but the sandbox sets these, in either case."""


def proxy_environment(url: str) -> dict[str, str]:
    """The variables by which clients find the proxy, in both cases, and none that lets them leave it out."""
    env = dict.fromkeys((*_PROXY_NAMES, *(name.lower() for name in _PROXY_NAMES)), url)
    return env | {"NO_PROXY": _NOWHERE, "no_proxy": _NOWHERE, "NODE_USE_ENV_PROXY": "1"}


def ca_environment(path: str) -> dict[str, str]:
    """The variables by which clients find the roots that they trust; Java's trust store lies beside the bundle."""
    java = {"trustStore": java_store(path), "trustStoreType": "PKCS12", "trustStorePassword": JAVA_PASSWORD}
    options = " ".join(f"-Djavax.net.ssl.{name}={value}" for name, value in java.items())
    return {**dict.fromkeys(_CA_NAMES, path), JAVA_OPTIONS: options}


def java_store(bundle: str) -> str:
    """Where the trust store of a bundle lies."""
    return f"{bundle.removesuffix('.pem')}.p12"


def with_java_options(own: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, str]:
    """What was asked for; options for Java come behind those of the sandbox instead of taking their place."""
    if JAVA_OPTIONS in own and JAVA_OPTIONS in asked:
        return {**asked, JAVA_OPTIONS: f"{own[JAVA_OPTIONS]} {asked[JAVA_OPTIONS]}"}
    return dict(asked)
