"""The admin calls about what the node logs."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

import structlog
from grpc import aio

from cachenode.core.entries import Failure
from cachenode.core.log_levels import LEVELS, ROOT, LogLevels
from cachenode.rpc.status import abort
from cachenode_api.reasons import Reason
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2

if TYPE_CHECKING:
    from cachenode.node.service import Node

__all__ = ["LogLevelCalls"]

Context = aio.ServicerContext[Any, Any]

_log = structlog.get_logger(__name__)

_LONGEST_S = 7 * 86_400.0


class LogLevelCalls:
    """A part of the admin service."""

    _node: Node
    _levels: LogLevels

    async def GetLogLevels(  # noqa: N802
        self, request: pb.GetLogLevelsRequest, context: Context
    ) -> pb.GetLogLevelsResponse:
        """Return the levels in force."""
        placement, now = self._node.placement, time.monotonic()
        return pb.GetLogLevelsResponse(
            header=common_pb2.ResponseHeader(node_id=placement.me.id, view_epoch=placement.epoch),
            level=self._levels.level,
            loggers=[
                pb.LogLevel(logger=name, level=said.level, seconds=None if math.isinf(said.until) else said.until - now)
                for name, said in self._levels.said(now).items()
            ],
        )

    async def SetLogLevel(  # noqa: N802
        self, request: pb.SetLogLevelRequest, context: Context
    ) -> pb.GetLogLevelsResponse:
        """Change a level."""
        logger = request.logger or ROOT
        text = _wrong(logger, request.level, request.seconds)
        if text:
            await abort(context, Failure(Reason.INVALID_REQUEST, text))
        if request.level:
            until = time.monotonic() + request.seconds if request.seconds else math.inf
            self._levels.set(logger, request.level, until)
        else:
            self._levels.reset(logger)
        _log.warning("log_level", logger_name=logger, to=request.level or "reset", seconds=request.seconds or None)
        return await self.GetLogLevels(pb.GetLogLevelsRequest(), context)


def _wrong(logger: str, level: str, seconds: float) -> str:
    """Return what is wrong with a request, empty if nothing."""
    if logger not in sys.modules or logger.partition(".")[0] != ROOT:
        return f"logger: must be a module or package of {ROOT} that the node uses, such as {ROOT}.node.membership"
    if level and level not in LEVELS:
        return f"level: must be one of {', '.join(LEVELS)}"
    if not 0 <= seconds <= _LONGEST_S:
        return f"seconds: must be from 0 to {_LONGEST_S:,.0f}"
    return ""
