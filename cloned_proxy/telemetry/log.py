"""Messages for the operator, on stderr: lines for people, or JSON for machines. Decisions go to the audit log."""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal

import structlog

type LogFormat = Literal["console", "json"]


def configure_logging(style: LogFormat = "console", *, level: int = logging.INFO) -> None:
    """Sets up structlog for this process. Colours only on a terminal, and never with `NO_COLOR`."""
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if style == "json":
        # Never with the locals of the frames, which the ready-made `dict_tracebacks` prints: they hold keys and tokens.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        processors += [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
    else:
        colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        processors.append(
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,  # a logger made at import must follow this call
    )
