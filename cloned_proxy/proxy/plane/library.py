"""The C ABI of the plane (`plane/src/abi/`), and where its library is. Nothing here decides anything."""

from __future__ import annotations

import ctypes
import struct
from ctypes import (
    POINTER,
    c_bool,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Final

NAME: Final = "libcloned_plane.so"
ID_BYTES: Final = 12
NO_LIMIT: Final = 2**64 - 1

_PACKAGE: Final = Path(__file__).parents[2]
PLACES: Final = (_PACKAGE / "_plane" / NAME, _PACKAGE.parent / "build" / "plane" / "release" / NAME)
"""Where the library is in an installed wheel, and in a checkout where cargo has built it."""


class LibraryError(Exception):
    """The file is not the library of this program, on this machine."""


class PlaneConfig(ctypes.Structure):
    """Times in microseconds."""

    _fields_ = (
        ("threads", c_uint64),
        ("head_timeout", c_uint64),
        ("hello_timeout", c_uint64),
        ("connect_timeout", c_uint64),
        ("keep_alive_timeout", c_uint64),
        ("idle_timeout", c_uint64),
        ("max_head_bytes", c_uint64),
        ("max_head_fields", c_uint64),
        ("max_connections", c_uint64),
        ("party_share", c_uint64),
        ("queue", c_uint64),
        ("connected", c_void_p),
        ("parties", c_void_p),
        ("parties_width", c_uint64),
        ("bounds", POINTER(c_double) * 3),
        ("bounds_count", c_uint64 * 3),
    )


class Publication(ctypes.Structure):
    _fields_ = (
        ("number", c_uint32),
        ("needs_hello", c_bool),
        ("literal", c_bool),
        ("plain", c_bool),
        ("pool", c_uint32),
        ("response_timeout", c_uint64),
        ("expires", c_uint64),
        ("account", c_void_p),
        ("concurrent", c_uint64),
        ("requests_per_minute", c_uint64),
        ("bytes_per_hour", c_uint64),
    )


class RefusalForm(ctypes.Structure):
    _fields_ = (
        ("number", c_uint32),
        ("expires", c_uint64),
        ("account", c_void_p),
        ("per_minute", c_uint64),
    )


class HandedOver(ctypes.Structure):
    _fields_ = (
        ("stage", c_uint32),
        ("fd", c_int32),
        ("upstream", c_int32),
        ("listener", c_uint32),
        ("verdict", c_uint32),
        ("granted", c_bool),
        ("id", c_uint8 * ID_BYTES),
        ("since", c_uint64),
        ("up", c_uint64),
        ("hello_deadline", c_uint64),
        ("client_length", c_uint64),
        ("server_length", c_uint64),
        ("unsent_length", c_uint64),
        ("head_length", c_uint64),
        ("body", c_uint32),
        ("extras", c_uint32),
        ("left", c_uint64),
        ("started", c_bool),
    )


class SeenFlow(ctypes.Structure):
    _fields_ = (
        ("verdict", c_uint32),
        ("relaying", c_bool),
        ("id", c_uint8 * ID_BYTES),
        ("since", c_uint64),
        ("last_byte", c_uint64),
        ("up", c_uint64),
        ("down", c_uint64),
        ("asked_length", c_uint64),
    )


class Snapshot(ctypes.Structure):
    _fields_ = (
        ("flows", POINTER(SeenFlow)),
        ("count", c_size_t),
        ("asked", c_void_p),
        ("asked_length", c_size_t),
        ("kept", c_void_p),
    )


class Reading(ctypes.Structure):
    """What a reader of plain HTTP made of its input, for the comparison with those of Python."""

    _fields_ = (
        ("numbers", c_size_t * 8),
        ("text", c_char_p),
        ("room", c_size_t),
        ("text_length", c_size_t),
    )


class Batch(ctypes.Structure):
    _fields_ = (
        ("text", c_void_p),
        ("text_length", c_size_t),
        ("calls", c_void_p),
        ("calls_length", c_size_t),
        ("entries", c_size_t),
        ("kept", c_void_p),
    )


NUMBERS: Final = 10
"""How many numbers `plane_numbers` tells."""
_FORM: Final = 11
"""The version of what passes besides the structures: `plane/src/abi/version.rs`."""
_STRUCTURES: Final = (PlaneConfig, Publication, RefusalForm, HandedOver, SeenFlow, Snapshot, Batch)
_ABI: Final = (_FORM, *(ctypes.sizeof(each) for each in _STRUCTURES))

_TEXT: Final = (c_char_p, c_size_t)
_PLANE: Final = c_void_p
_FUNCTIONS: Final[dict[str, tuple[object, tuple[object, ...]]]] = {
    "plane_abi": (None, (POINTER(c_size_t * len(_ABI)),)),
    "plane_start": (c_void_p, (POINTER(PlaneConfig),)),
    "plane_stop": (None, (_PLANE,)),
    "plane_free": (None, (_PLANE,)),
    "plane_bell": (c_int32, (_PLANE,)),
    "plane_listen": (None, (_PLANE, c_int32, c_uint32, c_size_t)),
    "plane_unlisten": (None, (_PLANE, c_uint32, *_TEXT)),
    "plane_set_contended": (None, (_PLANE, c_bool)),
    "plane_suspend": (None, (_PLANE, c_bool)),
    "plane_drain": (None, (_PLANE,)),
    "plane_cut_all": (None, (_PLANE, *_TEXT)),
    "plane_cut_flow": (None, (_PLANE, c_char_p, *_TEXT)),
    "plane_forget": (None, (_PLANE,)),
    "plane_make_room": (None, (_PLANE, c_size_t, c_uint64, c_uint64, c_size_t)),
    "plane_review": (None, (_PLANE, *_TEXT)),
    "plane_panic": (None, (_PLANE,)),
    "plane_publish": (c_void_p, (_PLANE, *_TEXT, POINTER(Publication), *_TEXT)),
    "plane_publish_refusal": (c_void_p, (_PLANE, *_TEXT, POINTER(RefusalForm), *_TEXT)),
    "verdict_withdraw": (None, (c_void_p,)),
    "verdict_free": (None, (c_void_p,)),
    "verdicts_changed": (c_size_t, (POINTER(c_void_p), c_size_t, POINTER(c_uint32))),
    "verdict_counts": (None, (c_void_p, POINTER(c_int64 * 5), POINTER(c_uint8 * ID_BYTES))),
    "plane_take": (c_bool, (_PLANE, POINTER(HandedOver), c_char_p, c_size_t)),
    "plane_take_back": (None, (_PLANE, c_int32, c_uint32, c_size_t)),
    "plane_return": (None, (_PLANE, c_int32, c_uint32, c_size_t, *_TEXT, c_uint64)),
    "plane_adopted": (None, (_PLANE, c_size_t, c_void_p)),
    "plane_snapshot": (None, (_PLANE, POINTER(Snapshot))),
    "plane_free_snapshot": (None, (POINTER(Snapshot),)),
    "plane_numbers": (None, (_PLANE, POINTER(c_int64 * NUMBERS))),
    "plane_spread": (None, (_PLANE, c_size_t, POINTER(c_uint64), c_size_t)),
    "plane_take_turn": (None, (_PLANE,)),
    "plane_give_turn": (None, (_PLANE,)),
    "plane_wait": (c_size_t, (_PLANE, c_uint64)),
    "plane_take_records": (None, (_PLANE, POINTER(Batch))),
    "plane_free_records": (None, (POINTER(Batch),)),
    "plane_reads_head": (c_size_t, (*_TEXT, c_size_t, c_size_t, POINTER(c_size_t))),
    "plane_reads_hello": (c_uint32, (*_TEXT, *_TEXT, c_bool)),
    "plane_reads_answer": (c_bool, _TEXT),
    "plane_reads_request": (c_bool, (*_TEXT, c_size_t, c_size_t, *_TEXT, POINTER(Reading))),
    "plane_reads_response": (c_uint32, (*_TEXT, c_size_t, c_size_t, c_bool, c_bool, POINTER(Reading))),
    "plane_reads_body": (c_uint32, (*_TEXT, c_uint32, c_uint64, c_size_t, POINTER(Reading))),
    "plane_reads_front": (c_size_t, (*_TEXT, c_size_t, c_size_t)),
}
_WAITING: Final = frozenset(
    {
        *("plane_start", "plane_stop", "plane_free", "plane_wait", "plane_take_records", "plane_free_records"),
        *("plane_listen", "plane_unlisten", "plane_drain", "plane_cut_all", "plane_cut_flow", "plane_forget"),
        *("plane_make_room", "plane_review", "plane_snapshot", "plane_free_snapshot"),
    }
)
"""Functions that wait for the threads of the plane, or take long, and let go of the interpreter lock meanwhile.

All others end within microseconds. Letting go of the lock would cost more than the call: a thread that waits for the
lock has it then, the writer of the log for a whole group of entries.
"""


def find() -> Path | None:
    """The library, if there is one."""
    return next((place for place in PLACES if place.is_file()), None)


def is_stale(path: Path) -> bool:
    """Whether it was built from another source than the one beside it in a checkout."""
    source = _PACKAGE.parent / "plane"
    if path != PLACES[-1] or not source.is_dir():
        return False
    built = path.stat().st_mtime
    return any(each.stat().st_mtime > built for each in (source / "Cargo.toml", *source.rglob("src/**/*.rs")))


_ELF: Final = struct.Struct("<4sBB34xQ10xHH2x")
"""The ELF header: magic, class, byte order, offset of the table of sections, size of an entry, number of entries."""
_64_BITS, _LITTLE_ENDIAN = 2, 1


def _check_whole(path: Path) -> None:
    """Raises OSError for a file that was cut off: the loader would map it, and the process die of it (SIGBUS)."""
    with path.open("rb") as file:
        header = file.read(_ELF.size)
        size = file.seek(0, 2)
    if len(header) < _ELF.size:
        raise OSError("too short for an ELF file")
    magic, bits, order, sections, entry, count = _ELF.unpack(header)
    if magic != b"\x7fELF" or (bits, order) != (_64_BITS, _LITTLE_ENDIAN):
        raise OSError("not an ELF file of 64 bits")
    if size < sections + entry * count:  # the last thing in it
        raise OSError("the file was cut off")


def load(path: Path) -> ctypes.CDLL:
    """Raises LibraryError for a file that is no library for this machine, or one of another version."""
    try:
        _check_whole(path)
        library = ctypes.CDLL(str(path))
        holding = ctypes.PyDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library if name in _WAITING else holding, name)
            function.restype = result
            function.argtypes = arguments
            setattr(library, name, function)
    except OSError as error:
        raise LibraryError(f"{path} does not fit this machine: {error}") from error
    except AttributeError as error:
        raise LibraryError(f"{path} is of another version: {error}") from error
    form = (c_size_t * len(_ABI))()
    library.plane_abi(ctypes.byref(form))
    if tuple(form) != _ABI:
        raise LibraryError(f"{path} is of another version: its structures are {tuple(form)}, not {_ABI}")
    return library
