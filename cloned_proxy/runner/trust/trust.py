"""The roots that a tool trusts, in each form in which its clients want them.

Those of this machine always; with them the private CAs of `sandbox: {ca_files: […]}`, and the workspace's own when a
rule of the tool opens TLS.
"""

from __future__ import annotations

import base64
import functools
import json
import posixpath
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, pkcs12

from cloned_proxy.runner.project.place import SCRATCH
from cloned_proxy.runner.trust.nss_database import nss_database
from cloned_proxy.runner.values.environment import JAVA_PASSWORD, java_store
from cloned_proxy.runner.values.errors import SandboxInputError
from cloned_proxy.runner.values.spec import CA_FILE, HOME, PKI, PKI_SOURCE, Mount
from cloned_proxy.store.files.errors import StoreError
from cloned_proxy.store.files.files import read_regular_file
from cloned_proxy.store.files.roots import public_roots

_MAX_BYTES: Final = 4 * 1024 * 1024
_SYSTEM_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
"""What GnuTLS was built to trust on Debian and most others: wget and GNOME's programs heed no variable."""
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_CHROMIUM_POLICY: Final = ".cloned-ca-chromium.json"
_CHROMIUM_PLACES: Final = ("chromium", "opt/chrome", "opt/chrome_for_testing")
"""Below /etc, where builds of Chromium look for policies; they read neither a bundle nor a variable."""
_MOZILLA_POLICY: Final = ".cloned-ca-mozilla.json"
_MOZILLA_PLACES: Final = ("firefox", "thunderbird")
"""Below /etc, where Mozilla's programs look for the one file of policies that they read."""
_NSS: Final = Path(PKI_SOURCE).name


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
    """Writes a PEM bundle, and beside it what Java, browsers and NSS read instead; returns the bundle's path."""
    own = private + (workspace_ca or "")
    path = directory / Path(CA_FILE).name
    bundle = _readable(public_roots()) + own
    certificates = tuple(dict.fromkeys(_parsed(own.encode())))
    single = {f".cloned-ca-{number}.pem": each for number, each in enumerate(certificates)}
    files: dict[str, bytes] = {
        path.name: bundle.encode("ascii"),
        Path(java_store(path.name)).name: _java_trust_store(bundle),
        _CHROMIUM_POLICY: _chromium_policy(certificates),
        _MOZILLA_POLICY: _mozilla_policy(single),
        **{name: each.public_bytes(Encoding.PEM) for name, each in single.items()},
    }
    for name, content in files.items():
        _write(directory / name, content, mode=0o444)
    _write_nss(directory / _NSS, certificates)
    return path


def trust_binds(directory: Path, mounts: Iterable[Mount] = (), *, home_in_memory: bool = True) -> Iterator[Mount]:
    """Where what `write_trust` wrote is shown, but for places of which somebody's own `mounts` take a part."""
    taken = [PurePosixPath(posixpath.normpath(mount.target)) for mount in mounts]
    for name, place in _shown(home_in_memory=home_in_memory):
        target = PurePosixPath(place)
        if not any(target.is_relative_to(other) or other.is_relative_to(target) for other in taken):
            yield Mount(str(directory / name), place, read_only=name != _NSS)


def _shown(*, home_in_memory: bool) -> Iterator[tuple[str, str]]:
    yield Path(CA_FILE).name, _SYSTEM_BUNDLE
    for place in _CHROMIUM_PLACES:
        yield _CHROMIUM_POLICY, f"/etc/{place}/policies/managed/cloned-proxy-ca.json"
    for place in _MOZILLA_PLACES:
        yield _MOZILLA_POLICY, f"/etc/{place}/policies/policies.json"
    if home_in_memory:
        yield _NSS, f"{HOME}/{PKI}"


def _write(path: Path, content: bytes, *, mode: int) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def _write_nss(place: Path, certificates: tuple[x509.Certificate, ...]) -> None:
    # The tool's user is not this one, and Chromium refuses a database that it cannot write.
    for directory in (place, place / "nssdb"):
        directory.mkdir()
        directory.chmod(0o777)
    for name, content in nss_database(certificates).items():
        _write(place / "nssdb" / name, content, mode=0o666)


@functools.lru_cache(maxsize=2)  # some hundred to parse, and they hardly ever change
def _readable(roots: bytes) -> str:
    """The certificates alone. One that cannot be read is left out: it would take the others from Java as well."""
    found = []
    for block in _CERTIFICATE.findall(roots):
        try:
            found += _parsed(block)
        except ValueError:
            continue
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in found)


@functools.lru_cache(maxsize=4)
def _java_trust_store(bundle: str) -> bytes:
    """PKCS #12 with the attribute by which Java knows a trusted certificate; without it Java sees an empty store."""
    # An alias for each: Java takes two of one name for the same.
    named = [
        pkcs12.PKCS12Certificate(certificate, f"cloned-{number}".encode())
        for number, certificate in enumerate(_parsed(bundle.encode()))
    ]
    return pkcs12.serialize_java_truststore(named, BestAvailableEncryption(JAVA_PASSWORD.encode()))


def _chromium_policy(certificates: Sequence[x509.Certificate]) -> bytes:
    encoded = [base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in certificates]
    return json.dumps({"CACertificates": encoded}).encode()


def _mozilla_policy(names: Iterable[str]) -> bytes:
    """Firefox takes the first certificate of each file."""
    return json.dumps({"policies": {"Certificates": {"Install": [f"{SCRATCH}/{name}" for name in names]}}}).encode()


def _parsed(raw: bytes) -> list[x509.Certificate]:
    with warnings.catch_warnings(action="ignore"):  # of public roots with serial numbers that the RFC has no place for
        return x509.load_pem_x509_certificates(raw)
