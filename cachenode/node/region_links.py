"""All that a node has to do with other regions: it tells them, sends to them, and acts on what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cachenode.node.region_loads import RegionLoads
from cachenode.node.region_receiver import RegionReceiver
from cachenode.node.region_sender import RegionSender
from cachenode.node.region_values import RegionValues
from cachenode.node.regions import Regions

if TYPE_CHECKING:
    from cachenode.core.breaker import Breaker
    from cachenode.core.origin_limits import OriginLimits
    from cachenode.node.service import Node
    from cachenode.ports import RegionLink, RegionStore

__all__ = ["RegionLinks"]

_FLUSH_S = 0.25
_ENDING_S = 0.5
_OF_A_LEASE = 0.6
"""What acting on a shipment may take, as a part of its sender's lease: less than the sender waits for it."""


class RegionLinks:
    """The regions of one node; gives the node its `Regions`.

    Args:
        node: The node.
        store: Of this region. Closed with this.
        links: The ways to the other regions, by their names. Closed with this.
        name: Of this region.
        lease_s: How long a sender has a link.
        breaker: For the store.
        limits: How hard another region may be asked to load something.
    """

    def __init__(
        self,
        node: Node,
        store: RegionStore,
        links: Mapping[str, RegionLink],
        *,
        name: str,
        lease_s: float,
        breaker: Breaker,
        limits: OriginLimits,
    ) -> None:
        me = node.placement.me
        self.store = store
        self.name = name
        self.regions = node.regions = Regions(node, store, links, breaker)
        self.loads = node.region_loads = RegionLoads(links, limits, node.clock)
        self.values = RegionValues(node, links, limits.timeout_s)
        self.receiver = RegionReceiver(node, store, name, links, values=self.values, timeout_s=_OF_A_LEASE * lease_s)
        self.senders = {
            remote: RegionSender(
                remote, store, link, sender=f"{me.id}:{me.incarnation}", clock=node.clock, lease_s=lease_s
            )
            for remote, link in links.items()
        }
        self.regions.wake = self.wake
        self._flushing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        for sender in self.senders.values():
            sender.start()
        self._flushing = asyncio.get_running_loop().create_task(self._flush())

    def wake(self) -> None:
        """Have the outbox looked at."""
        for sender in self.senders.values():
            sender.wake()

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            await self.regions.flush()

    async def stop(self) -> None:
        """Bring what is owed to the outbox, and let other nodes send. Called when no more writes begin."""
        await self.regions.ended(_ENDING_S)
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        await asyncio.gather(self.loads.close(), self.values.close())
        await asyncio.gather(*(sender.stop() for sender in self.senders.values()))
        await self.store.close()

    def counters(self) -> dict[str, Any]:
        """Return what `NodeStats` has of regions."""
        return {
            "regions": tuple(sender.counters() for sender in self.senders.values()),
            "origin_regions": tuple(self.receiver.counters()),
            "region": self.name,
            "regions_appended": self.regions.appended,
            "regions_owed": len(self.regions.owed),
        }
