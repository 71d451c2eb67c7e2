"""Path globs: `*` is one segment or a part of one, `**` any number of segments."""

from __future__ import annotations

from cloned_proxy.policy.model import PathPattern


def parse_path_pattern(text: str) -> PathPattern:
    """Raises ValueError with the fix in its message."""
    raise NotImplementedError


def path_matches(pattern: PathPattern, target: str) -> bool:
    """Whether an origin-form target (path and query) is covered. An ambiguous path (dot segments, encoded slashes,
    backslashes, empty segments) is covered by no pattern: two readers could disagree about what it names."""
    raise NotImplementedError
