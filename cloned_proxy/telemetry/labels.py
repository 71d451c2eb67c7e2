"""Label values that stand for what has none of its own."""

from __future__ import annotations

from typing import Final

ANONYMOUS_LABEL: Final = "_anonymous"
"""No tool."""
UNKNOWN_LABEL: Final = "_unknown"
"""A tool that the policy does not name."""
OTHER_LABEL: Final = "_other"
"""Whatever is not listed by itself."""
