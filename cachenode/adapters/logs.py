"""Logs: one line an event on standard error, JSON where a program reads them, plain text on a terminal.

Keys and values are never logged; what may hold them (a caller's input, an exception's text from a library) is reduced
to its kind where it is caught.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

__all__ = ["configure"]


def configure(level: str, log_format: str, node_id: str) -> None:
    """Set the process's logging up.

    Args:
        level: Least severe level to write: debug, info, warning or error.
        log_format: "json", "text", or "auto": text on a terminal.
        node_id: Put in every line.
    """
    text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty() and "NO_COLOR" not in os.environ,
            exception_formatter=structlog.dev.plain_traceback,
        )
        if text
        else structlog.processors.JSONRenderer()
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not text:
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # locals hold keys and values
        shared.append(structlog.processors.ExceptionRenderer(frames))
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(node=node_id)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
