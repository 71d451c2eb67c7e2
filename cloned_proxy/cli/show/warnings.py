"""What the layers below log while a command runs: warnings alone, and on stderr. Its stdout is an answer."""

from __future__ import annotations

import logging


def warnings_to_stderr() -> None:
    """For commands that open the vault, or talk to a fleet's store: structlog by itself writes to stdout."""
    from cloned_proxy.telemetry.log import configure_logging

    configure_logging(level=logging.WARNING)
