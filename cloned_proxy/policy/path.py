"""Path globs: `*` is one segment or a part of one, `**` any number of segments (none included).

A target is compared segment by segment after the percent-encoding of unreserved characters is taken away
(RFC 3986, section 6.2.2.2). The query is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from cloned_proxy.policy.rule import PathPattern

_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
# RFC 3986 `pchar` and "/", without ";": servers that cut `;parameters` off read `/..;/` as a step upwards.
_PATH: Final = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,=:@/%]*")
# Encoded NUL, slash, semicolon, backslash, and an encoded percent sign that a second decoding would turn into more.
_AMBIGUOUS_ESCAPE: Final = re.compile(r"%(?:00|2[Ff]|3[Bb]|5[Cc]|25[0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_DOTS: Final = frozenset({".", ".."})


def parse_path_pattern(text: str) -> PathPattern:
    """Raises ValueError with the fix in its message."""
    if not text.startswith("/"):
        raise ValueError(f"{text!r}: a path starts with '/'; write {'/' + text!r}")
    if "?" in text or "#" in text:
        raise ValueError(f"{text!r}: queries and fragments are not compared; leave out everything from '?' or '#'")
    segments = _segments(text)
    if segments is None:
        raise ValueError(
            f"{text!r} can be read in two ways (dot segments, '//', ';', '\\', or a bad %-escape) and would "
            "match nothing; write the plain path, other characters percent-encoded"
        )
    for segment in segments:
        if "**" in segment and segment != "**":
            raise ValueError(
                f"{text!r}: '**' stands alone between slashes, as in '/repos/**'; use '*' inside a segment"
            )
    return PathPattern(text, segments)


def path_matches(pattern: PathPattern, target: str) -> bool:
    """Whether an origin-form target (path and query) is covered.

    An ambiguous path (dot segments, encoded slashes, backslashes, empty segments) is covered by no pattern: two
    readers could disagree about what it names.
    """
    segments = _segments(target.partition("?")[0])
    return segments is not None and _glob(pattern.segments, segments, "**", _segment_matches)


def _segments(path: str) -> tuple[str, ...] | None:
    """The segments of a path in comparable form; None when it is ambiguous."""
    if _PATH.fullmatch(path) is None or _BAD_ESCAPE.search(path) or _AMBIGUOUS_ESCAPE.search(path):
        return None
    segments = tuple(_ESCAPE.sub(_decode_unreserved, path).split("/")[1:])
    if "" in segments[:-1] or not _DOTS.isdisjoint(segments):
        return None
    return segments


def _decode_unreserved(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()


def _segment_matches(pattern: str, segment: str) -> bool:
    if pattern == "*":
        return segment != ""
    return _glob(pattern, segment, "*", str.__eq__)


def _glob(pattern: Sequence[str], items: Sequence[str], star: str, same: Callable[[str, str], bool]) -> bool:
    """Glob matching without recursion: on a mismatch the last star takes one item more, so time stays quadratic."""
    at = here = 0
    star_at, star_took = -1, 0
    while here < len(items):
        if at < len(pattern) and pattern[at] == star:
            star_at, star_took = at, here
            at += 1
        elif at < len(pattern) and same(pattern[at], items[here]):
            at += 1
            here += 1
        elif star_at >= 0:
            star_took += 1
            at, here = star_at + 1, star_took
        else:
            return False
    return all(rest == star for rest in pattern[at:])
