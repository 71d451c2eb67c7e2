"""Ed25519 keys: one signs, and its public half, a line of `trust:`, is all that others need (RFC 8032)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from securesystemslib.signer._crypto_signer import CryptoSigner
from securesystemslib.signer._key import SSlibKey

from cloned_proxy.fleet.signed.errors import FleetError
from cloned_proxy.store.files.private_file import create_private, read_private
from cloned_proxy.store.settings.fleet_settings import public_key_bytes, public_key_text

_MAX_BYTES: Final = 4096
_SHORT: Final = 12


class SigningKey:
    """A private key. Its text and its `repr` say the public half alone."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: Final = public_key_text(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        """As `trust:` has it."""
        self.id: Final = key_id(self.public)
        self.signer: Final = CryptoSigner(private, verifying_key(self.public))

    def __repr__(self) -> str:
        return f"SigningKey({self.public})"

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes, place: str) -> SigningKey:
        """The key in a PKCS #8 PEM text, as `openssl genpkey -algorithm ed25519` writes it. Raises FleetError."""
        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            private = None  # told below, without the text that the library may quote
        if not isinstance(private, Ed25519PrivateKey):
            raise FleetError(f"{place}: not an Ed25519 key in PEM form; restore it from where you keep keys")
        return cls(private)

    def pem(self) -> bytes:
        """PKCS #8, not encrypted: for a file of mode 0600 and nothing else."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def verifying_key(public: str) -> SSlibKey:
    """The public key of a line of `trust:`. Raises ValueError."""
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(public_key_bytes(public)))


def key_id(public: str) -> str:
    """What an envelope names a key by: the SHA-256 that securesystemslib computes, 64 hex digits."""
    return verifying_key(public).keyid


def short_id(key: str) -> str:
    """Enough of a key's id for people to tell keys apart."""
    return key[:_SHORT]


def load_key(path: Path, *, missing: str) -> SigningKey:
    """The key in a file that only this user can read. `missing` says what to do where there is none.

    Raises StoreError.
    """
    pem = read_private(path, limit=_MAX_BYTES, missing=missing, replace="and restore it from where you keep keys")
    return SigningKey.from_pem(pem, str(path))


def load_or_create_key(path: Path) -> SigningKey:
    """The key at `path`, made (0600) on first use; two processes that start at once get the same. Raises StoreError."""
    if not path.exists(follow_symlinks=False):
        create_private(path, SigningKey.generate().pem())
    return load_key(path, missing="")
