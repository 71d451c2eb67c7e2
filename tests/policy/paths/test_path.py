"""Paths that servers read in different ways: covered only where every reading is, denied where any is."""

from __future__ import annotations

import re
import time
from functools import cache
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.policy.paths.path import parse_path_pattern, path_denied, path_matches
from cloned_proxy.policy.paths.path_readings import _read_path

COVERED = [
    ("/**", "/@scope%2fpkg"),
    ("/**", "/@scope%2Fpkg/-/pkg-1.0.0.tgz?x=1"),
    ("/api/**", "/api/v4/projects/group%2Fsub%2Fproject/issues"),
    ("/api/**", "/api//x"),
    ("/api/**", "/api/x;v=1/y;jsessionid=0"),
    ("/api/**", "/api/a%252fb"),
    ("/api/**", "/api/x%5cb"),
    ("/api/**", "/api/what%3f"),
    ("/**", "/bucket//key"),
    ("/**", "/bucket/;"),
    ("/**", "/[id]/page"),
    ("/%5Bid%5D/**", "/[id]/page"),
    ("/[id]/**", "/%5bid%5d/page"),
    ("/@scope%2fpkg", "/@scope%2Fpkg"),
    ("/@scope%2f*", "/@scope%2fpkg"),
    ("/projects/*%2f*/issues", "/projects/group%2Fproject/issues"),
    ("/x;v=1", "/x;v=1"),
    ("/bucket//*", "/bucket//key"),
    ("/x*", "/x;a=1"),
    ("/100%25%20off", "/100%25%20off"),
    ("/caf%c3%a9/**", "/caf%C3%A9/x"),
]
NOT_COVERED = [
    ("/api/**", "/api;v=1/x"),  # who cuts nothing off is not below /api
    ("/api/**", "/api%2fx"),
    ("/**", "//api/x"),  # /x at another host, for who takes it for a URL
    ("/**", "/%2fapi/x"),
    ("/**", "/;/api/x"),
    ("/api/**", "/x//api/y"),
    ("/@scope/*", "/@scope%2fpkg"),
    ("/@scope%2f*", "/@scope/pkg"),
    ("/@scope%2f*", "/@scope%2fa%2fb"),
    ("/projects/*/issues", "/projects/group%2Fproject/issues"),
    ("/users/*/public", "/users/me%3f/public"),
    ("/x", "/x;a=1"),
    ("/api/**", "/api/..%2f..%2fx"),
    ("/**", "/a%2f..%2fx"),
    ("/**", "/a/..;/b"),
    ("/**", "/a/..;x=1/b"),
    ("/**", "/a/;x/../b"),
    ("/**", "/a/%2e%2e/b"),
    ("/**", "/a/%252e%252e/b"),
    ("/**", "/a/%25%32%65%252%65/b"),
    ("/**", "/a/..%20/b"),
    ("/**", "/a/..%3fx/b"),
    ("/**", "/a%5c..%5cb"),
    ("/**", "/a/%c0%ae%c0%ae/b"),
    ("/**", "/a/%25c0%25ae%25c0%25ae/b"),
    ("/**", "/a/%ef%bc%8e%ef%bc%8e/b"),
    ("/**", "/a/%e2%80%a5/b"),
    ("/**", "/a/..%7f/b"),
    ("/**", "/a/.%e2%80%8b./b"),
    ("/**", "/a/..%C2%AD/b"),
    ("/**", "/a/%EF%BB%BF../b"),
    ("/**", "/a%00b"),
    ("/**", "/a%2500b"),
    ("/**", "/a%zz"),
    ("/**", "/a%"),
    ("/**", "/a\\..\\b"),
    ("/**", "/" + "a%2f" * 21),
]


@pytest.mark.parametrize(("glob", "path"), COVERED)
def test_a_path_is_covered_where_every_reading_is(glob: str, path: str) -> None:
    assert path_matches(parse_path_pattern(glob), path)


@pytest.mark.parametrize(("glob", "path"), NOT_COVERED)
def test_a_path_is_not_covered_where_one_reading_leaves(glob: str, path: str) -> None:
    assert not path_matches(parse_path_pattern(glob), path)


DENIED = [
    ("/admin/**", "/admin/x"), ("/admin/**", "/ADMIN/x"), ("/admin", "/admin/"), ("/admin/", "/admin"),
    ("/admin/**", "//admin/x"), ("/admin/**", "/pub//../admin"), ("/admin/**", "/admin;x/y"),
    ("/admin/**", "/adm%69n"),
    ("/admin/**", "/%2561dmin/y"), ("/admin/**", "/admin%2fy"), ("/admin/**", "/admin%5cy"),
    ("/admin/**", "/admin%3fy"),
    ("/admin/**", "/host//admin/../x"), ("/admin/**", "//host/admin/x"), ("/admin/**", "/admin./x"),
    ("/a/!x", "/a/%21x"),
    ("/admin/**", "/admin::$DATA/x"), ("/admin/**", "/admin:$I30:$INDEX_ALLOCATION/x"), ("/a.txt", "/a.txt::$data"),
    ("/a.txt", "/A.TXT%3A%3A%24DATA"), ("/a.txt", "/a.txt:%20:$DATA"), ("/a.txt", "/a.txt.::$DATA"), ("/x:y", "/x:y"),
    ("/admin/**", "/%EF%BD%81dmin/x"), ("/admin/**", "/%EF%BC%A1%EF%BC%A4min"), ("/a.txt", "/a%EF%BC%8Etxt"),
    ("/admin", "/admin%C2%A0"), ("/admin/**", "/%E3%80%80admin/x"), ("/%EF%BD%81", "/a"), ("/admin", "/admin%E2%80%83"),
    ("/admin/**", "/x%00"), ("/admin/**", "/x%zz"), ("/**/secret/**", "/a/b%2fsecret/c"), ("/stra%C3%9Fe", "/STRASSE"),
]  # fmt: skip
NOT_DENIED = [
    ("/admin/**", "/"), ("/admin/**", "/public/x"), ("/admin", "/admin/x"), ("/admin/**", "/x/admin/y"),
    ("/admin/**", "/x%2fy"),
    ("/admin/**", "/administrator"), ("/v1/a", "/v1/a:batch"), ("/v1/a:batch", "/v1/a"), ("/a", "/a:$b"),
]  # fmt: skip


@pytest.mark.parametrize(("glob", "path"), DENIED)
def test_a_path_is_denied_where_any_reading_is(glob: str, path: str) -> None:
    assert path_denied(parse_path_pattern(glob), path)


@pytest.mark.parametrize(("glob", "path"), NOT_DENIED)
def test_a_path_without_such_a_reading_is_not_denied(glob: str, path: str) -> None:
    assert not path_denied(parse_path_pattern(glob), path)


@pytest.mark.parametrize(
    "path",
    [
        "/" + "%2f;" * 10,
        "/" + "%2f" * 20_000,
        "/%" + "25" * 30_000 + "41",
        "/" + "//" * 30_000,
        "/" + "%25" * 20_000,
        "/" + "a" * 60_000,
    ],
    ids=["readings", "slashes", "a chain of encodings", "empty segments", "percent signs", "length"],
)
def test_the_work_for_one_path_is_bounded(path: str) -> None:
    began = time.process_time()
    path_matches(parse_path_pattern("/*;*/**"), path)
    path_denied(parse_path_pattern("/*;*/**"), path)
    assert time.process_time() - began < 1  # some milliseconds; without the bounds minutes


def test_what_is_kept_of_paths_is_bounded() -> None:
    kept = _read_path.cache_info().currsize
    path_matches(parse_path_pattern("/**"), "/" + "a" * 5000)
    assert _read_path.cache_info().currsize <= kept + 1  # the pattern


# An independent reading of the same rules: all texts that rewriting one place at a time leads to, and one regular
# expression for each glob. It is far too slow for more than a few places.
REWRITES: list[tuple[str, str]] = [
    (r"%(?:25)*(?:2f|5c)", "/"), (r"%(?:25)*3b", ";"), (r"%25(?=[0-9a-f]{2})", "%"), (r"//", "/"), (r";[^/]*", ""),
    (r"%(?:25)*(?:3f|23).*", ""),
]  # fmt: skip


@cache
def readings(text: str) -> frozenset[str]:
    found, new = set[str](), [text]
    while new:
        current = new.pop()
        if current in found:
            continue
        found.add(current)
        for pattern, by in REWRITES:
            new += [current[: m.start()] + by + current[m.end() :] for m in re.finditer(pattern, current)]
    return frozenset(found)


def leaves(text: str) -> bool:
    while (further := unquote(text)) != text:
        text = further
    for part in re.split(r"[/\\]", text):
        ends = (None, *(cut.start() for cut in re.finditer("[;?#]", part)))
        if any(re.fullmatch(r"\.+", part[:end]) for end in ends):
            return True
    return False


def never(path: str) -> bool:
    return any(leaves(reading) or reading.startswith("//") for reading in readings(path))


@cache
def expression(glob: str) -> re.Pattern[str]:
    """Of one reading of a glob, whose stars are no part of an escape."""
    parts = []
    for segment in glob.split("/")[1:]:
        if segment == "**":
            parts.append(r"(?:/[^/]*)*")
        elif segment == "*":
            parts.append(r"/[^/]+")
        else:
            parts.append("/" + "[^/]*".join(map(re.escape, segment.split("*"))))
    return re.compile("".join(parts))


def covers(glob: str, path: str) -> bool:
    if never(path):
        return False
    ways = [expression(way) for way in readings(glob)]
    every = all(any(way.fullmatch(reading) for way in ways) for reading in readings(path))
    return every and expression(glob).fullmatch(path) is not None


PIECE = st.sampled_from(["a", "b", "a", "b", ".", "..", "%2f", "%5c", ";", ";b", "%3b", "/", "/", "/", "%3f", "%252f"])
PATH = st.lists(PIECE, max_size=7).map("".join).filter(lambda text: text.count("%25") < 2).map(lambda text: "/" + text)
GLOB = (
    st.lists(st.sampled_from(["a", "b", "*", "**", "a*", "*%2f*", "a%2fb", "b;b", ""]), max_size=3)
    .map(lambda parts: "/" + "/".join(parts))
    .filter(lambda glob: not glob.startswith("//"))
)


@given(GLOB, PATH)
def test_paths_are_read_as_the_reference_reads_them(glob: str, path: str) -> None:
    assert path_matches(parse_path_pattern(glob), path) == covers(glob, path)


@given(PATH)
def test_a_rule_can_be_written_for_each_path_that_may_be_covered(path: str) -> None:
    assert path_matches(parse_path_pattern("/**"), path) == (not never(path))
    if path_matches(parse_path_pattern("/**"), path):
        assert path_matches(parse_path_pattern(path), path)


@given(GLOB, PATH)
def test_a_deny_covers_all_that_an_allow_of_the_same_path_covers(glob: str, path: str) -> None:
    pattern = parse_path_pattern(glob)
    assert not path_matches(pattern, path) or path_denied(pattern, path)


@pytest.mark.parametrize(
    "path", ["/admin%0a", "/admin%09", "/admin%0D%0a", "/admin%20%0a.", "/%20admin", "/%09admin%1f/"]
)
def test_a_deny_covers_what_a_server_trims(path: str) -> None:
    assert path_denied(parse_path_pattern("/admin"), path)
    assert path_denied(parse_path_pattern("/admin/**"), f"{path.rstrip('/')}/x")
