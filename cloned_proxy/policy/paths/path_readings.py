"""What servers make of one path: every reading of it, as a graph from its beginning to its end.

`/a%2fb` is one segment for one server and two for another; some cut `;v=1` off, merge `//`, decode twice, take a
backslash for a slash, or end a path at an encoded `?`. Each such place is read in each way, independently of the
others, because a request may pass several programs that do different parts of this. What no reading makes harmless
(dot segments in any encoding, `//` in front, NUL, broken escapes, overlong UTF-8) has no graph at all.

Sources: RFC 3986 (sections 3.3, 6.2.2), nginx `merge_slashes`, Apache `AllowEncodedSlashes`, the Servlet specification
(section 3.5, path parameters), Python `urllib.parse.urlsplit` for `//host/path`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

type Edge = tuple[str | None, int]
"""A segment in comparable form, and the node behind it; None: nothing stands there in this reading."""


class Readings(NamedTuple):
    """A path: node 0 is its beginning, the last node its end, and each way from one to the other is a reading."""

    segments: tuple[str, ...]
    """The segments as they are written: `%2f` and `;v=1` stay in theirs, and `//` holds an empty one."""
    edges: tuple[tuple[Edge, ...], ...]
    """For each node but the last. Empty for a path that can be read in one way only."""


MOST_KEPT: Final = 1024
"""Characters of a path; what comes of a longer one is found anew each time."""
_MOST_ROUNDS: Final = 8
"""The most rounds of percent-decoding. No client encodes so often, and each round costs as much as the path is long."""
_MOST: Final = 20
"""Places that can be read in two ways; the work for one path grows with their third power."""
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
# RFC 3986 `pchar` and "/", and the brackets that routers of web pages leave as they are.
_PATH: Final = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,;=:@/%\[\]]*")
_TWO_WAYS: Final = re.compile(r"//|;|%(?:00|2[F35]|3[BF]|5C|E2|EF)", re.IGNORECASE)
_OVERLONG: Final = re.compile(r"%(?:25)*(?:C[01]|E0%(?:25)*[89]|F0%(?:25)*8)", re.IGNORECASE)
# Both spellings of a separator for servers that decode (as often as they do), and those that Unicode folds into one.
_MAYBE_SLASH: Final = r"%(?:25)*(?:2F|5C)|%(?:25)*EF%(?:25)*BC%(?:25)*(?:8F|BC)"
_SEPARATOR: Final = re.compile(rf"(/)|({_MAYBE_SLASH})", re.IGNORECASE)
_CUT: Final = re.compile(r"(;|%(?:25)*3B)|(%(?:25)*(?:3F|23))", re.IGNORECASE)
_ENCODED_TWICE: Final = re.compile(r"%25(?=[0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SPECIAL: Final = re.compile(r"[/\\;?#]")
# Blanks, controls and characters without a width, which some programs drop before they look for dots.
_UNSEEN: Final = r"\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
_DOTS_AND_BLANKS: Final = re.compile(rf"[.{_UNSEEN}]*\.[.{_UNSEEN}]*")
_FOLDED_BY_UNICODE: Final = {0xFF0E: ".", 0x2024: ".", 0x2025: "..", 0xFF0F: "/", 0xFF3C: "/"}


def read_path(path: str) -> Readings | None:
    """The readings of a path without its query; None when one of them may be anything."""
    # The cache holds nothing of a size that a caller chooses.
    return _read_path(path) if len(path) <= MOST_KEPT else _read_path.__wrapped__(path)


@lru_cache(maxsize=4096)
def _read_path(path: str) -> Readings | None:
    if _PATH.fullmatch(path) is None or _BAD_ESCAPE.search(path) or _OVERLONG.search(path):
        return None
    if _TWO_WAYS.search(path) is None:
        segments = tuple(map(canonical, path.split("/")[1:]))
        return None if any(map(_is_dots, segments)) else Readings(segments, ())
    spelled = _ESCAPE.sub(_plain_unreserved, path)
    atoms, definite = _atoms(spelled)
    if not _is_understood(spelled, atoms):
        return None
    edges = _edges(atoms, definite)
    if any(text is not None and _is_dots(text) for out in edges for text, _ in out):
        return None
    if any(text is None for text, _ in edges[0]):
        return None  # `//host/path`: for a program that takes it for a URL without its scheme, `host` is the host
    return Readings(tuple(map(canonical, spelled.split("/")[1:])), edges)


def canonical(segment: str) -> str:
    """A segment as it is compared: unreserved characters without their escape, all other escapes in capitals."""
    return _ESCAPE.sub(_plain_unreserved, segment).replace("[", "%5B").replace("]", "%5D")


def decoded(segment: str) -> str:
    """A segment as a file system would take it, decoded as often as anybody does."""
    return _decoded_to_the_end(segment) or ""


def _decoded_to_the_end(text: str) -> str | None:
    """None for what is encoded too often."""
    raw = text.encode()
    for _ in range(_MOST_ROUNDS):
        if (further := unquote_to_bytes(raw)) == raw:
            return raw.decode("utf-8", "surrogateescape").translate(_FOLDED_BY_UNICODE)
        raw = further
    return None


def _plain_unreserved(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()


def _is_dots(segment: str) -> bool:
    """A dot segment, or what a server may trim to one."""
    return "." in (text := decoded(segment) if "%" in segment else segment) and bool(_DOTS_AND_BLANKS.fullmatch(text))


def _atoms(spelled: str) -> tuple[list[str], list[bool]]:
    """What stands between possible separators, and the separators themselves: whether the one behind it is sure.

    The text of a doubtful separator leads the atom behind it, so that joined atoms are the segment as it is written.
    """
    atoms: list[str] = []
    sure: list[bool] = []
    at, lead = 1, ""
    for found in _SEPARATOR.finditer(spelled, 1):
        atoms.append(lead + spelled[at : found.start()])
        sure.append(found[1] is not None)
        lead, at = "" if found[1] is not None else found[0], found.end()
    atoms.append(lead + spelled[at:])
    return atoms, sure


def _is_understood(spelled: str, atoms: list[str]) -> bool:
    """Whether there are few enough doubtful places, and whether decoding to the end brings up no other ones."""
    text = _decoded_to_the_end(spelled)
    if text is None or "\x00" in text:
        return False
    cuts = sum(len(_CUT.findall(atom)) for atom in atoms)
    found = len(_SPECIAL.findall(text))
    doubtful = cuts + sum(1 for atom in atoms if atom == "" or _SEPARATOR.match(atom))
    return found == len(atoms) + cuts and doubtful <= _MOST


def _edges(atoms: list[str], sure: list[bool]) -> tuple[tuple[Edge, ...], ...]:
    last = len(atoms)
    return tuple(tuple(dict.fromkeys(_out_of(start, atoms, sure))) for start in range(last))


def _out_of(start: int, atoms: list[str], sure: list[bool]) -> list[Edge]:
    """The segments that begin at an atom: alone, or joined with the next ones by separators that are none."""
    last = len(atoms)
    out: list[Edge] = []
    written = _SEPARATOR.sub("", atoms[start], count=1) if _SEPARATOR.match(atoms[start]) else atoms[start]
    for end in range(start + 1, last + 1):
        for text, behind in _spellings(written, end, last):
            out += [(each, behind) for each in _decodings(text)]
            if not text and behind < last:
                out.append((None, behind))  # merged with the slash before it
        if end == last or sure[end - 1]:
            break
        written += atoms[end]
    return out


def _spellings(written: str, end: int, last: int) -> list[tuple[str, int]]:
    """The segment whole, without its parameters, and as the end of the path."""
    cuts = _CUT.finditer(written)
    return [(written, end), *((written[: cut.start()], end if cut[1] else last) for cut in cuts)]


def _decodings(text: str) -> list[str]:
    found = [canonical(text)]
    while (further := _ENCODED_TWICE.sub("%", text)) != text:
        text = further
        found.append(canonical(text))
    return found
