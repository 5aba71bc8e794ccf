"""PeerService: the accepting side of the links between nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from grpc import aio

from cachenode_api.v1 import peer_pb2, peer_pb2_grpc

__all__ = ["LinkAcceptor", "PeerService"]


class LinkAcceptor(Protocol):
    """Takes the streams that peers open."""

    async def accept(self, frames: AsyncIterator[peer_pb2.PeerFrame], context: aio.ServicerContext[Any, Any]) -> None:
        """Serve one stream until it ends."""


class PeerService(peer_pb2_grpc.PeerServiceServicer):
    """Hands the streams that peers open to the links of this node."""

    def __init__(self, links: LinkAcceptor) -> None:
        self._links = links

    async def Link(  # type: ignore[override]  # noqa: N802 - the wire's name; writes through the context
        self, request_iterator: AsyncIterator[peer_pb2.PeerFrame], context: aio.ServicerContext[Any, Any]
    ) -> None:
        """Serve one link until it ends."""
        await self._links.accept(request_iterator, context)
