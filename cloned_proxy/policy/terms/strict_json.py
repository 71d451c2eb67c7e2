"""JSON that every reader reads alike: where a key stands twice, two readers could take different values.

RFC 8259 leaves both open: what a double key means (section 4), and what a reader takes besides numbers (section 6).
"""

from __future__ import annotations

import json
from typing import Any


def read_json(text: bytes | str) -> Any:
    """The value, in which every key of an object stands once and every number is one. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=each_key_once, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs: the `object_pairs_hook` of `json.loads`. Raises ValueError."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
