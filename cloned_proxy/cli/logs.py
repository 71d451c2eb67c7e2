"""How `serve` writes its own log: for people, or one JSON object a line. Always stderr, never a secret."""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal

import structlog

type LogFormat = Literal["console", "json"]


def configure_logs(log_format: LogFormat) -> None:
    """Sends structlog and the standard library's loggers (mitmproxy, watchdog) through one pipeline."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        # The plain formatter: the rich one prints local variables, and those may hold a credential.
        renderer = structlog.dev.ConsoleRenderer(
            colors=colours, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
        )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # mitmproxy tells each connection at INFO, with hosts; the decisions are on record already.
    for noisy in ("mitmproxy", "watchdog", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
