"""The admin calls about other regions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from grpc import aio

from cachenode.core.entries import Failure
from cachenode.core.stats import NodeStats
from cachenode.errors import L2Unavailable
from cachenode.node.service import Node
from cachenode.rpc.status import abort
from cachenode_api.reasons import Reason
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2

__all__ = ["RegionCalls", "regions_of"]

Context = aio.ServicerContext[Any, Any]

_NO_REGIONS = Failure(Reason.INVALID_REQUEST, "this node belongs to no region; regions.name makes it one")


class RegionCalls:
    """A part of the admin service."""

    _node: Node

    async def SetRegion(self, request: pb.SetRegionRequest, context: Context) -> pb.SetRegionResponse:  # noqa: N802
        """Have nothing sent to a region any more, or again."""
        regions = self._node.regions
        if regions is None:
            await abort(context, _NO_REGIONS)
        if request.name not in regions.remotes:
            known = ", ".join(regions.remotes) or "none"
            await abort(context, Failure(Reason.INVALID_REQUEST, f"name: no such region; there are {known}"))
        try:
            await regions.pause(request.name, paused=request.paused)
        except L2Unavailable as error:
            await abort(context, Failure(Reason.NOT_READY, f"the store of regions does not answer: {error}"))
        return pb.SetRegionResponse(header=common_pb2.ResponseHeader(node_id=self._node.placement.me.id))


def regions_of(stats: NodeStats) -> dict[str, Any]:
    """Return what a node's counters say of regions: the messages have the names of the counters."""
    return {
        "region": stats.region,
        "regions": [pb.RegionStats(**asdict(each)) for each in stats.regions],
        "origin_regions": [pb.OriginRegionStats(**asdict(each)) for each in stats.origin_regions],
        "regions_appended": stats.regions_appended,
        "regions_owed": stats.regions_owed,
    }
