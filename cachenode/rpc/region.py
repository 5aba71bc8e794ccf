"""RegionService: what other regions say."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from grpc import aio

from cachenode.core.entries import Failure
from cachenode.core.failures import NOT_READY, bad_key
from cachenode.core.regions import Cursor, Shipment
from cachenode.errors import L2Unavailable, OriginError, RegionUnavailable
from cachenode.node.region_receiver import RegionReceiver
from cachenode.node.service import Node
from cachenode.rpc.status import abort
from cachenode.wire import BadBatch, loaded_to_wire, region_entry_from_wire
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.reasons import Reason
from cachenode_api.v1 import region_pb2 as pb
from cachenode_api.v1 import region_pb2_grpc

__all__ = ["RegionService"]

Context = aio.ServicerContext[Any, Any]
T = TypeVar("T")

_NO_REGIONS = Failure(Reason.REGION_REFUSED, "regions.name: this node belongs to no region")


class RegionService(region_pb2_grpc.RegionServiceServicer):
    """Hands what other regions say to the node.

    Args:
        node: The node.
        receiver: Acts on it; None if the node belongs to no region.
    """

    def __init__(self, node: Node, receiver: RegionReceiver | None) -> None:
        self._node = node
        self._receiver = receiver

    async def Position(self, request: pb.PositionRequest, context: Context) -> pb.PositionResponse:  # noqa: N802
        """Say up to where this region has acted on what another one has to tell."""
        receiver = await self._ready(context)
        cursor = await _or_abort(receiver.position(request.origin, request.target), context)
        return pb.PositionResponse(cursor=_to_wire(cursor))

    async def Relay(self, request: pb.RelayRequest, context: Context) -> pb.RelayResponse:  # noqa: N802
        """Declare untrue what another region says."""
        receiver = await self._ready(context)
        try:
            entries = tuple(map(region_entry_from_wire, request.entries))
        except BadBatch as bad:
            await abort(context, Failure(Reason.INVALID_REQUEST, str(bad)))
        shipment = Shipment(request.outbox, request.after, request.head, entries, request.gap)
        cursor = await _or_abort(receiver.take(request.origin, request.target, shipment), context)
        return pb.RelayResponse(cursor=_to_wire(cursor))

    async def Load(self, request: pb.LoadRequest, context: Context) -> pb.LoadResponse:  # noqa: N802
        """Load a key from this region's origin."""
        receiver = await self._ready(context)
        if not 0 < len(request.key) <= MAX_KEY_BYTES:
            await abort(context, bad_key(len(request.key)))
        whose, name = (request.origin, request.target), request.namespace
        if request.cached_bytes:
            loading = receiver.cached(*whose, name, request.key, request.cached_bytes)
        else:
            loading = receiver.load(*whose, name, request.key)
        try:
            loaded = await _or_abort(loading, context)
        except OriginError as error:
            return pb.LoadResponse(failure=str(error))
        return pb.LoadResponse(loaded=None if loaded is None else loaded_to_wire(loaded, request.namespace))

    async def _ready(self, context: Context) -> RegionReceiver:
        if self._receiver is None:
            await abort(context, _NO_REGIONS)
        if not self._node.placement.ready or self._node.closing:
            await abort(context, NOT_READY)
        return self._receiver


async def _or_abort(work: Awaitable[T], context: Context) -> T:
    try:
        return await work
    except RegionUnavailable as error:
        reason = Reason.REGION_REFUSED if error.refused else Reason.NOT_READY
        await abort(context, Failure(reason, str(error)))
    except L2Unavailable as error:
        await abort(context, Failure(Reason.NOT_READY, f"the store of regions does not answer: {error}"))


def _to_wire(cursor: Cursor | None) -> pb.RegionCursor | None:
    return None if cursor is None else pb.RegionCursor(outbox=cursor.outbox, sequence=cursor.sequence)
