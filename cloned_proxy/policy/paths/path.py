"""Path globs: `*` is one segment or a part of one, `**` any number of segments (none included).

A target is compared segment by segment, without its query. Where it can be read in several ways (`%2f`, `;v=1`, `//`:
`policy.paths.path_readings`), an allow covers it when the glob matches it as written and covers every other reading;
a deny covers it when it covers any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final
from unicodedata import normalize

from cloned_proxy.policy.paths.path_readings import MOST_KEPT, Edge, Readings, decoded, read_path
from cloned_proxy.policy.terms.rule import PathPattern

_ANY: Final = "**"
_BLANKS: Final = "".join(map(chr, range(0x21)))
"""What servers trim (Java's `trim`), or do not see behind a name (`$` of most regular expressions, of `%0a`)."""

_STREAM: Final = re.compile(r":[^:]*:[\s\x00-\x20]*\$.*", re.DOTALL)
"""`::$DATA`, `:$I30:$INDEX_ALLOCATION`: behind them stands the same file or directory (Microsoft, MS-FSCC 2.1.5)."""

type _States = frozenset[int]
"""Where in a glob a reading may stand."""


def parse_path_pattern(text: str) -> PathPattern:
    """Raises ValueError with the fix in its message."""
    if not text.startswith("/"):
        raise ValueError(f"{text!r}: a path starts with '/'; write {'/' + text!r}")
    if "?" in text or "#" in text:
        raise ValueError(f"{text!r}: queries and fragments are not compared; leave out everything from '?' or '#'")
    readings = read_path(text)
    if readings is None:
        raise ValueError(
            f"{text!r} would match nothing: no rule covers dot segments, '//' in front, '\\', NUL, a bad %-escape, or "
            "more than 20 places that can be read in two ways; write the plain path, other characters percent-encoded"
        )
    for segment in readings.segments:
        if _ANY in segment and segment != _ANY:
            raise ValueError(
                f"{text!r}: '**' stands alone between slashes, as in '/repos/**'; use '*' inside a segment"
            )
    return PathPattern(text, readings.segments)


def path_matches(pattern: PathPattern, target: str) -> bool:
    """Whether an origin-form target (path and query) is covered: as it is written, and in every other reading.

    A path that may be read as anything (`..` in any encoding, NUL, a bad escape) is covered by no pattern.
    """
    readings = read_path(target.partition("?")[0])
    if readings is None or not _glob(pattern.segments, readings.segments, _ANY, _segment_matches):
        return False
    if not readings.edges:
        return True
    return all(_ends(_glob_of(pattern.text), readings.edges))


def path_denied(pattern: PathPattern, target: str) -> bool:
    """Whether an explicit deny covers an origin-form target: in any reading, or because it may be read as anything.

    Compared decoded and without regard to case, a slash at the end, blanks and control characters around a segment,
    and dots at its end, letters of other widths, and the name of a stream of NTFS (`::$DATA`): one of the servers that
    a path may reach does not tell them apart.
    """
    path = target.partition("?")[0]
    return _denied(pattern.text, path) if len(path) <= MOST_KEPT else _denied.__wrapped__(pattern.text, path)


class _Glob:
    """The readings of a pattern, as a machine that takes the segments of a path one by one."""

    __slots__ = ("edges", "end")

    def __init__(self, edges: tuple[tuple[Edge, ...], ...]) -> None:
        self.edges: Final = edges
        self.end: Final = len(edges)

    def closed(self, states: Iterable[int]) -> _States:
        """The states, and all that are reached from them without a segment."""
        found, new = set[int](), list(states)
        while new:
            state = new.pop()
            if state in found:
                continue
            found.add(state)
            if state < self.end:
                new += [behind for glob, behind in self.edges[state] if glob in (None, _ANY)]
        return frozenset(found)

    def step(self, states: _States, segment: str) -> _States:
        """Where a reading may stand after one more segment."""
        after = set[int]()
        for state in states:
            for glob, behind in self.edges[state] if state < self.end else ():
                if glob == _ANY:
                    after.add(state)
                elif glob is not None and _segment_matches(glob, segment):
                    after.add(behind)
        return self.closed(after)


type _Graph = tuple[tuple[Edge, ...], ...]


def _graph(readings: Readings) -> _Graph:
    return readings.edges or tuple(((segment, at + 1),) for at, segment in enumerate(readings.segments))


@lru_cache(maxsize=4096)
def _glob_of(text: str) -> _Glob:
    readings = read_path(text)
    return _Glob(() if readings is None else _graph(readings))


@lru_cache(maxsize=4096)
def _denied(pattern: str, path: str) -> bool:
    readings = read_path(path)
    return readings is None or any(_ends(_folded_glob(pattern), _folded(_graph(readings), streams=True)))


@lru_cache(maxsize=4096)
def _folded_glob(text: str) -> _Glob:
    return _Glob(_folded(_glob_of(text).edges, streams=False))


def _folded(graph: _Graph, *, streams: bool) -> _Graph:
    """As a deny compares: with the segments of the most careless server, and without a slash at the end.

    `streams`: a segment may also be a file that is named with one of its streams.
    """
    last = len(graph)

    def fold(segment: str | None, behind: int) -> Edge:
        if not segment:
            return (None if last > 1 else segment, behind)
        text = normalize("NFKC", decoded(segment)).casefold()
        if streams:
            text = _STREAM.sub("", text)
        return (text.lstrip(_BLANKS).rstrip(_BLANKS + "."), behind)

    return tuple(tuple(fold(*edge) for edge in out) for out in graph)


def _ends(glob: _Glob, graph: _Graph) -> set[bool]:
    """Whether the glob covers a reading, for all of them: each way through the graph with each state it leads to."""
    last = len(graph)
    start = (0, glob.closed((0,)))
    seen, new, ends = {start}, [start], set[bool]()
    while new:
        node, states = new.pop()
        if node == last:
            ends.add(glob.end in states)
            continue
        for segment, behind in graph[node]:
            after = (behind, states if segment is None else glob.step(states, segment))
            if after not in seen:
                seen.add(after)
                new.append(after)
    return ends


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
