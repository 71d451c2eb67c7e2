"""Globs made of recorded paths cover each of them, and little else."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.policy.paths.path import parse_path_pattern, path_matches
from cloned_proxy.policy.paths.path_shape import path_globs, plain_path

SHAPES = [
    (["/"], ["/"]),
    (["/a", "/a/"], ["/a", "/a/"]),
    (["/repos/a/b", "/repos/c", "/repos/d/e/f"], ["/repos/a/b", "/repos/c", "/repos/d/e/f"]),
    (["/users/1/keys", "/users/2/keys", "/users/33/keys", "/users/me"], ["/users/*/keys", "/users/me"]),
    ([f"/v1/items/{number}" for number in range(50)], ["/v1/items/*"]),
    ([f"/repos/{owner}/x" for owner in "abcdefgh"], ["/repos/**"]),
    ([f"/repos/{owner}" for owner in "abcdefgh"], ["/repos/*"]),
    ([f"/v1/{name}" for name in "abcdefgh"] + ["/v1/"], ["/v1/", "/v1/*"]),
    ([f"/v1/{name}" for name in "abcdefgh"] + ["/v1"], ["/v1", "/v1/*"]),
    ([f"/{name}" for name in "abcdefgh"], []),
    ([f"/{number}x/y" for number in range(9)], []),
    (["/p/1%2f2", "/p/3%2f4", "/p/5%2f6"], ["/p/1%2f2", "/p/3%2f4", "/p/5%2f6"]),
    ([f"/p/a%2f{name}" for name in "abcdefgh"], ["/p/**"]),
    (["/bucket//a", "/m;v=1/x"], ["/bucket//a", "/m;v=1/x"]),
]


@pytest.mark.parametrize(("paths", "globs"), SHAPES)
def test_shapes(paths: list[str], globs: list[str]) -> None:
    assert path_globs(paths) == tuple(globs)


SEGMENT = st.one_of(
    st.text(string.ascii_lowercase + string.digits + "-_;%25/", min_size=1, max_size=12), st.integers(0, 10**9).map(str)
)
PATHS = st.lists(st.lists(SEGMENT, max_size=4).map(lambda parts: "/" + "/".join(parts)), min_size=1, max_size=40)


@given(PATHS, st.booleans())
def test_every_path_is_covered_by_a_glob(paths: list[str], slash: bool) -> None:
    paths = [path for path in [*paths, *([paths[0] + "/"] if slash else [])] if plain_path(path)]
    globs = path_globs(paths)
    for path in paths:
        assert not globs or any(path_matches(parse_path_pattern(glob), path) for glob in globs)


@pytest.mark.parametrize("path", ["/a*", "/../x", "/..;/x", "/%2f..", "/%00", "x", ""])
def test_a_path_that_no_rule_can_name_is_not_plain(path: str) -> None:
    assert not plain_path(path)
