"""Nodes with a Bloom filter over one origin, which lists its keys when the test lets it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.bloom import Bloom
from cachenode.core.bloom_counters import BloomCounters
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import OriginError
from cachenode.node.blooms import Rebuild
from cachenode.node.service import Node
from cachenode_api.keys import seat_of
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER_BYTES
from cachenode_api.view import View
from tests.support.clock import ManualClock
from tests.support.cluster import SEED, DirectPeers, HeldL2, member, new_node, run, view_of
from tests.support.origin import ScriptedLoader, origin_of

__all__ = ["OTHER", "K", "Listing", "Rig"]

K, OTHER = b"k", b"other"


class Listing(ScriptedLoader):
    """Lists its keys; `listing` closed holds it after what it has listed then."""

    def __init__(self) -> None:
        super().__init__()
        self.listing = asyncio.Event()
        self.listing.set()
        self.listed = asyncio.Event()
        self.lists = 0
        self.breaks: OriginError | None = None

    async def enumerate(self) -> AsyncIterator[bytes]:
        self.lists += 1
        for key in list(self.values):
            yield key
        if self.breaks is not None:
            raise self.breaks
        self.listed.set()
        await self.listing.wait()


class Rig:
    """Nodes with a filter over one origin."""

    def __init__(self, *names: str, l2: bool = False) -> None:
        self.clock, self.loader, self.peers = ManualClock(), Listing(), DirectPeers()
        self.wall = 1_000_000.0
        self.names = names or ("a",)
        self.l2 = HeldL2(MemoryL2(self.clock)) if l2 else None
        self.policy = NamespacePolicy(
            "n", 60.0, 100, l2=l2, share=1, origin="o", bloom=True, bloom_keys=1_000, bloom_rebuild="1d"
        )
        self.lives = dict.fromkeys(self.names, 1)
        self.view = view_of(1, *self.names)
        self.nodes = {name: self.start(name) for name in self.names}
        self.node = self.nodes[self.names[0]]

    def start(self, name: str) -> Node:
        origin = origin_of(self.loader, self.clock, attempts=1, breaker_failures=1_000)
        node = new_node(
            name,
            self.clock,
            incarnation=str(self.lives[name]),
            peers=self.peers,
            policies=[self.policy],
            l2=self.l2,
            view=self.view,
            origins={"o": origin},
        )
        node.wall = lambda: self.wall
        return node

    def change(self, *names: str) -> None:
        """Put the next view in force everywhere; who is new begins."""
        self.lives |= {name: self.lives.get(name, 0) + 1 for name in names if name not in self.nodes}
        lives = tuple(member(name, str(self.lives[name])) for name in names)
        self.view = View(self.view.epoch + 1, SEED, lives)
        for name in names:
            if name not in self.nodes:
                self.nodes[name] = self.start(name)
            else:
                self.nodes[name].placement.apply(self.view)
        self.node = self.nodes.get(self.names[0], self.node)

    async def leave(self, *names: str) -> None:
        """Let nodes leave one after the other, as SIGTERM does."""
        for name in names:
            node = self.nodes[name]
            await node.close()
            await node.blooms.saved.leave()
            self.kill(name)
            self.change(*self.nodes)
            node.placement.departure = self.view
            await node.blooms.saved.left()

    def kill(self, *names: str) -> None:
        """Let nodes vanish."""
        for name in names:
            del self.nodes[name], self.peers.nodes[name]

    async def settle(self) -> str:
        """Let whoever leads do what is due until nothing is. Return where the filters come from."""
        for _ in range(3):
            self.clock.advance(2.0)
            await self.tick()
        return "/".join(sorted({self.counters(name).source for name in self.nodes}))

    async def tick(self) -> None:
        """Let whoever leads do what is due."""
        for node in self.nodes.values():
            node.blooms.tick(self.clock.now())
        tasks = [each.task for node in self.nodes.values() for each in node.blooms._running.values() if each.task]
        await asyncio.gather(*tasks)

    def leads(self, node: Node) -> bool:
        """Return True if a node leads the rebuilds."""
        return node.placement.owns(seat_of("n"))

    def counters(self, name: str = "") -> BloomCounters:
        """Return what a node has counted."""
        return self.bloom(name).counters(self.wall, self.view.epoch)

    def bloom(self, name: str = "") -> Bloom:
        found = (self.nodes[name] if name else self.node).namespaces.get("n").bloom
        assert found is not None
        return found

    def begin(self, name: str = "") -> Rebuild:
        node = self.nodes[name] if name else self.node
        namespace = node.namespaces.get("n")
        assert namespace is not None
        return node.blooms.rebuild(namespace)

    async def rebuild(self, name: str = "") -> str:
        rebuild = self.begin(name)
        assert rebuild.task is not None
        await rebuild.task
        return rebuild.stage

    def rebuilding(self) -> asyncio.Task[None]:
        """Begin a rebuild that goes no further than the end of the origin's list."""
        self.loader.listing.clear()
        self.loader.listed.clear()
        task = self.begin().task
        assert task is not None
        return task

    async def do(self, operation: Operation, *keys: bytes, node: str = "", **columns: Any) -> BatchResult:
        on = self.nodes[node] if node else self.node
        return await run(on, Batch(operation, "n", list(keys or (K,)), **columns))

    async def set(self, key: bytes, node: str = "") -> None:
        result = await self.do(Operation.SET, key, node=node, values=[b"set"])
        assert not result.failures

    async def get(self, key: bytes = K, node: str = "") -> bytes | Reason | None:
        result = await self.do(Operation.GET, key, node=node)
        if result.failures:
            return result.failures[0].reason
        return result.records[0][HEADER_BYTES:] or None

    @property
    def asked(self) -> int:
        return len(self.loader.calls)
