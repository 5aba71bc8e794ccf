"""What the nodes say about themselves: the view and the number of keys, through the admin service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from grpc import aio

from cachenode_api.v1 import admin_pb2, admin_pb2_grpc

__all__ = ["NodeKeys", "Probe"]

_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """What one node holds."""

    keys: int
    used_bytes: int
    evictions: int


class Probe:
    """Connections to the admin service of each node.

    Args:
        addresses: By node id.
    """

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._channels = {name: aio.insecure_channel(address) for name, address in addresses.items()}
        self._stubs = {name: admin_pb2_grpc.AdminServiceStub(channel) for name, channel in self._channels.items()}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def members(self, node_id: str) -> set[str] | None:
        """Return the ids in the view of this node; None if it does not answer."""
        try:
            reply = await self._stubs[node_id].GetView(admin_pb2.GetViewRequest(), timeout=_TIMEOUT_S)
        except aio.AioRpcError:
            return None
        return {member.id for member in reply.view.members}

    async def keys(self) -> dict[str, NodeKeys]:
        """Return what each node that answers holds."""
        found: dict[str, NodeKeys] = {}
        for name, stub in self._stubs.items():
            try:
                reply = await stub.GetStats(admin_pb2.GetStatsRequest(), timeout=_TIMEOUT_S)
            except aio.AioRpcError:
                continue
            found[name] = NodeKeys(
                keys=sum(namespace.entries for namespace in reply.namespaces),
                used_bytes=reply.used_bytes,
                evictions=sum(namespace.evictions for namespace in reply.namespaces),
            )
        return found
