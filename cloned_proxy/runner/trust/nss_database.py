"""A certificate database as NSS keeps it (`cert9.db`, `key4.db`), in which certificates are trusted as CAs for servers.

Chromium, Evolution and everything else that is built on Mozilla's NSS looks for one in `~/.pki/nssdb`. The files are
SQLite: a table of PKCS #11 objects with a column for each attribute, called `a` and the attribute's number in hex. The
tables and values are those that certutil of NSS 3.87 writes; newer versions read them. certutil itself is not needed:
few machines have it, and an image need not.
"""

from __future__ import annotations

import functools
import hashlib
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

CERTIFICATES: Final = "cert9.db"
KEYS: Final = "key4.db"

_COLUMNS: Final = """\
    0 1 2 3 10 11 12 80 81 82 83 84 85 86 87 88 89 8a 8b 90 100 101 102 103 104 105 106 107 108 109 10a 10b 10c 110 111
    120 121 122 123 124 125 126 127 128 129 130 131 132 133 134 160 161 162 163 164 165 166 170 180 181 200 201 202 210
    300 301 302 400 401 402 403 404 405 406 480 481 482 500 501 502 503 40000211 40000212 80000001 ce534351 ce534352
    ce534353 ce534354 ce534355 ce534356 ce534357 ce534358 ce534364 ce534365 ce534366 ce534367 ce534368 ce534369 ce534373
    ce534374 ce536351 ce536352 ce536353 ce536354 ce536355 ce536356 ce536357 ce536358 ce536359 ce53635a ce53635b ce53635c
    ce53635d ce53635e ce53635f ce536360 ce5363b4 ce5363b5 d5a0db00"""
_INDEXES: Final = {"issuer": "a81", "subject": "a101", "label": "a3", "ckaid": "a102"}

_NO, _YES = b"\0", b"\1"
_EMPTY: Final = b"\xa5\0\x5a"
"""How NSS writes a value that is there and empty; NULL is an attribute that is not there."""


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")


# Names and numbers as in PKCS #11 (pkcs11t.h) and NSS (pkcs11n.h).
_CLASS, _TOKEN, _PRIVATE, _LABEL, _VALUE, _CERTIFICATE_TYPE = "a0", "a1", "a2", "a3", "a11", "a80"
_ISSUER, _SERIAL_NUMBER, _SUBJECT, _ID, _MODIFIABLE = "a81", "a82", "a101", "a102", "a170"
_SERVER_AUTH, _CLIENT_AUTH, _CODE_SIGNING, _EMAIL = "ace536358", "ace536359", "ace53635a", "ace53635b"
_STEP_UP, _SHA1, _MD5 = "ace536360", "ace5363b4", "ace5363b5"
_CLASS_CERTIFICATE, _X509, _CLASS_TRUST = _number(1), _number(0), _number(0xCE534353)
_TRUSTED_CA, _VALID_CA, _MUST_VERIFY = _number(0xCE534352), _number(0xCE53435B), _number(0xCE534353)


@functools.lru_cache(maxsize=4)
def nss_database(certificates: tuple[x509.Certificate, ...]) -> Mapping[str, bytes]:
    """The files of the database, by name; each certificate is a trusted CA for TLS servers, and for nothing else."""
    with closing(sqlite3.connect(":memory:")) as keys, closing(sqlite3.connect(":memory:")) as public:
        # Without a password, nor a key to protect by one: programs that open it take that for a new, empty database.
        _make_table(keys, "nssPrivate")
        keys.execute("CREATE TABLE metaData (id PRIMARY KEY UNIQUE ON CONFLICT REPLACE, item1, item2)")
        _make_table(public, "nssPublic")
        nicknames: dict[bytes, str] = {}
        for number, certificate in enumerate(dict.fromkeys(certificates)):
            # NSS wants one nickname for all certificates of one subject, such as a CA before and after its renewal.
            nickname = nicknames.setdefault(certificate.subject.public_bytes(), f"cloned-{number}")
            for place, found in enumerate((_certificate(certificate, nickname), _trust(certificate))):
                columns = ("id", *found)
                marks = ", ".join("?" * len(columns))
                statement = f"INSERT INTO nssPublic ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608  our own words
                public.execute(statement, (2 * number + place + 1, *found.values()))
        public.commit()
        keys.commit()
        return {CERTIFICATES: public.serialize(), KEYS: keys.serialize()}


def _make_table(database: sqlite3.Connection, name: str) -> None:
    columns = ", ".join(f"a{column}" for column in _COLUMNS.split())
    database.execute(f"CREATE TABLE {name} (id PRIMARY KEY UNIQUE ON CONFLICT ABORT, {columns})")
    for index, column in _INDEXES.items():
        database.execute(f"CREATE INDEX {index} ON {name} ({column})")


def _certificate(certificate: x509.Certificate, nickname: str) -> dict[str, bytes]:
    der = certificate.public_bytes(Encoding.DER)
    return _common(certificate) | {
        _CLASS: _CLASS_CERTIFICATE,
        _LABEL: nickname.encode(),
        _VALUE: der,
        _CERTIFICATE_TYPE: _X509,
        _SUBJECT: certificate.subject.public_bytes(),
        _ID: _sha1(der),
    }


def _trust(certificate: x509.Certificate) -> dict[str, bytes]:
    """NSS keeps apart what a certificate is trusted for, and finds it by issuer and serial number."""
    der = certificate.public_bytes(Encoding.DER)
    return _common(certificate) | {
        _CLASS: _CLASS_TRUST,
        _LABEL: _EMPTY,
        _SERVER_AUTH: _TRUSTED_CA,
        _CLIENT_AUTH: _VALID_CA,
        _CODE_SIGNING: _MUST_VERIFY,
        _EMAIL: _MUST_VERIFY,
        _STEP_UP: _NO,
        _SHA1: _sha1(der),
        _MD5: hashlib.md5(der, usedforsecurity=False).digest(),
    }


def _common(certificate: x509.Certificate) -> dict[str, bytes]:
    serial = certificate.serial_number
    length = serial.bit_length() // 8 + 1  # a positive INTEGER of DER begins with a bit that is 0
    return {
        _TOKEN: _YES,
        _PRIVATE: _NO,
        _ISSUER: certificate.issuer.public_bytes(),
        _SERIAL_NUMBER: bytes((2, length)) + serial.to_bytes(length, "big"),
        _MODIFIABLE: _YES,
    }


def _sha1(der: bytes) -> bytes:
    return hashlib.sha1(der, usedforsecurity=False).digest()
