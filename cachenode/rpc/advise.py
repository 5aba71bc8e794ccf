"""The admin call that says whether caching pays, from what this node has counted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from grpc import aio

from cachenode.core.failures import UNKNOWN_NAMESPACE
from cachenode.node.namespaces import Namespace
from cachenode.node.service import Node
from cachenode.rpc.status import abort
from cachenode_api.advise import Measured, Wishes, advise
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2

__all__ = ["AdviseCalls"]

Context = aio.ServicerContext[Any, Any]


class AdviseCalls:
    """A part of the admin service."""

    _node: Node

    async def Advise(self, request: pb.AdviseRequest, context: Context) -> pb.AdviseResponse:  # noqa: N802
        """Return what was counted over the last minutes, and what follows from that."""
        node = self._node
        if request.namespace and not node.namespaces.allows(request.namespace):
            await abort(context, UNKNOWN_NAMESPACE)
        now = node.clock.now()
        wishes = Wishes(
            staleness_s=request.staleness_s if request.HasField("staleness_s") else None,
            consistent=request.consistent,
            load_s=request.load_s if request.HasField("load_s") else None,
        )
        found = [
            _advice(space, space.measured(now), wishes)
            for space in node.namespaces
            if request.namespace in {"", space.policy.name}
        ]
        header = common_pb2.ResponseHeader(node_id=node.placement.me.id, view_epoch=node.placement.epoch)
        return pb.AdviseResponse(header=header, namespaces=found)


def _advice(space: Namespace, measured: Measured, wishes: Wishes) -> pb.NamespaceAdvice:
    advice = advise(measured, wishes)
    return pb.NamespaceAdvice(
        name=space.policy.name,
        measured=pb.Measured(**asdict(measured)),
        cache=advice.cache,
        ttl_s=advice.ttl_s,
        pattern=advice.pattern.value if advice.pattern is not None else "",
        refresh=advice.refresh,
        reasons=advice.reasons,
        notes=advice.notes,
        missing=advice.missing,
    )
