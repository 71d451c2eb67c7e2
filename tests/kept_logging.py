"""The settings of logging are those of a whole process: what one test has set would decide what another one reads."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import structlog


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Whatever is set inside, afterwards messages go where they went before."""
    configured, before = structlog.is_configured(), structlog.get_config()
    root = logging.getLogger()
    handlers, disabled = root.handlers, root.manager.disable
    try:
        yield
    finally:
        if configured:
            structlog.configure(**before)
        else:
            structlog.reset_defaults()
        root.handlers = handlers
        logging.disable(disabled)
        logging.captureWarnings(capture=False)
