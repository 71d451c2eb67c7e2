"""From recorded paths to the fewest globs that say what they have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cloned_proxy.policy.paths.path import parse_path_pattern
from cloned_proxy.policy.paths.path_readings import read_path
from cloned_proxy.policy.paths.suspicion import looks_random

_MANY: Final = 6
"""More different segments in one place than this are taken for values, not for names."""
_IDS: Final = 3
_ID: Final = re.compile(r"[0-9]+|[0-9a-fA-F]{8,}")


@dataclass(slots=True)
class _Node:
    """One place in the tree of paths."""

    ends: bool = False
    """Whether a path ends here."""
    below: dict[str, _Node] = field(default_factory=dict)

    def merge(self, other: _Node) -> None:
        self.ends |= other.ends
        for segment, node in other.below.items():
            if segment in self.below:
                self.below[segment].merge(node)
            else:
                self.below[segment] = node


def plain_path(path: str) -> bool:
    """Whether a rule can name this path; one with a star in it would cover more."""
    try:
        parse_path_pattern(path)
    except ValueError:
        return False
    return "*" not in path


def path_globs(paths: Iterable[str]) -> tuple[str, ...]:
    """Globs that cover all these plain paths, sorted; `()` when they have nothing in common.

    A segment that can be read in several ways (`@scope%2fpkg`) stays as it is: `*` would cover it in one of them only.
    Three ids in one place become `*`: `/users/1/keys` and its like are `/users/*/keys`. More than six different
    segments in one place become `/*`, or `/**` where the paths go deeper.
    """
    root = _Node()
    for path in paths:
        node = root
        for segment in path.split("/")[1:]:
            node = node.below.setdefault(segment, _Node())
        node.ends = True
    globs = sorted(_globs(root, ""))
    return () if "/**" in globs or "/*" in globs else tuple(globs)


def _globs(node: _Node, prefix: str) -> list[str]:
    globs = [prefix] if node.ends else []
    doubtful = [segment for segment in node.below if segment and _is_doubtful(segment)]
    ids = [
        segment
        for segment in node.below
        if segment not in doubtful and (_ID.fullmatch(segment) or looks_random(segment))
    ]
    below = dict(node.below)
    if len(ids) >= _IDS and len(node.below) - len(ids) <= _MANY:
        merged = below["*"] = _Node()
        for segment in ids:
            merged.merge(below.pop(segment))
    if len(below) > _MANY:
        leaves = not doubtful and all(not child.below for child in below.values())
        # An empty last segment (`/repos/`) is none that `*` covers.
        return [
            *globs,
            *([f"{prefix}/"] if leaves and "" in below else []),
            f"{prefix}/*" if leaves else f"{prefix}/**",
        ]
    for segment, child in below.items():
        globs += _globs(child, f"{prefix}/{segment}")
    return globs


def _is_doubtful(segment: str) -> bool:
    readings = read_path(f"/{segment}")
    return readings is None or bool(readings.edges)
