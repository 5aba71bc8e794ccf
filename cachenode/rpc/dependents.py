"""The admin call that shows what depends on keys."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from grpc import aio

from cachenode.core.entries import Failure
from cachenode.node.service import Node
from cachenode.rpc.status import abort
from cachenode_api.dependencies import parent_of
from cachenode_api.reasons import Reason
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2

__all__ = ["DependentsCall", "name_of"]

MOST = 10_000

Context = aio.ServicerContext[Any, Any]


class DependentsCall:
    """A part of the admin service."""

    _node: Node

    async def Dependents(  # noqa: N802
        self, request: pb.DependentsRequest, context: Context
    ) -> pb.DependentsResponse:
        """Return what depends on those of some keys that this node owns."""
        if len(request.keys) > MOST:
            text = f"keys: {len(request.keys):,} in one call, must be at most {MOST:,}"
            await abort(context, Failure(Reason.INVALID_REQUEST, text))
        placement = self._node.placement
        header = common_pb2.ResponseHeader(node_id=placement.me.id, view_epoch=placement.epoch)
        response = pb.DependentsResponse(header=header)
        for found in self._found(request):
            if len(response.dependencies) == MOST:
                response.more = True
                break
            response.dependencies.append(found)
        return response

    def _found(self, request: pb.DependentsRequest) -> Iterator[pb.Dependency]:
        now = self._node.clock.now()
        for parent in request.keys:
            namespace = self._node.namespaces.known(parent.namespace)
            if namespace is None or namespace.dependents is None or not self._node.placement.owns(parent.key):
                continue
            for reference, edge in sorted(namespace.dependents.edges(parent.key).items()):
                if not edge.spent and edge.until > now:
                    yield pb.Dependency(
                        parent=pb.KeyName(namespace=namespace.policy.name, key=parent.key),
                        dependent=name_of(reference),
                        direct=edge.direct,
                        ttl_ms=None if math.isinf(edge.until) else int((edge.until - now) * 1_000),
                    )


def name_of(reference: bytes) -> pb.KeyName:
    """Return the name of the key that a reference stands for."""
    namespace, key = parent_of(reference)
    return pb.KeyName(namespace=namespace, key=key)
