"""Loggers for commands that seldom have something to say: structlog, and rich with it, is imported with the first word.

A warm `exec` spends most of its own time on imports, and this one is the largest that it can do without.
"""

from __future__ import annotations

from typing import Any, Final

_wanted: Final[list[bool]] = []
"""One item when this process is to set up its logging with the first message."""


class LaterLogger:
    """A logger like that of `structlog.get_logger`, which sets up the logging with its first message."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        import structlog  # noqa: PLC0415  see above

        if _wanted:
            from cloned_proxy.telemetry.log import configure_logging  # noqa: PLC0415  as above

            _wanted.clear()
            configure_logging()
        return getattr(structlog.get_logger(self._name), method)


def configure_logging_later() -> None:
    """`configure_logging`, once there is something to log."""
    _wanted.append(True)
