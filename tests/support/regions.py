"""Regions in one loop: nodes with an outbox each, and links that can be cut, or lose what is answered."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.adapters.regions_memory import MemoryRegions
from cachenode.core.breaker import Breaker
from cachenode.core.entries import Loaded
from cachenode.core.origin_limits import OriginLimits
from cachenode.core.policy import NamespacePolicy
from cachenode.core.regions import Cursor, RegionEntry, Shipment
from cachenode.errors import L2Unavailable, RegionUnavailable
from cachenode.node.region_links import RegionLinks
from cachenode.node.region_receiver import RegionReceiver
from cachenode.node.region_sender import RegionSender
from cachenode.node.service import Node
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, new_node, view_of
from tests.support.origin import ScriptedLoader, origin_of

SHARED = NamespacePolicy(
    name="shared",
    ttl_s=math.inf,
    max_value_bytes=1 << 20,
    l2=True,
    share=1.0,
    regions=True,
    stale_s=60.0,
    region_holdoff_s=5.0,
)
OWN = NamespacePolicy(name="own", ttl_s=math.inf, max_value_bytes=1 << 20, l2=True, share=1.0)


class DirectLink:
    """A `RegionLink` to a receiver in the same loop.

    Attributes:
        cut: Nothing arrives.
        lose_answer: What is sent arrives, and the answer does not.
        relayed: What has arrived.
        loads: Times that the region was asked to load something.
        asked: Set when the region was asked for what it has cached.
        gate: Close it to hold what is sent.
    """

    def __init__(self, origin: str, target: str) -> None:
        self.cut = self.lose_answer = False
        self.relayed: list[Shipment] = []
        self.loads = 0
        self.asked = asyncio.Event()
        self.receiver: RegionReceiver | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self._names = (origin, target)

    def _there(self) -> RegionReceiver:
        if self.cut or self.receiver is None:
            raise RegionUnavailable("the link is cut on purpose")
        return self.receiver

    async def position(self) -> Cursor | None:
        with _as_over_the_wire():
            return await self._there().position(*self._names)

    async def relay(self, shipment: Shipment) -> Cursor | None:
        await self.gate.wait()
        receiver = self._there()
        self.relayed.append(shipment)
        with _as_over_the_wire():
            cursor = await receiver.take(*self._names, shipment)
        if self.lose_answer:
            raise RegionUnavailable("the answer is lost on purpose")
        return cursor

    async def load(self, namespace: str, key: bytes) -> Loaded | None:
        await self.gate.wait()
        self.loads += 1
        return await self._there().load(*self._names, namespace, key)

    async def cached(self, namespace: str, key: bytes, most_bytes: int) -> Loaded | None:
        receiver = self._there()
        found = await receiver.cached(*self._names, namespace, key, most_bytes)
        self.asked.set()
        await self.gate.wait()
        return found

    async def close(self) -> None:
        pass


@contextmanager
def _as_over_the_wire() -> Iterator[None]:
    """Say of a store that does not answer there what the service says of it."""
    try:
        yield
    except L2Unavailable as error:
        raise RegionUnavailable(str(error)) from None


class Site:
    """A region: its nodes, which share an L2 and an outbox, and links to the others.

    Args:
        name: Of the region.
        remotes: Names of the others.
        nodes: Names of its nodes.
        most: Entries that the outbox holds.
        policies: Of the namespaces. Their origin, if they have one, is "o".

    Attributes:
        loader: What the origin has.
    """

    def __init__(
        self,
        name: str,
        remotes: Sequence[str],
        *,
        nodes: Sequence[str] = ("a",),
        most: int = 1_000,
        policies: Sequence[NamespacePolicy] = (SHARED, OWN),
    ) -> None:
        self.name = name
        self.clock = ManualClock()
        self.loader = ScriptedLoader()
        self.peers = DirectPeers()
        self.l2 = MemoryL2(self.clock)
        self.store = MemoryRegions(self.clock, remotes, most=most)
        self.nodes: dict[str, Node] = {}
        self.links: dict[str, dict[str, DirectLink]] = {}
        self.regions: dict[str, RegionLinks] = {}
        for node_name in nodes:
            node = new_node(
                node_name,
                self.clock,
                l2=self.l2,
                peers=self.peers,
                policies=policies,
                origins={"o": origin_of(self.loader, self.clock)},
                view=view_of(1, *nodes),
            )
            links = {remote: DirectLink(name, remote) for remote in remotes}
            self.nodes[node_name] = node
            self.links[node_name] = links
            breaker = Breaker(failures=3, retry_s=1.0)
            limits = OriginLimits(timeout_s=5.0, attempts=1, breaker_failures=3, breaker_retry_s=1.0)
            self.regions[node_name] = RegionLinks(
                node, self.store, links, name=name, lease_s=5.0, breaker=breaker, limits=limits
            )

    @property
    def node(self) -> Node:
        """The first node."""
        return next(iter(self.nodes.values()))

    def sender(self, remote: str, node: str = "a") -> RegionSender:
        """Return a node's sender."""
        return self.regions[node].senders[remote]

    def link(self, remote: str, node: str = "a") -> DirectLink:
        """Return a node's link."""
        return self.links[node][remote]

    async def outbox(self) -> list[RegionEntry]:
        """Return what is in the outbox."""
        found = await self.store.fetch("nobody", "test", lease_s=1.0, after=None, most=1_000)
        assert found is not None
        return [entry for _, entry in found.entries]

    async def send(self, remote: str, node: str = "a") -> None:
        """Let a node's sender do all that it finds to do."""
        sender = self.sender(remote, node)
        while await sender.step() == 0.0:
            pass


def two_sites(
    *, nodes: Sequence[str] = ("a",), most: int = 1_000, policies: Sequence[NamespacePolicy] = (SHARED, OWN)
) -> tuple[Site, Site]:
    """Return two regions, east and west, each of which tells the other."""
    sites = {
        name: Site(name, [other], nodes=nodes, most=most, policies=policies)
        for name, other in (("east", "west"), ("west", "east"))
    }
    connect(sites)
    return sites["east"], sites["west"]


def connect(sites: Mapping[str, Site]) -> None:
    """Let the first node of each region take what the others send."""
    for site in sites.values():
        for links in site.links.values():
            for remote, link in links.items():
                link.receiver = next(iter(sites[remote].regions.values())).receiver
