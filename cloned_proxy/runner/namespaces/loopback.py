"""Gives the loopback interface of the current network namespace one more address: rtnetlink(7), without a program."""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Interface
from typing import Final

_NEW_ADDRESS: Final = 20
_FLAGS: Final = 0x1 | 0x4 | 0x400 | 0x200
"""NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE and NLM_F_EXCL."""
_ADDRESS, _LOCAL = 1, 2
_SCOPE_HOST: Final = 254
_HEADER: Final = struct.Struct("IHHII")
_MESSAGE: Final = struct.Struct("BBBBi")
_ATTRIBUTE: Final = struct.Struct("HH4s")


def add_address(interface: IPv4Interface) -> None:
    """With it, all addresses of its network are local. Raises OSError: EPERM without CAP_NET_ADMIN; once is enough."""
    packed = interface.ip.packed
    attributes = b"".join(_ATTRIBUTE.pack(_ATTRIBUTE.size, kind, packed) for kind in (_ADDRESS, _LOCAL))
    index = socket.if_nametoindex("lo")
    body = _MESSAGE.pack(socket.AF_INET, interface.network.prefixlen, 0, _SCOPE_HOST, index) + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, 0))
        sock.send(_HEADER.pack(_HEADER.size + len(body), _NEW_ADDRESS, _FLAGS, 1, 0) + body)
        (code,) = struct.unpack_from("i", sock.recv(4096), _HEADER.size)
    if code and -code != errno.EEXIST:
        raise OSError(-code, os.strerror(-code))
