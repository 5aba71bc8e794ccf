"""Logs: one line an event on standard error, JSON where a program reads them, plain text on a terminal.

Keys and values are never logged; what may hold them (a caller's input, an exception's text from a library) is reduced
to its kind where it is caught.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

import structlog

from cachenode.core.log_bursts import LogBursts
from cachenode.core.log_levels import LEVELS, ROOT, LogLevels
from cachenode_api.tracing import switch, traceparent

__all__ = ["configure", "levels"]

levels = LogLevels()
"""The process's: what is logged can be changed while it runs."""
_bursts = LogBursts()


class _Logger:
    """Writes lines, and knows whose they are."""

    def __init__(self, name: str = ROOT) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Write a line."""
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    debug = info = warning = warn = error = critical = fatal = exception = msg


def _leave_out(logger: _Logger, method: str, event: Any) -> Any:  # noqa: ANN401 - structlog's
    """End a line that is not severe enough for its logger."""
    if not levels.writes(logger.name, LEVELS.get(method, LEVELS["error"]), time.monotonic()):
        raise structlog.DropEvent
    return event


def _count_repeats(logger: _Logger, _method: str, event: Any) -> Any:  # noqa: ANN401 - structlog's
    """End a line of an event that comes too often; say in the next one how many were left out."""
    left_out = _bursts.admit((logger.name, event["event"]), time.monotonic())
    if left_out < 0:
        raise structlog.DropEvent
    if left_out:
        event["left_out"] = left_out
    return event


def _name_trace(_logger: _Logger, _method: str, event: Any) -> Any:  # noqa: ANN401 - structlog's
    """Lead from a line to the trace that it belongs to, if that is being recorded."""
    parent = traceparent() if switch.tracer is not None else ""
    if parent:
        event["trace_id"] = parent.split("-")[1]
    return event


def configure(level: str, log_format: str, node_id: str, *, burst: int = 0) -> None:
    """Set the process's logging up.

    Args:
        level: Least severe level to write: debug, info, warning or error.
        log_format: "json", "text", or "auto": text on a terminal.
        node_id: Put in every line.
        burst: Most lines of one event in ten seconds; 0: any number.
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
    levels.configure(level)
    _bursts.most = burst
    shared: list[Any] = [
        _leave_out,
        _count_repeats,
        _name_trace,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not text:
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # locals hold keys and values
        shared.append(structlog.processors.ExceptionRenderer(frames))
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=_Logger,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(node=node_id)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
