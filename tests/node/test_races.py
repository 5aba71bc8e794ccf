"""Applications that share an origin and several nodes, many times over, in an order that a seed decides."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from random import Random

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, L2Entry, L2Write, Operation
from cachenode.node.service import Node
from cachenode_api.records import HEADER_BYTES
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, drop, fetch, new_node, put, run, view_of

NODES = ("a", "b", "c")
ROUND = 200
"""Keys that are worked on at the same time."""


class SlowL2(HeldL2):
    """An L2 whose calls take some turns of the loop, before the store does what they ask and after it has."""

    def __init__(self, inner: MemoryL2, rng: Random) -> None:
        super().__init__(inner)
        self._rng = rng

    async def _wait(self) -> None:
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(0)

    async def read(self, namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        await self._wait()
        return await super().read(namespace, keys)

    async def write(self, namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        stored = await super().write(namespace, writes)
        await self._wait()
        return stored

    async def drop(self, namespace: str, drops: Sequence[tuple[bytes, int]]) -> list[bool]:
        dropped = await super().drop(namespace, drops)
        await self._wait()
        return dropped


class Applications:
    """Processes that commit to an origin, tell the cache, and read through it; each call enters at another node.

    Attributes:
        rows: The origin: each commit of a key raises its number.
        told: What each key's number was when somebody had last been told that the cache knows of a commit.
        stale: Reads that began after that and found an older number, or none.
        reads: How many there were.
        loads: How often the origin was read for that.
    """

    def __init__(self, seed: int, *, with_l2: bool) -> None:
        asyncio.get_running_loop().set_debug(False)  # a hundred thousand tasks, each with the stack of its making
        self.rng = Random(seed)
        clock, peers, view = ManualClock(), DirectPeers(), view_of(1, *NODES)
        l2 = SlowL2(MemoryL2(clock), self.rng) if with_l2 else None
        self.nodes = [new_node(name, clock, l2=l2, peers=peers, view=view) for name in NODES]
        self.rows: dict[bytes, int] = {}
        self.told: dict[bytes, int] = {}
        self.stale: list[tuple[bytes, int | None, int]] = []
        self.reads = 0
        self.loads = 0

    def node(self) -> Node:
        return self.rng.choice(self.nodes)

    async def a_while(self) -> None:
        for _ in range(self.rng.randrange(6)):
            await asyncio.sleep(0)

    async def commit(self, key: bytes) -> None:
        """Write a row, and then let the cache know by removing what it has."""
        await self.a_while()
        number = self.rows[key] = self.rows.get(key, 0) + 1
        await self.a_while()
        result = await drop(self.node(), key)
        assert not result.failures
        self.told[key] = max(number, self.told.get(key, 0))

    async def create(self, key: bytes) -> None:
        """Write a row that was not there, and put its value into the cache, or remove what that has."""
        await self.a_while()
        self.rows[key] = 1
        node = self.node()
        result = await (put(node, key, b"1") if self.rng.random() < 0.5 else drop(node, key))
        assert not result.failures
        self.told[key] = 1

    async def read(self, key: bytes) -> None:
        """Get a row through the cache; load it if nobody else does."""
        await self.a_while()
        known, found = self.told.get(key, 0), await self._get(key)
        self.reads += 1
        if (found or 0) < known:
            self.stale.append((key, found, known))

    async def _get(self, key: bytes) -> int | None:
        node = self.node()
        result = await run(node, Batch(Operation.LEASE, "default", [key], timeout_s=30.0), holder=self)
        assert not result.failures
        if not result.tokens:
            return int(result.records[0][HEADER_BYTES:]) if result.records[0] else None
        self.loads += 1
        loaded = self.rows.get(key)
        await self.a_while()
        token = [result.tokens[0]]
        if loaded is None:
            await run(node, Batch(Operation.ABANDON, "default", [key], flags=[1], tokens=token))
        else:
            await run(node, Batch(Operation.FULFILL, "default", [key], [b"%d" % loaded], tokens=token))
        return loaded


@pytest.mark.parametrize("with_l2", [False, True], ids=["memory", "l2"])
async def test_cache_ends_as_the_origin(with_l2: bool) -> None:
    """Two writers of each of 1,000 keys, through different nodes, leave nothing in the cache but what the origin has.

    Scenario 12, for applications that invalidate after their commit. While they are at it no read is stale.
    """
    shared = Applications(12, with_l2=with_l2)
    hits = 0
    for first in range(0, 1_000, ROUND):
        keys = [b"k%d" % number for number in range(first, first + ROUND)]
        work = [shared.commit(key) for key in keys * 2] + [shared.read(key) for key in keys * 3]
        shared.rng.shuffle(work)
        await asyncio.gather(*work)
        for key in keys:
            for node in shared.nodes:
                found = await fetch(node, key)
                hits += found is not None
                assert found in {None, b"%d" % shared.rows[key]}, key
    assert shared.stale == []
    assert set(shared.rows.values()) == {2}
    assert hits > 300, "else little was cached, and little was proved"


@pytest.mark.parametrize("with_l2", [False, True], ids=["memory", "l2"])
async def test_absence_does_not_outlive_a_creation(with_l2: bool) -> None:
    """Once a row is created and the cache knows, nobody who asks is told that there is none; 1,000 rows. Scenario 15.

    Absence is told to those who asked before, and is not kept: there is no life of negative entries to choose.
    """
    shared = Applications(15, with_l2=with_l2)
    for first in range(0, 1_000, ROUND):
        keys = [b"k%d" % number for number in range(first, first + ROUND)]
        work = [shared.create(key) for key in keys] + [shared.read(key) for key in keys * 4]
        shared.rng.shuffle(work)
        await asyncio.gather(*work)
        await asyncio.gather(*map(shared.read, keys))
    assert shared.stale == []
    assert shared.loads > 300, "else few asked before there was anything"


async def test_load_from_before_a_removal_is_not_stored_however_much_has_happened_since() -> None:
    """The right to store a load is lost with the removal, though memory has forgotten the key since. Scenario 18.

    Memory has room for some hundred entries; 2,000 others come and go between the removal and the late load.
    """
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2, max_bytes=64 << 10)
    namespace = node.namespaces.get("default")
    await put(node, b"k", b"old")
    while namespace.store.evict() is not None:
        pass
    l2.gate.clear()
    filling = asyncio.create_task(fetch(node, b"k"))  # has read the old value of L2
    await l2.held.wait()
    l2.gate, gate = asyncio.Event(), l2.gate
    l2.gate.set()
    await drop(node, b"k")
    leased = await run(node, Batch(Operation.LEASE, "default", [b"k"]))
    await drop(node, b"k")
    for number in range(2_000):
        await put(node, b"other-%d" % number, bytes(100))
    assert len(namespace.store) < 1_000
    late = Batch(Operation.FULFILL, "default", [b"k"], [b"older"], tokens=leased.tokens)
    assert (await run(node, late)).versions == [0]
    gate.set()
    await filling
    assert await fetch(node, b"k") is None
    assert [entry for entry in await l2.read("default", [b"k"]) if entry is not None] == []


async def test_nothing_is_served_past_its_life() -> None:
    """Of 1,000 values with lives around a second none is found after its end, by way of any node or layer. Scenario 20.

    What is found before is found to within a hundredth of a second. That the ends are spread is up to the writers.
    """
    clock, peers, view, rng = ManualClock(), DirectPeers(), view_of(1, *NODES), Random(20)
    l2 = MemoryL2(clock)
    nodes = [new_node(name, clock, l2=l2, peers=peers, view=view) for name in NODES]
    ends: dict[bytes, float] = {}
    for number in range(1_000):
        life_ms = rng.randrange(900, 1_100)
        key = b"k%d" % number
        await put(rng.choice(nodes), key, b"v", ttl_ms=life_ms)
        ends[key] = clock.now() + life_ms / 1_000
    found = 0
    for _ in range(130):
        clock.advance(0.01)
        evict_some(rng.choice(nodes), rng)
        for key in rng.sample(sorted(ends), 40):
            there = await fetch(rng.choice(nodes), key) == b"v"
            found += there
            assert there == (clock.now() < ends[key]) or math.isclose(clock.now(), ends[key])
    assert found > 1_000


def evict_some(node: Node, rng: Random) -> None:
    """Let values go from memory, so that they are read from L2 again."""
    for _ in range(rng.randrange(20)):
        node.namespaces.get("default").store.evict()
