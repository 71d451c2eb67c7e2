"""The workspace CA: made when the first rule needs an opened TLS, trusted by nobody who was not told to."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections import OrderedDict
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloned_proxy.proxy.inspection.certificates.ca import certificate_path, key_path
from cloned_proxy.store.files.atomic import write_atomically
from cloned_proxy.store.files.lock import locked

NAME: Final = "cloned-proxy"
_CA_DAYS: Final = 3650
_LEAF_DAYS: Final = 90
_BACKDATED: Final = dt.timedelta(days=2)
"""Clocks of clients differ."""
_CACHED_LEAVES: Final = 256


class CertificateAuthority:
    """Signs a certificate for each host that is inspected. The key of those is one of its own, kept in memory only."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate: Final = certificate
        self.leaf_key: Final = ec.generate_private_key(ec.SECP256R1())
        self._key: Final = key
        self._leaves: OrderedDict[str, x509.Certificate] = OrderedDict()

    @classmethod
    def open(cls, directory: Path) -> CertificateAuthority:
        """That of the directory (0700, files 0600); made where there is none.

        Raises StoreError, OSError, ValueError.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _made(directory):
            with locked(directory):  # two workers may need it at the same moment
                if not _made(directory):
                    _create(directory)
        _check_private(key_path(directory))
        key = serialization.load_pem_private_key(key_path(directory).read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(  # noqa: TRY004  what is wrong is the file, not a type
                f"{key_path(directory)}: not the key that cloned-proxy made; remove the directory to renew it"
            )
        return cls(x509.load_pem_x509_certificate(certificate_path(directory).read_bytes()), key)

    def leaf(self, host: str) -> x509.Certificate:
        """The certificate for an A-label or an IP literal."""
        now = dt.datetime.now(dt.UTC)
        cached = self._leaves.get(host)
        if cached is not None and now < cached.not_valid_after_utc - dt.timedelta(days=1):
            self._leaves.move_to_end(host)
            return cached
        self._leaves[host] = leaf = self._sign(host, now)
        if len(self._leaves) > _CACHED_LEAVES:
            self._leaves.popitem(last=False)
        return leaf

    def _sign(self, host: str, now: dt.datetime) -> x509.Certificate:
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
            .not_valid_after(now + dt.timedelta(days=_LEAF_DAYS))
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _made(directory: Path) -> bool:
    return key_path(directory).exists() and certificate_path(directory).exists()


def _create(directory: Path) -> None:
    now = dt.datetime.now(dt.UTC)
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
        .not_valid_after(now + dt.timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    # The key first: a certificate without its key would be handed to clients and then replaced.
    write_atomically(key_path(directory), key.private_bytes(pem, pkcs8, plain))
    write_atomically(certificate_path(directory), certificate.public_bytes(pem))


def _check_private(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        raise ValueError(
            f"{path}: others can read the CA key; run `chmod 600 {path}`, or remove it to have it made anew"
        )
