"""Label values that stand for what has none of its own."""

from __future__ import annotations

from typing import Final

ANONYMOUS_LABEL: Final = "_anonymous"
"""The caller is no tool."""
UNKNOWN_LABEL: Final = "_unknown"
"""The caller is a tool that the policy does not name."""
OTHER_LABEL: Final = "_other"
"""Whatever is not listed by itself."""
