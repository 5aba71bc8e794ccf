"""The admin calls about the keys that are read most, and the largest values."""

from __future__ import annotations

import math
from typing import Any

from grpc import aio

from cachenode.core.entries import Failure
from cachenode.core.failures import UNKNOWN_NAMESPACE
from cachenode.node.key_sizes import biggest_keys
from cachenode.node.service import Node
from cachenode.rpc.status import abort
from cachenode_api.reasons import Reason
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2

__all__ = ["KeyListCalls"]

Context = aio.ServicerContext[Any, Any]

_MOST_KEYS = 100
_KEYS = 20


class KeyListCalls:
    """A part of the admin service."""

    _node: Node

    async def HotKeys(self, request: pb.HotKeysRequest, context: Context) -> pb.HotKeysResponse:  # noqa: N802
        """Return the keys that are read most."""
        limit = await self._limit(request, context)
        found, reads_per_s = self._node.hottest(limit, request.namespace)
        keys = [
            pb.HotKeysResponse.HotKey(
                namespace=each.key[0], key=each.key[1], reads_per_s=each.per_s, share=each.share, error=each.error
            )
            for each in found
        ]
        return pb.HotKeysResponse(header=_header(self._node), keys=keys, reads_per_s=reads_per_s)

    async def BigKeys(self, request: pb.BigKeysRequest, context: Context) -> pb.BigKeysResponse:  # noqa: N802
        """Return the largest values in memory."""
        limit = await self._limit(request, context)
        keys = [
            pb.BigKeysResponse.BigKey(
                namespace=each.namespace,
                key=each.key,
                size=each.size,
                ttl_ms=None if math.isinf(each.ttl_s) else int(each.ttl_s * 1_000),
            )
            for each in await biggest_keys(self._node, limit, request.namespace)
        ]
        return pb.BigKeysResponse(header=_header(self._node), keys=keys)

    async def _limit(self, request: pb.HotKeysRequest | pb.BigKeysRequest, context: Context) -> int:
        """Return how many keys are asked for; fail the call if that cannot be answered."""
        if request.namespace and self._node.namespaces.get(request.namespace) is None:
            await abort(context, UNKNOWN_NAMESPACE)
        if request.limit > _MOST_KEYS:
            await abort(context, Failure(Reason.INVALID_REQUEST, f"limit: must be at most {_MOST_KEYS}"))
        return request.limit or _KEYS


def _header(node: Node) -> common_pb2.ResponseHeader:
    return common_pb2.ResponseHeader(node_id=node.placement.me.id, view_epoch=node.placement.epoch)
