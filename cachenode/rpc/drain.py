"""The admin call that has a node leave."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from grpc import aio

from cachenode.core.entries import Failure
from cachenode.core.failures import NOT_READY
from cachenode.rpc.status import abort
from cachenode_api.reasons import Reason
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2

if TYPE_CHECKING:
    from cachenode.core.stats import NodeStats
    from cachenode.node.leaving import Leaving
    from cachenode.node.service import Node

__all__ = ["DrainCall"]

Context = aio.ServicerContext[Any, Any]

_EVERY_S = 0.1
_LONGEST_FLUSH_S = 3_600.0


class DrainCall:
    """A part of the admin service."""

    _node: Node
    _stats: Callable[[], NodeStats]
    _leaving: Leaving | None

    async def Drain(self, request: pb.DrainRequest, context: Context) -> AsyncIterator[pb.DrainProgress]:  # noqa: N802
        """Leave, and tell how far that is until it is done."""
        me = self._node.placement.me.id
        if request.node_id not in {"", me}:
            await abort(context, Failure(Reason.INVALID_REQUEST, f"node_id: this is {me}, which was not meant"))
        if not 0 <= request.flush_s <= _LONGEST_FLUSH_S or math.isnan(request.flush_s):
            text = f"flush_s: must be from 0 to {_LONGEST_FLUSH_S:,.0f}"
            await abort(context, Failure(Reason.INVALID_REQUEST, text))
        leaving = self._leaving
        if leaving is None:
            await abort(context, NOT_READY)
        left = leaving.begin(request.flush_s)
        while not left.done():
            yield self._progress(leaving)
            await asyncio.wait([left], timeout=_EVERY_S)
        yield self._progress(leaving)

    def _progress(self, leaving: Leaving) -> pb.DrainProgress:
        placement, stats = self._node.placement, self._stats()
        return pb.DrainProgress(
            header=common_pb2.ResponseHeader(node_id=placement.me.id, view_epoch=placement.epoch),
            stage=leaving.stage,
            seconds=leaving.seconds,
            sessions=stats.sessions,
            handed_over=stats.handed_over,
            unwritten=leaving.unwritten(),
            unfinished=leaving.unfinished,
        )
