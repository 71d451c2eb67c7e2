"""What clients wait for (`telemetry/wait_metrics.py`), in words with what bounds it, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cloned_proxy.cli.show.output import visible

_IN_WORDS: Final = {
    "max_connections": (
        "a place (`proxy: {max_connections: …}`)",
        "find who holds the places (`cloned-proxy status` counts open tunnels), or raise max_connections",
    ),
    "open_files": ("a file descriptor (`ulimit -Hn`)", "raise it for `serve`"),
    "audit_queue": ("the log (`audit: {queue: …}`, the disk)", "see to the load and the disk of the workspace"),
    "denials_per_minute": (
        "their refusals (`denials_per_minute`)",
        "`cloned-proxy log --denied --since 1h` shows who is refused so often",
    ),
}


def waited_for(reasons: Sequence[str]) -> str:
    """One sentence about these reasons; a newer proxy may give others than are known here."""
    what = ", ".join(_IN_WORDS[each][0] if each in _IN_WORDS else visible(each) for each in reasons)
    return f"within the last minute clients have waited for {what}"


def against_waiting(reasons: Sequence[str]) -> str:
    """What to do about each of the reasons that is known here."""
    return "; ".join(_IN_WORDS[each][1] for each in reasons if each in _IN_WORDS) or "see its documentation"
