"""The workspace CA: made when the first rule needs an opened TLS, trusted by nobody who was not told to.

Only the function that makes certificates imports the cryptography library: `cloned-proxy ca path` is a matter of names.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import filelock

from cloned_proxy.store.atomic import write_atomically

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

NAME: Final = "cloned-proxy"
_CERTIFICATE: Final = "cloned-proxy-ca.pem"
_KEY: Final = "cloned-proxy-ca.key"
_CA_DAYS: Final = 3650
_LEAF_DAYS: Final = 90
_BACKDATED: Final = datetime.timedelta(days=2)
"""Clocks of clients differ."""
_CACHED_LEAVES: Final = 256


def certificate_path(directory: Path) -> Path:
    """The certificate that clients must trust; the file need not exist yet."""
    return directory / _CERTIFICATE


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


class Authority:
    """Signs a certificate for each host that is inspected. The key of those is one of its own, kept in memory only."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self.certificate: Final = certificate
        self.leaf_key: Final = ec.generate_private_key(ec.SECP256R1())
        self._key: Final = key
        self._leaves: OrderedDict[str, x509.Certificate] = OrderedDict()

    @classmethod
    def open(cls, directory: Path) -> Authority:
        """That of the directory (0700, files 0600); made where there is none. Raises StoreError, OSError, ValueError."""
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Two workers may need it at the same moment.
        with filelock.FileLock(directory / ".lock", mode=0o600):
            if not (directory / _KEY).exists() or not certificate_path(directory).exists():
                _create(directory)
        _check_private(directory / _KEY)
        key = serialization.load_pem_private_key((directory / _KEY).read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(
                f"{directory / _KEY}: not the key that cloned-proxy made; remove the directory to renew it"
            )
        return cls(x509.load_pem_x509_certificate(certificate_path(directory).read_bytes()), key)

    def leaf(self, host: str) -> x509.Certificate:
        """The certificate for an A-label or an IP literal."""
        now = datetime.datetime.now(datetime.UTC)
        cached = self._leaves.get(host)
        if cached is not None and now < cached.not_valid_after_utc - datetime.timedelta(days=1):
            self._leaves.move_to_end(host)
            return cached
        self._leaves[host] = leaf = self._sign(host, now)
        if len(self._leaves) > _CACHED_LEAVES:
            self._leaves.popitem(last=False)
        return leaf

    def _sign(self, host: str, now: datetime.datetime) -> x509.Certificate:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.x509.oid import ExtendedKeyUsageOID

        name: x509.GeneralName
        try:
            name = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))  # RFC 6125: the name is in the extension, which may be longer than 64
            .issuer_name(self.certificate.subject)
            .public_key(self.leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + datetime.timedelta(days=_LEAF_DAYS))
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _create(directory: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, NAME), x509.NameAttribute(NameOID.ORGANIZATION_NAME, NAME)]
    )
    signs = {"digital_signature": True, "key_cert_sign": True, "crl_sign": True}
    never = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    usage = x509.KeyUsage(**signs, **dict.fromkeys(never, False), decipher_only=False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    # The key first: a certificate without its key would be handed to clients and then replaced.
    write_atomically(directory / _KEY, key.private_bytes(pem, pkcs8, plain))
    write_atomically(certificate_path(directory), certificate.public_bytes(pem))


def _check_private(path: Path) -> None:
    if os.stat(path).st_mode & 0o077:  # noqa: PTH116  one call of the same kind
        raise ValueError(
            f"{path}: others can read the CA key; run `chmod 600 {path}`, or remove it to have it made anew"
        )
