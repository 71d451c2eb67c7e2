"""The roots that a tool trusts, in each form in which its clients want them.

The public ones always; with them the private CAs of `sandbox: {ca_files: […]}`, and the workspace's own when a rule of
the tool opens TLS.
"""

from __future__ import annotations

import base64
import functools
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, pkcs12

from cloned_proxy.runner.environment import JAVA_PASSWORD, java_store
from cloned_proxy.runner.errors import SandboxInputError
from cloned_proxy.runner.spec import CA_FILE, Mount
from cloned_proxy.store.errors import StoreError
from cloned_proxy.store.files import read_regular_file

_MAX_BYTES: Final = 4 * 1024 * 1024
_BROWSERS: Final = ".cloned-ca-browsers.json"
_POLICY_PLACES: Final = ("chromium", "opt/chrome", "opt/chrome_for_testing")
"""Below /etc, where builds of Chromium look for policies; they read neither a bundle nor a variable."""


def read_ca_files(paths: Sequence[str], base: Path) -> str:
    """The certificates of the files as one PEM text; relative paths begin at `base`. Raises SandboxInputError."""
    return "".join(
        certificate.public_bytes(Encoding.PEM).decode() for path in paths for certificate in _read(base, path)
    )


def _read(base: Path, named: str) -> list[x509.Certificate]:
    path = base / Path(named).expanduser()
    place = f"sandbox.ca_files: {path}"
    try:
        raw = read_regular_file(path, limit=_MAX_BYTES, what="CA file")
    except StoreError as error:
        raise SandboxInputError(f"sandbox.ca_files: {error}") from error
    if b"PRIVATE KEY" in raw:
        raise SandboxInputError(f"{place}: holds a private key; name a file with the certificate alone")
    try:
        return _parsed(raw)
    except ValueError as error:
        fix = "`openssl x509 -inform der -in FILE` makes PEM of DER"
        raise SandboxInputError(f"{place}: no PEM certificate in it, or a broken one; {fix}") from error


def write_trust(directory: Path, private: str, workspace_ca: str | None) -> Path:
    """Writes a PEM bundle, a Java trust store beside it and a policy for browsers; returns the bundle's path."""
    own = private + (workspace_ca or "")
    path = directory / Path(CA_FILE).name
    bundle = Path(certifi.where()).read_text(encoding="ascii") + "\n" + own
    for file, content in (
        (path, bundle.encode("ascii")),
        (Path(java_store(str(path))), _java_trust_store(bundle)),
        (directory / _BROWSERS, _browser_policy(own)),
    ):
        file.write_bytes(content)
        file.chmod(0o444)
    return path


def browser_binds(directory: Path) -> Iterator[Mount]:
    """Where the policy of `write_trust` is shown to browsers."""
    for place in _POLICY_PLACES:
        yield Mount(str(directory / _BROWSERS), f"/etc/{place}/policies/managed/cloned-proxy-ca.json")


@functools.lru_cache(maxsize=4)
def _java_trust_store(bundle: str) -> bytes:
    """PKCS #12 with the attribute by which Java knows a trusted certificate; without it Java sees an empty store."""
    # An alias for each: Java takes two of one name for the same.
    named = [
        pkcs12.PKCS12Certificate(certificate, f"cloned-{number}".encode())
        for number, certificate in enumerate(_parsed(bundle.encode()))
    ]
    return pkcs12.serialize_java_truststore(named, BestAvailableEncryption(JAVA_PASSWORD.encode()))


def _browser_policy(own: str) -> bytes:
    certificates = [base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in _parsed(own.encode())]
    return json.dumps({"CACertificates": certificates}).encode()


def _parsed(raw: bytes) -> list[x509.Certificate]:
    with warnings.catch_warnings(action="ignore"):  # of public roots with serial numbers that the RFC has no place for
        return x509.load_pem_x509_certificates(raw)
