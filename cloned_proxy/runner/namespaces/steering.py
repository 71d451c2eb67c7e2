"""Steers every TCP port of a network of addresses to one listening socket: BPF sk_lookup (Linux 5.9), by bpf(2) itself.

The program is attached to a network namespace for as long as the returned descriptor is open in any process. No
library: 24 instructions are less than any of them. The kernel's documentation is Documentation/bpf/prog_sk_lookup.rst.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import socket
import struct
from ipaddress import IPv4Network
from typing import Final

_SYSTEM_CALL: Final = {"x86_64": 321, "aarch64": 280}
_ATTRIBUTES: Final = 128
"""Bytes of `union bpf_attr` that are given; the kernel takes zeros behind what it knows."""
_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD, _LINK_CREATE = 0, 2, 5, 28
_MAP_TYPE_SOCKMAP: Final = 15
_PROG_TYPE_SK_LOOKUP: Final = 30
_ATTACH_SK_LOOKUP: Final = 36
_LOOKUP_ELEMENT, _SK_RELEASE, _SK_ASSIGN = 1, 86, 124
_SK_PASS: Final = 1
# Offsets in `struct bpf_sk_lookup`, linux/bpf.h; the address is in network byte order.
_FAMILY, _PROTOCOL, _LOCAL_IP4 = 8, 12, 40
_R0, _R1, _R2, _R3, _R6, _R7, _R10 = 0, 1, 2, 3, 6, 7, 10
# Instruction codes, linux/bpf_common.h and linux/bpf.h.
_LOAD_WORD, _STORE_WORD_IMM, _LOAD_MAP = 0x61, 0x62, 0x18
_MOVE, _MOVE_IMM, _ADD_IMM, _AND_IMM_32 = 0xBF, 0xB7, 0x07, 0x54
_JUMP_EQUAL, _JUMP_UNEQUAL, _JUMP_UNEQUAL_32 = 0x15, 0x55, 0x56
_CALL, _EXIT = 0x85, 0x95
_TO_THE_END: Final = (_JUMP_EQUAL, _JUMP_UNEQUAL, _JUMP_UNEQUAL_32)


def steer(namespace: int, listening: socket.socket, network: IPv4Network) -> int:
    """A descriptor that keeps it so. `namespace` is one of a network namespace, `listening` a socket in it.

    Raises OSError: EPERM without CAP_SYS_ADMIN (or CAP_BPF and CAP_NET_ADMIN), EINVAL or ENOSYS on an older kernel.
    """
    sockets = _bpf(_MAP_CREATE, struct.pack("<IIII", _MAP_TYPE_SOCKMAP, 4, 8, 1))
    try:
        key, value = ctypes.c_uint32(0), ctypes.c_uint64(listening.fileno())
        _bpf(_MAP_UPDATE, struct.pack("<IIQQQ", sockets, 0, ctypes.addressof(key), ctypes.addressof(value), 0))
        program = _load(sockets, network)
        try:
            return _bpf(_LINK_CREATE, struct.pack("<IIII", program, namespace, _ATTACH_SK_LOOKUP, 0))
        finally:
            os.close(program)
    finally:
        os.close(sockets)


@functools.cache
def can_steer() -> bool:
    """Whether this process may load such a program here."""
    try:
        sockets = _bpf(_MAP_CREATE, struct.pack("<IIII", _MAP_TYPE_SOCKMAP, 4, 8, 1))
    except OSError:
        return False
    try:
        os.close(_load(sockets, IPv4Network("127.128.0.0/9")))
    except OSError:
        return False
    finally:
        os.close(sockets)
    return True


def _load(sockets: int, network: IPv4Network) -> int:
    program = _program(sockets, network)
    text, licence = ctypes.create_string_buffer(program, len(program)), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQII16sII",
        _PROG_TYPE_SK_LOOKUP, len(program) // 8, ctypes.addressof(text), ctypes.addressof(licence),
        0, 0, 0, 0, 0, b"cloned_slot", 0, _ATTACH_SK_LOOKUP,
    )  # fmt: skip
    return _bpf(_PROG_LOAD, attributes)


def _program(sockets: int, network: IPv4Network) -> bytes:
    """TCP over IPv4 to the network goes to the socket in the map; everything else to whoever is bound to it.

    Where the map is empty, nothing is assigned: the lookup goes on, and a socket that a tool has bound to all
    addresses is found. By then the listener is closed, and a tool can only reach itself.
    """
    address, mask = (_network_order(int(value)) for value in (network.network_address, network.netmask))
    steps = [
        _op(_MOVE, _R6, _R1),
        _op(_LOAD_WORD, _R2, _R6, _PROTOCOL), _op(_JUMP_UNEQUAL, _R2, value=socket.IPPROTO_TCP),
        _op(_LOAD_WORD, _R2, _R6, _FAMILY), _op(_JUMP_UNEQUAL, _R2, value=socket.AF_INET),
        _op(_LOAD_WORD, _R2, _R6, _LOCAL_IP4), _op(_AND_IMM_32, _R2, value=mask),
        _op(_JUMP_UNEQUAL_32, _R2, value=address),
        # The key on the stack, then socket = map[key].
        _op(_STORE_WORD_IMM, _R10, offset=-4), _op(_MOVE, _R2, _R10), _op(_ADD_IMM, _R2, value=-4),
        _op(_LOAD_MAP, _R1, 1, value=sockets), _op(0), _op(_CALL, value=_LOOKUP_ELEMENT),
        _op(_JUMP_EQUAL, _R0),
        _op(_MOVE, _R7, _R0),
        _op(_MOVE, _R1, _R6), _op(_MOVE, _R2, _R0), _op(_MOVE_IMM, _R3), _op(_CALL, value=_SK_ASSIGN),
        _op(_MOVE, _R1, _R7), _op(_CALL, value=_SK_RELEASE),
        _op(_MOVE_IMM, _R0, value=_SK_PASS), _op(_EXIT),
    ]  # fmt: skip
    end = len(steps) - 2
    for at, step in enumerate(steps):
        code, registers, _, value = struct.unpack("<BBhi", step)
        if code in _TO_THE_END:
            steps[at] = struct.pack("<BBhi", code, registers, end - at - 1, value)
    return b"".join(steps)


def _op(code: int, target: int = 0, source: int = 0, offset: int = 0, *, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, target | source << 4, offset, value)


def _network_order(value: int) -> int:
    """The signed number that a little-endian machine reads in the bytes of an address."""
    return int(struct.unpack("<i", struct.pack(">I", value))[0])


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYSTEM_CALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"no number of bpf(2) for {platform.machine()}")
    buffer = ctypes.create_string_buffer(attributes.ljust(_ATTRIBUTES, b"\0"), _ATTRIBUTES)
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(number, command, buffer, _ATTRIBUTES))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
