"""A node that has too much to do: what it refuses, what it does all the same, and that it stops refusing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.core.shedding import Shedder, ShedLimits, Work
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER_BYTES
from cachenode_api.selectors import SelectorKind
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, fetch, new_node, owned_by, put, run, view_of


class Rig:
    """A node with L2, and a namespace whose values are loaded anew before their end."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.l2 = HeldL2(MemoryL2(self.clock))
        policy = NamespacePolicy("n", 10.0, 1_000, l2=True, share=1, stale_s=60.0)
        self.node: Node = new_node("a", self.clock, policies=[policy], l2=self.l2)
        self.node.shedding = Shedder(ShedLimits(lag_s=1.0, keys=100, bytes=1_000, loads=10))

    def press(self, work: Work | None) -> None:
        """Let the event loop be so late that work of a class is refused, or none."""
        self.clock.advance(60)
        self.node.shedding.observe(0.0 if work is None else 0.5 * work, 0, self.clock.now())

    async def do(self, operation: Operation, key: bytes, **fields: Any) -> BatchResult:
        return await run(self.node, Batch(operation, "n", [key], **fields))


def refused(result: BatchResult) -> bool:
    """Return whether the only key was refused, and its caller told how long to wait."""
    if not result.failures:
        return False
    failure = result.failures[0]
    assert failure.reason is Reason.OVERLOADED
    assert failure.retry_after_ms >= 100
    assert failure.detail == f"the node has too much to do; again in {failure.retry_after_ms:,} ms"
    return True


@pytest.mark.parametrize("level", [None, *Work])
async def test_classes_are_refused_in_order(level: Work | None) -> None:
    """Hits, removals and what ends a load are always done; the rest goes the easiest first, and is counted."""
    rig = Rig()
    node, most = rig.node, level or 0
    await put(node, b"hit", b"v", namespace="n", ttl_ms=3_600_000)
    await put(node, b"in l2", b"v", namespace="n", ttl_ms=3_600_000)
    namespace = node.namespaces.get("n")
    assert namespace is not None
    lent = await rig.do(Operation.LEASE, b"loading", lease_s=60.0)
    rig.press(level)
    assert await fetch(node, b"hit", "n") == b"v"
    assert not refused(await rig.do(Operation.FULFILL, b"loading", values=[b"v"], tokens=lent.tokens))
    rig.clock.advance(20)  # what was loaded is due
    node.shedding.observe(0.5 * most, 0, rig.clock.now())
    renewed = await rig.do(Operation.LEASE, b"loading", lease_s=5.0)
    assert renewed.records[0][HEADER_BYTES:] == b"v", "there is a value, whether it is loaded anew or not"
    assert bool(renewed.tokens) == (most < Work.REFRESH)
    assert refused(await rig.do(Operation.LEASE, b"absent", lease_s=5.0)) == (most >= Work.LOAD)
    for operation, fields in ((Operation.SET, {"values": [b"v"]}), (Operation.INCR, {"deltas": [1]})):
        assert refused(await rig.do(operation, b"new", **fields)) == (most >= Work.WRITE)
        await rig.do(Operation.DELETE, b"new")
    assert refused(await rig.do(Operation.TOUCH, b"hit")) == (most >= Work.WRITE)
    namespace.store.remove(b"in l2")
    assert refused(await rig.do(Operation.GET, b"in l2")) == (most >= Work.MISS)
    assert not refused(await rig.do(Operation.DELETE, b"hit"))
    assert not refused(await rig.do(Operation.INVALIDATE, b"hit"))
    barrier = Batch(Operation.BARRIER, "n", [b"k"], flags=[SelectorKind.PREFIX.value])
    assert not (await run(node, barrier)).failures
    assert (sum(node.shedding.refused.values()) > 0) == (most > 0)
    assert (node.failures[Reason.OVERLOADED] > 0) == (most >= Work.LOAD)
    rig.press(None)
    assert not refused(await rig.do(Operation.GET, b"in l2"))
    assert not refused(await rig.do(Operation.SET, b"new", values=[b"v"]))


async def test_batch_is_refused_in_part() -> None:
    """What is in memory is answered, the rest is told to come again."""
    rig = Rig()
    await put(rig.node, b"hit", b"v", namespace="n", ttl_ms=3_600_000)
    rig.press(Work.MISS)
    result = await run(rig.node, Batch(Operation.GET, "n", [b"a", b"hit", b"b"]))
    assert [record[HEADER_BYTES:] for record in result.records] == [b"", b"v", b""]
    assert sorted(result.failures) == [0, 2]
    assert rig.node.shedding.refused[Work.MISS] == 2


async def test_load_under_way_may_be_waited_for() -> None:
    """Who joins it makes no more work."""
    rig = Rig()
    lent = await rig.do(Operation.LEASE, b"k", lease_s=5_000.0)
    rig.node.shedding.observe(1.0, 0, rig.clock.now())
    waiting = asyncio.create_task(rig.do(Operation.LEASE, b"k", lease_s=5.0, timeout_s=5.0))
    await asyncio.sleep(0)
    await rig.do(Operation.FULFILL, b"k", values=[b"v"], tokens=lent.tokens)
    assert (await waiting).records[0][HEADER_BYTES:] == b"v"


async def test_what_waits_makes_pressure_until_it_is_done() -> None:
    """Writes that wait for an L2 that does not answer: the next ones are refused, and taken again once it does."""
    rig = Rig()
    rig.l2.gate.clear()
    keys = [b"%d" % number for number in range(150)]
    many = asyncio.create_task(run(rig.node, Batch(Operation.SET, "n", keys, [b"v"] * len(keys))))
    await rig.l2.held.wait()
    assert rig.node.shedding.pressure == 1.5
    assert refused(await rig.do(Operation.SET, b"one more", values=[b"v"]))
    rig.l2.gate.set()
    assert not (await many).failures
    assert (rig.node.shedding.pressure, rig.node.shedding.level) == (0, 0)
    assert not refused(await rig.do(Operation.SET, b"one more", values=[b"v"]))


async def test_owner_refuses_for_who_passes_on() -> None:
    """A read that another node passes on is refused with the time to wait."""
    clock, peers, view = ManualClock(), DirectPeers(), view_of(1, "a", "b")
    node, owner = (new_node(name, clock, peers=peers, view=view) for name in ("a", "b"))
    (key,) = owned_by(view, "b")
    owner.shedding = Shedder(ShedLimits(lag_s=1.0))
    owner.shedding.observe(1.5, 0, clock.now())
    result = await run(node, Batch(Operation.SET, "default", [key], [b"v"]))
    assert refused(result)
