"""TLS ClientHellos that no TLS library would write (RFC 8446, section 4.1.2)."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Final

_SERVER_NAME: Final = 0
_ECH: Final = 0xFE0D
_HANDSHAKE: Final = 0x16


def client_hello(
    server_names: Sequence[str],
    *,
    session: bytes = b"",
    ech_grease: bool = False,
    separate_extensions: bool = False,
    record_size: int = 16_384,
    key_share: bytes | None = None,
) -> bytes:
    """A ClientHello as TLS records. `session` (32 bytes at most) travels in the clear: a marker fits there.

    `key_share` is for x25519, at random unless given; with b"" there is none, and a server asks for another hello.
    """
    share = os.urandom(32) if key_share is None else key_share
    lists = [[name] for name in server_names] if separate_extensions else [list(server_names)]
    extensions = b"".join(_server_name_extension(names) for names in lists if names)
    extensions += _extension(43, b"\x02\x03\x04")  # supported_versions: TLS 1.3
    extensions += _extension(10, b"\x00\x02\x00\x1d") + _extension(13, b"\x00\x04\x04\x03\x08\x04")
    shares = struct.pack("!HH", 0x1D, len(share)) + share if share else b""
    extensions += _extension(51, struct.pack("!H", len(shares)) + shares)
    if ech_grease:
        # Outer ClientHello, HKDF-SHA256 and AES-128-GCM, configuration 7, a key and a payload of noise.
        payload = b"\x00\x20" + os.urandom(32) + b"\x00\x90" + os.urandom(144)
        extensions += _extension(_ECH, b"\x00\x00\x01\x00\x01\x07" + payload)
    body = b"\x03\x03" + os.urandom(32) + bytes([len(session)]) + session
    body += b"\x00\x02\x13\x01" + b"\x01\x00" + struct.pack("!H", len(extensions)) + extensions
    message = b"\x01" + struct.pack("!I", len(body))[1:] + body
    pieces = [message[at : at + record_size] for at in range(0, len(message), record_size)]
    return b"".join(bytes([_HANDSHAKE]) + b"\x03\x01" + struct.pack("!H", len(piece)) + piece for piece in pieces)


def _extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!HH", kind, len(data)) + data


def _server_name_extension(names: Sequence[str]) -> bytes:
    entries = b"".join(b"\x00" + struct.pack("!H", len(name.encode())) + name.encode() for name in names)
    return _extension(_SERVER_NAME, struct.pack("!H", len(entries)) + entries)
