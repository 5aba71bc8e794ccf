"""The admin calls about where keys are: the ring, and what is in this node's memory."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from grpc import aio

from cachenode.core.entries import Failure
from cachenode.core.failures import NOT_READY, UNKNOWN_NAMESPACE, bad_key
from cachenode.node.walking import Slice, walk
from cachenode.rpc.status import abort
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, HEADER_BYTES, STALE
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2

if TYPE_CHECKING:
    from cachenode.node.service import Node
    from cachenode_api.ring import Ring

__all__ = ["RingCalls"]

Context = aio.ServicerContext[Any, Any]

_SAMPLE, _MOST_SAMPLE, _SLICE = 10_000, 100_000, 500
_RATE_PER_S, _FASTEST = 50_000.0, 10_000_000.0


class RingCalls:
    """A part of the admin service."""

    _node: Node

    async def Ring(self, request: pb.RingRequest, context: Context) -> pb.RingResponse:  # noqa: N802
        """Return how the keys are spread."""
        ring = self._node.placement.ring
        if ring is None or not ring.view.members:
            await abort(context, NOT_READY)
        if request.sample > _MOST_SAMPLE:
            text = f"sample: must be at most {_MOST_SAMPLE:,}"
            await abort(context, Failure(Reason.INVALID_REQUEST, text))
        if request.HasField("key") and not 0 < len(request.key) <= MAX_KEY_BYTES:
            await abort(context, bad_key(len(request.key)))
        size = request.sample or _SAMPLE
        sample, spaces, view = await _sampled(ring, size), ring.shares(), ring.view
        weights = sum(member.weight for member in view.members)
        return pb.RingResponse(
            header=self._its_header(),
            members=[
                pb.RingShare(
                    node_id=member.id,
                    ideal=member.weight / weights,
                    space=spaces[member.id],
                    sample=sample[member.id] / size,
                    points=member.weight * view.vnodes,
                )
                for member in view.members
            ],
            sample=size,
            position=ring.hash(request.key) if request.HasField("key") else 0,
            owners=ring.owners(request.key, len(view.members)) if request.HasField("key") else (),
        )

    async def Snapshot(self, request: pb.SnapshotRequest, context: Context) -> AsyncIterator[pb.SnapshotPart]:  # noqa: N802
        """Return the keys in memory, a slice at a time."""
        node, rate = self._node, request.rate_per_s
        if request.namespace and node.namespaces.get(request.namespace) is None:
            await abort(context, UNKNOWN_NAMESPACE)
        if rate and not 1 <= rate <= _FASTEST:
            text = f"rate_per_s: must be from 1 to {_FASTEST:,.0f}"
            await abort(context, Failure(Reason.INVALID_REQUEST, text))
        chosen = [each for each in node.namespaces if request.namespace in ("", each.policy.name)]
        total, passed = sum(len(each.store) for each in chosen), 0
        async for part in walk(node, request.namespace, per_s=rate or _RATE_PER_S):
            passed += len(part.records)
            yield pb.SnapshotPart(
                header=self._its_header(), entries=_entries(part, request.prefix), passed=passed, total=total
            )

    def _its_header(self) -> common_pb2.ResponseHeader:
        placement = self._node.placement
        return common_pb2.ResponseHeader(node_id=placement.me.id, view_epoch=placement.epoch)


async def _sampled(ring: Ring, size: int) -> Counter[str]:
    """Look made-up keys up, with the loop's other work between slices."""
    found: Counter[str] = Counter()
    for first in range(0, size, _SLICE):
        owners = (ring.owner(b"key:%d" % number) for number in range(first, min(first + _SLICE, size)))
        found.update(owner for owner in owners if owner is not None)
        await asyncio.sleep(0)
    return found


def _entries(part: Slice, prefix: bytes) -> list[pb.SnapshotEntry]:
    store, name = part.namespace.store, part.namespace.policy.name
    found = []
    for key, record in part.records:
        if not key.startswith(prefix):
            continue
        _, flags, version, deadline = HEADER.unpack_from(record)
        found.append(
            pb.SnapshotEntry(
                namespace=name,
                key=key,
                size=len(record) - HEADER_BYTES,
                version=version,
                ttl_ms=None if math.isinf(deadline) else max(0, int((deadline - part.now) * 1_000)),
                stale=bool(flags & STALE),
                heat=store.heat(record),
            )
        )
    return found
