"""Nodes that write behind, in the test's own loop: a queue in memory, a sink that fails on demand, time by hand."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from random import Random

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.adapters.queue_chaos import ChaosQueue
from cachenode.adapters.queue_memory import MemoryQueue
from cachenode.core.breaker import Breaker
from cachenode.core.entries import SinkWrite
from cachenode.core.policy import NamespacePolicy
from cachenode.core.write_behind import WriteBehindLimits
from cachenode.errors import OriginError
from cachenode.node.drain import Drain, Outlet
from cachenode.node.origins import Origin
from cachenode.node.service import Node
from cachenode.node.write_behind import WriteBehind
from cachenode_api.view import View
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, new_node

__all__ = ["BEHIND", "FakeSink", "Site", "policy"]

BEHIND = "orders"


def policy(name: str = BEHIND, *, delay_s: float = 0.0, priority: int = 5, origin: str = "db") -> NamespacePolicy:
    """Return the policy of a namespace that writes behind."""
    return NamespacePolicy(
        name=name,
        ttl_s=math.inf,
        max_value_bytes=1 << 20,
        l2=True,
        share=1.0,
        origin=origin,
        write="behind",
        write_delay_s=delay_s,
        write_priority=priority,
    )


class FakeSink:
    """A `Sink` that keeps rows as a table with a version does: what is not newer is not written.

    Attributes:
        rows: The newest write of each key.
        calls: What each call brought.
        regressions: Writes that would have undone a newer one, had the rows no versions.
        gate: Closed, it holds calls before they do anything.
        begun: Set when a call has come.
        down: Every call fails as a whole while True.
        refuses: Says of a write why it is refused; None if it is not.
        most_writes: As the port says.
    """

    def __init__(self) -> None:
        self.rows: dict[bytes, SinkWrite] = {}
        self.calls: list[list[SinkWrite]] = []
        self.regressions = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.down = False
        self.refuses: Callable[[SinkWrite], OriginError | None] = lambda _: None
        self.most_writes = 1_000

    async def write(self, writes: Sequence[SinkWrite]) -> Sequence[OriginError | None]:
        self.calls.append(list(writes))
        self.begun.set()
        await self.gate.wait()
        if self.down:
            raise OriginError("connection refused")
        answers = [self.refuses(write) for write in writes]
        for write, answer in zip(writes, answers, strict=True):
            if answer is not None:
                continue
            row = self.rows.get(write.key)
            if row is None or write.version > row.version:
                self.rows[write.key] = write
            elif write.version < row.version:
                self.regressions += 1
        return answers

    async def close(self) -> None:
        """Nothing to give back."""

    def value(self, key: bytes) -> bytes | None:
        """Return what a key's row holds, None if there is none or it was removed."""
        row = self.rows.get(key)
        return None if row is None else row.value

    @property
    def written(self) -> list[list[bytes]]:
        """The keys of each call."""
        return [[write.key for write in call] for call in self.calls]


class Site:
    """What the nodes of a cluster share: L2 and the queue on one server, the sinks, the clock."""

    def __init__(self, *, carries_values: bool = True) -> None:
        self.clock = ManualClock()
        self.values = MemoryL2(self.clock)
        self.l2 = HeldL2(self.values)
        self.memory = MemoryQueue(self.clock, self.values if carries_values else None)
        self.queue = ChaosQueue(self.memory, Random(1))
        self.sink = FakeSink()
        self.sinks: dict[str, FakeSink] = {"db": self.sink}
        self.peers = DirectPeers()
        self.drains: dict[str, Drain] = {}

    async def node(
        self,
        name: str = "a",
        *,
        view: View | None = None,
        policies: Sequence[NamespacePolicy] | None = None,
        limits: WriteBehindLimits | None = None,
        origins: Mapping[str, Origin] | None = None,
        concurrency: int = 4,
        timeout_s: float = 3_600.0,
    ) -> Node:
        """Return a node that writes behind; what drains it is in `drains`."""
        limits = limits or WriteBehindLimits()
        node = new_node(
            name,
            self.clock,
            l2=self.l2,
            peers=self.peers,
            policies=policies if policies is not None else [policy()],
            view=view,
            origins=origins,
        )
        node.write_behind = WriteBehind(node, self.queue, limits.max_backlog, Breaker(failures=3, retry_s=1.0))
        await node.write_behind.check()
        outlets = {at: Outlet(sink, concurrency, timeout_s) for at, sink in self.sinks.items()}
        self.drains[name] = Drain(node, node.write_behind, limits, outlets)
        return node

    async def drain(self, name: str = "a", rounds: int = 5) -> None:
        """Let a node bring to the sinks what it can now, without the clock moving."""
        for _ in range(rounds):
            for shard in (shard for lane in self.drains[name]._lanes for shard in lane.shards):
                shard.fetch_at = min(shard.fetch_at, self.clock.now())
            await self.drains[name].tick()
            await self.drains[name].idle()

    def waiting(self, namespace: str = BEHIND) -> set[bytes]:
        """Return the keys that wait."""
        return set(self.memory.records.get(namespace, {}))
