"""What can be a tool's id. Whoever takes one from outside asks here, so that no two doors differ."""

from __future__ import annotations

import re
from typing import Final

from cloned_proxy.policy.terms.vocabulary import GLOBAL_SCOPE

EXAMPLE: Final = "cloned.mcp.web.search@v1"
_TOOL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:@[A-Za-z0-9][A-Za-z0-9._-]{0,30})?", re.ASCII)


def is_tool_id(text: object) -> bool:
    """Whether it can name a tool: a name, perhaps with `@` and a version; at most 128 ASCII characters."""
    return isinstance(text, str) and text != GLOBAL_SCOPE and _TOOL_ID.fullmatch(text) is not None


def tool_id(text: object) -> str:
    """The id as it is. Raises ValueError with the fix in its message."""
    if not isinstance(text, str) or not is_tool_id(text):
        raise ValueError(f"{text!r} is not a tool id; write one such as {EXAMPLE}")
    return text
