"""Reads that renew an entry's life: in memory, in L2, and beside all that may happen to the key meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node.namespaces import Namespace
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, NO_TTL_MS
from cachenode_api.selectors import SelectorKind
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, fetch, new_node, owned_by, put, run, view_of
from tests.support.copies import NearSession

K = b"k"
TTL_S = 10.0


class Rig:
    """A node with a namespace whose values live 10 s from each read on, unless told otherwise."""

    def __init__(self, *, l2: bool = False, **fields: Any) -> None:
        self.clock = ManualClock()
        self.l2 = HeldL2(MemoryL2(self.clock)) if l2 else None
        known: dict[str, Any] = {"ttl_s": TTL_S, "max_value_bytes": 100, "share": 1, "sliding": True}
        self.policy = NamespacePolicy("n", l2=l2, **known | fields)
        self.node: Node = new_node("a", self.clock, policies=[self.policy], l2=self.l2)

    @property
    def namespace(self) -> Namespace:
        found = self.node.namespaces.get("n")
        assert found is not None
        return found

    async def read(self, session: NearSession | None = None, **fields: Any) -> float | None:
        """Read the key; return the life that the answer tells, None if there is nothing."""
        batch = Batch(Operation.GET, "n", [K], **fields)
        result = await (session.execute(batch) if session else run(self.node, batch))
        assert not result.failures, result
        record = result.records[0]
        return HEADER.unpack_from(record)[3] - self.clock.now() if record else None

    async def settled(self) -> None:
        """Return when L2 has been told."""
        await asyncio.gather(*self.node.slides._tasks)

    def in_memory(self) -> float:
        record = self.namespace.store.peek(K, self.clock.now())
        assert record is not None
        return float(HEADER.unpack_from(record)[3] - self.clock.now())

    async def in_l2(self) -> float | None:
        assert self.l2 is not None
        (entry,) = await self.l2.inner.read("n", [K])
        return None if entry is None else entry.ttl_s


@pytest.mark.parametrize("l2", [False, True])
async def test_read_renews(l2: bool) -> None:
    """In memory and in L2, without a new version, for as long as it is read; then it ends."""
    rig = Rig(l2=l2)
    version = (await put(rig.node, K, b"v", namespace="n")).versions[0]
    for _ in range(5):
        rig.clock.advance(8)
        assert await rig.read() == TTL_S
        await rig.settled()
        assert rig.in_memory() == TTL_S
        if l2:
            assert await rig.in_l2() == TTL_S
    result = await run(rig.node, Batch(Operation.GET, "n", [K]))
    assert HEADER.unpack_from(result.records[0])[2] == version
    rig.clock.advance(TTL_S)
    assert await rig.read() is None
    assert rig.namespace.slides.moved == 5


async def test_read_from_l2_renews_too() -> None:
    """An entry that was evicted, or written by a former owner, is renewed when it comes back."""
    rig = Rig(l2=True)
    await put(rig.node, K, b"v", namespace="n")
    rig.namespace.store.remove(K)
    rig.clock.advance(8)
    assert await rig.read() == TTL_S
    await rig.settled()
    assert await rig.in_l2() == TTL_S


async def test_only_calls_that_ask_for_it() -> None:
    """Elsewhere a plain read moves nothing; one that slides does, to the life that it names or the namespace's."""
    rig = Rig(sliding=False)
    await put(rig.node, K, b"v", namespace="n")
    rig.clock.advance(8)
    assert await rig.read() == 2
    assert await rig.read(slide=True, slide_ms=5_000) == 5
    assert await rig.read(slide=True) == TTL_S
    assert await rig.read(slide=True, slide_ms=NO_TTL_MS) == float("inf")


async def test_lease_renews_too() -> None:
    """A `get_or_load` that finds a value is a read like any other."""
    rig = Rig()
    await put(rig.node, K, b"v", namespace="n")
    rig.clock.advance(8)
    await run(rig.node, Batch(Operation.LEASE, "n", [K], lease_s=5.0))
    assert rig.in_memory() == TTL_S


async def test_end_is_moved_by_a_tenth_at_least() -> None:
    """A value that is read all the time is written to L2 ten times in a TTL."""
    rig = Rig(l2=True)
    await put(rig.node, K, b"v", namespace="n")
    for _ in range(1_000):
        rig.clock.advance(0.01)
        await rig.read()
    assert rig.namespace.slides.moved in (9, 10)


async def test_longest_life() -> None:
    """However often it is read."""
    rig = Rig(max_life_s=30.0)
    await put(rig.node, K, b"v", namespace="n")
    for _ in range(5):
        rig.clock.advance(5.5)
        assert await rig.read() is not None
    assert rig.in_memory() == 2.5
    rig.clock.advance(2.5)
    assert await rig.read() is None


@pytest.mark.parametrize("operation", [Operation.SET, Operation.TOUCH])
async def test_read_beside_a_write_moves_nothing(operation: Operation) -> None:
    """The write decides the life: a shorter one too."""
    rig = Rig(l2=True)
    assert rig.l2 is not None
    await put(rig.node, K, b"v", namespace="n")
    rig.clock.advance(5)
    rig.l2.gate.clear()
    values = [b"w"] if operation is Operation.SET else []
    write = asyncio.create_task(run(rig.node, Batch(operation, "n", [K], values, ttls_ms=[3_000])))
    await rig.l2.held.wait()
    assert await rig.read() == 5
    rig.l2.gate.set()
    await write
    assert rig.in_memory() == 3
    assert await rig.in_l2() == 3


async def test_read_beside_a_removal_moves_nothing() -> None:
    """It is still found, and goes as it would have gone."""
    rig = Rig(l2=True)
    assert rig.l2 is not None
    await put(rig.node, K, b"v", namespace="n")
    rig.clock.advance(5)
    rig.l2.gate.clear()
    removal = asyncio.create_task(run(rig.node, Batch(Operation.DELETE, "n", [K])))
    await rig.l2.held.wait()
    assert await rig.read() == 5
    rig.l2.gate.set()
    await removal
    assert await rig.read() is None
    assert await rig.in_l2() is None


@pytest.mark.parametrize("operation", [Operation.SET, Operation.DELETE])
async def test_end_that_comes_to_l2_late(operation: Operation) -> None:
    """A later write or removal is not touched by it."""
    rig = Rig(l2=True)
    assert rig.l2 is not None
    await put(rig.node, K, b"v", namespace="n")
    rig.clock.advance(5)
    rig.l2.gate.clear()
    assert await rig.read() == TTL_S
    await rig.l2.held.wait()
    rig.l2.gate.set()
    (version,) = (await put(rig.node, K, b"v", namespace="n")).versions
    inner = rig.l2.inner
    if operation is Operation.SET:
        await run(rig.node, Batch(operation, "n", [K], [b"w"], ttls_ms=[3_000]))
    else:
        await run(rig.node, Batch(operation, "n", [K]))
    await inner.prolong("n", [(K, version, 60.0)])
    assert await rig.in_l2() == (3 if operation is Operation.SET else None)


async def test_barred_entry_is_not_renewed() -> None:
    """What is untrue is not found, so its end stays where it is in L2 too."""
    rig = Rig(l2=True)
    await put(rig.node, K, b"v", namespace="n")
    rig.clock.advance(5)
    barrier = Batch(Operation.BARRIER, "n", [b"k"], flags=[SelectorKind.PREFIX.value])
    await run(rig.node, barrier)
    assert await rig.read() is None
    await rig.settled()
    assert rig.namespace.slides.moved == 0
    assert await rig.in_l2() == 5


async def test_l2_that_is_away_is_told_next_time() -> None:
    """Reads go on from memory, and L2 has the later end once it is back and the end moves again."""
    rig = Rig(l2=True)
    await put(rig.node, K, b"v", namespace="n")
    rig.clock.advance(5)
    tier = rig.node.tier
    assert tier is not None
    tier.must_adopt = True
    assert await rig.read() == TTL_S
    await rig.settled()
    assert await rig.in_l2() == 5
    tier.must_adopt = False
    rig.clock.advance(2)
    assert await rig.read() == TTL_S
    await rig.settled()
    assert await rig.in_l2() == TTL_S


async def test_near_copies_end_early_where_all_reads_slide() -> None:
    """So their reader asks again, and the entry lives on; one read that slides by itself changes no other's copy."""
    rig = Rig()
    await put(rig.node, K, b"v", namespace="n")
    session = NearSession(rig.node)
    assert await rig.read(session) == 1
    assert rig.in_memory() == TTL_S
    rig.clock.advance(9.5)
    assert await rig.read(session) == 1
    assert rig.in_memory() == TTL_S
    rig = Rig(sliding=False)
    await put(rig.node, K, b"v", namespace="n")
    session = NearSession(rig.node)
    rig.clock.advance(5)
    assert await rig.read(session, slide=True) == TTL_S
    assert await rig.read(session) == TTL_S


async def test_only_the_owner_renews() -> None:
    """A read that another node passes on is seen by the owner, and takes no copy of what is hot."""
    clock, peers, view = ManualClock(), DirectPeers(), view_of(1, "a", "b")
    policy = NamespacePolicy("n", TTL_S, 100, l2=False, share=1, sliding=True)
    node, owner = (
        new_node(name, clock, peers=peers, policies=[policy], view=view, hot_reads_per_s=1) for name in ("a", "b")
    )
    (key,) = owned_by(view, "b")
    await put(owner, key, b"v", namespace="n")
    for _ in range(3):
        clock.advance(8)
        result = await run(node, Batch(Operation.GET, "n", [key]))
        assert (result.records[0] != b"", result.hot) == (True, False)
    result = await run(node, Batch(Operation.GET, "n", [key], slide=True, slide_ms=60_000))
    clock.advance(59)
    assert await fetch(owner, key, "n") == b"v"


async def test_nothing_slides_where_values_are_loaded_anew() -> None:
    """Such a namespace is refused, and a call that asks for it there fails."""
    with pytest.raises(ValueError, match="sliding"):
        Rig(stale_s=5.0)
    rig = Rig(sliding=False, stale_s=5.0)
    await put(rig.node, K, b"v", namespace="n")
    result: BatchResult = await run(rig.node, Batch(Operation.GET, "n", [K], slide=True))
    assert [failure.reason for failure in result.failures.values()] == [Reason.INVALID_REQUEST]


async def test_life_by_demand_is_what_a_read_gives() -> None:
    """Where lives are adaptive each read gives the one that the key has earned by then."""
    rig = Rig(adaptive_ttl=True, adaptive_steps=(">3: 100s", "10s"), adaptive_min_s=1.0)
    await put(rig.node, K, b"v", namespace="n")
    lives = []
    for _ in range(5):
        rig.clock.advance(2)
        lives.append(await rig.read())
    assert lives == [10, 10, 10, 100, 98]


async def test_policy_changes_while_the_node_runs() -> None:
    """Reads slide from then on, up to the new longest life, or no longer."""
    rig = Rig(sliding=False)
    await put(rig.node, K, b"v", namespace="n")
    rig.clock.advance(5)
    assert await rig.read() == 5
    rig.node.namespaces.adopt(replace(rig.policy, sliding=True, max_life_s=14.0), 1, rig.clock.now())
    assert await rig.read() == 9
    rig.node.namespaces.adopt(rig.policy, 2, rig.clock.now())
    rig.clock.advance(5)
    assert await rig.read() == 4
