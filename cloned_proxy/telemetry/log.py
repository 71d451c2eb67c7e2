"""Messages for the operator, on stderr: lines for people, or JSON for machines. Decisions go to the audit log."""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal

import structlog

from cloned_proxy.program_name import in_this_shell

type LogFormat = Literal["console", "json"]


def configure_logging(style: LogFormat = "console", *, level: int = logging.INFO) -> None:
    """Sets up structlog for this process. Colours only on a terminal, and never with `NO_COLOR`."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if style == "json" else "%Y-%m-%dT%H:%M:%SZ", utc=True),
    ]
    last: list[structlog.typing.Processor]
    if style == "json":
        # Never with the locals of the frames, which the ready-made `dict_tracebacks` prints: they hold keys and tokens.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last = [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
    else:
        colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        last = [
            _typeable,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
        ]
    structlog.configure(
        processors=shared + last,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,  # a logger made at import must follow this call
    )
    _route_standard_logging(shared, last)


def _typeable(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Commands of ours as the reader of this terminal can type them."""
    if isinstance(event["event"], str):
        event["event"] = in_this_shell(event["event"])
    return event


def _route_standard_logging(shared: list[structlog.typing.Processor], last: list[structlog.typing.Processor]) -> None:
    """Libraries, asyncio and warnings speak by the standard way: their messages take the same form as ours."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    logging.getLogger().handlers = [handler]
    logging.captureWarnings(capture=True)
