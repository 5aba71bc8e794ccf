"""AdminService: what a node knows about itself and its cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from grpc import aio

from cachenode.core.stats import NodeStats
from cachenode.node.placement import Placement
from cachenode.wire import view_to_wire
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import admin_pb2_grpc, common_pb2

__all__ = ["AdminService"]

LINKED_WITHIN_S = 2.0


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Serves the admin calls.

    Args:
        placement: The view in force.
        stats: Returns the present counters.
        silences: Returns for each peer the seconds since it was last heard from, negative if never.
    """

    def __init__(
        self, placement: Placement, stats: Callable[[], NodeStats], silences: Callable[[], Mapping[str, float]]
    ) -> None:
        self._placement = placement
        self._stats = stats
        self._silences = silences

    async def GetView(  # noqa: N802 - the wire's name
        self, request: pb.GetViewRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.GetViewResponse:
        """Return the view and the state of the links."""
        peers = [
            pb.PeerState(node_id=peer, linked=0 <= silent_s <= LINKED_WITHIN_S, silent_s=silent_s)
            for peer, silent_s in sorted(self._silences().items())
        ]
        view = self._placement.view
        return pb.GetViewResponse(
            header=self._header(), view=view_to_wire(view) if view is not None else None, peers=peers
        )

    async def GetStats(  # noqa: N802 - the wire's name
        self, request: pb.GetStatsRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.GetStatsResponse:
        """Return the counters."""
        stats = self._stats()
        return pb.GetStatsResponse(
            header=self._header(),
            incarnation=stats.incarnation,
            version=stats.version,
            uptime_s=stats.uptime_s,
            max_bytes=stats.max_bytes,
            used_bytes=stats.used_bytes,
            sessions=stats.sessions,
            l2_state=stats.l2_state,
            l2_errors=stats.l2_errors,
            forwarded=stats.forwarded,
            namespaces=[
                pb.NamespaceStats(
                    name=namespace.name,
                    entries=namespace.entries,
                    used_bytes=namespace.used_bytes,
                    l1_hits=namespace.l1_hits,
                    l2_hits=namespace.l2_hits,
                    misses=namespace.misses,
                    sets=namespace.sets,
                    deletes=namespace.deletes,
                    evictions=namespace.evictions,
                    expirations=namespace.expirations,
                    loads=namespace.loads,
                    load_waits=namespace.load_waits,
                    load_failures=namespace.load_failures,
                )
                for namespace in stats.namespaces
            ],
        )

    def _header(self) -> common_pb2.ResponseHeader:
        return common_pb2.ResponseHeader(node_id=self._placement.me.id, view_epoch=self._placement.epoch)
