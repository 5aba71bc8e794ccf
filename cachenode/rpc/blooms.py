"""The admin calls about Bloom filters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc import aio

from cachenode.core.bloom_counters import BloomCounters
from cachenode.core.entries import Failure
from cachenode.core.failures import NOT_READY, UNKNOWN_NAMESPACE
from cachenode.node.service import Node
from cachenode.rpc.status import abort
from cachenode_api.reasons import Reason
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2

__all__ = ["BloomCalls"]

Context = aio.ServicerContext[Any, Any]

_EVERY_S = 0.2
_NO_FILTER = Failure(Reason.INVALID_REQUEST, "namespace: it has no Bloom filter; namespaces.<name>.bloom turns it on")


class BloomCalls:
    """A part of the admin service."""

    _node: Node

    async def BloomStatus(self, request: pb.BloomStatusRequest, context: Context) -> pb.BloomStatusResponse:  # noqa: N802
        """Return the state of the filters."""
        node = self._node
        if request.namespace and node.namespaces.get(request.namespace) is None:
            await abort(context, UNKNOWN_NAMESPACE)
        wall, epoch = node.wall(), node.placement.epoch
        filters = [
            _filter(space.policy.name, space.bloom.counters(wall, epoch))
            for space in node.namespaces
            if space.bloom is not None and request.namespace in {"", space.policy.name}
        ]
        header = common_pb2.ResponseHeader(node_id=node.placement.me.id, view_epoch=epoch)
        return pb.BloomStatusResponse(header=header, filters=filters)

    async def RebuildBloom(  # noqa: N802
        self, request: pb.RebuildBloomRequest, context: Context
    ) -> AsyncIterator[pb.RebuildBloomProgress]:
        """Rebuild a filter, and tell how far that is until it has ended."""
        node = self._node
        namespace = node.namespaces.get(request.namespace)
        if namespace is None:
            await abort(context, UNKNOWN_NAMESPACE)
        if namespace.bloom is None:
            await abort(context, _NO_FILTER)
        if not node.placement.ready or node.closing:
            await abort(context, NOT_READY)
        expected = namespace.bloom.counters(0.0, 0).listed
        rebuild = node.blooms.rebuild(namespace)
        assert rebuild.task is not None
        while not rebuild.task.done():
            yield pb.RebuildBloomProgress(stage=rebuild.stage, keys=rebuild.keys, expected=expected)
            await asyncio.wait([rebuild.task], timeout=_EVERY_S)
        stage = rebuild.stage if rebuild.stage == "done" else "failed"
        error = rebuild.error or ("" if stage == "done" else "the node is stopping")
        yield pb.RebuildBloomProgress(stage=stage, keys=rebuild.keys, expected=expected, error=error)


def _filter(namespace: str, found: BloomCounters) -> pb.BloomFilter:
    """Return a filter's state: the message has the names of its counters."""
    names = {field.name for field in pb.BloomFilter.DESCRIPTOR.fields} - {"namespace", "age_s"}
    age_s = found.age_s if found.age_s >= 0 else None
    return pb.BloomFilter(namespace=namespace, age_s=age_s, **{name: getattr(found, name) for name in names})
