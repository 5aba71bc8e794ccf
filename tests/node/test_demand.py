"""What a namespace's accesses decide on a node: the lives of values that bring none."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node.explain import explain
from cachenode.node.service import Node
from cachenode_api.records import HEADER, NO_TTL_MS
from tests.support.clock import ManualClock
from tests.support.cluster import fetch, new_node, put, run

HOUR = 3_600.0


def new(**numbers: Any) -> tuple[Node, ManualClock]:
    clock = ManualClock()
    policy = NamespacePolicy(
        name="n", ttl_s=5.0, max_value_bytes=100, share=1, **{"l2": False, "adaptive_ttl": True} | numbers
    )
    return new_node("a", clock, policies=[policy], l2=MemoryL2(clock) if policy.l2 else None), clock


async def life(node: Node, key: bytes = b"k") -> float:
    """Return the remaining life of a key in memory, without counting an access."""
    namespace = node.namespaces.get("n")
    assert namespace is not None
    record = namespace.store.peek(key, node.clock.now())
    assert record is not None
    return float(HEADER.unpack_from(record)[3] - node.clock.now())


@pytest.mark.parametrize("l2", [False, True])
async def test_writes_and_loads_get_lives_by_demand(l2: bool) -> None:
    """More accesses, a longer life; a value that was loaded gets one as one that was set."""
    node, _ = new(l2=l2)
    await put(node, b"k", b"v", namespace="n")
    assert await life(node) == HOUR / 4
    for _ in range(11):
        await fetch(node, b"k", "n")
    await put(node, b"k", b"v", namespace="n")
    assert await life(node) == HOUR
    for _ in range(11):
        lent = await run(node, Batch(Operation.LEASE, "n", [b"loaded"], lease_s=5.0))
        if lent.tokens:
            (token,) = lent.tokens
            await run(node, Batch(Operation.ABANDON, "n", [b"loaded"], tokens=[token]))
    lent = await run(node, Batch(Operation.LEASE, "n", [b"loaded"], lease_s=5.0))
    await run(node, Batch(Operation.FULFILL, "n", [b"loaded"], [b"v"], tokens=lent.tokens))
    assert await life(node, b"loaded") == HOUR


async def test_life_of_its_own_wins() -> None:
    """What a write says counts, also "never", and of several keys in one batch for those it says it of."""
    node, _ = new()
    await put(node, b"k", b"v", ttl_ms=7_000, namespace="n")
    assert await life(node) == 7
    batch = Batch(Operation.SET, "n", [b"a", b"b", b"c"], [b"v"] * 3, ttls_ms=[0, 2_000, NO_TTL_MS])
    await run(node, batch)
    assert [await life(node, key) for key in (b"a", b"b", b"c")] == [HOUR / 4, 2, math.inf]


async def test_single_reads_count_too() -> None:
    """The short way of a unary read leads nowhere where accesses count, so none is missed."""
    node, _ = new()
    await put(node, b"k", b"v", namespace="n")
    assert node.hit("n", b"k")[0] == b""
    await put(node, b"k", b"v")
    assert node.hit("default", b"k")[0]


async def test_bounds_and_hit_rate() -> None:
    """The namespace's bounds hold, and while most reads miss lives are a step longer."""
    node, _ = new(adaptive_steps=(">1: 100s", "10s"), adaptive_min_s=20.0, adaptive_max_s=50.0)
    await put(node, b"k", b"v", namespace="n")
    assert await life(node) == 20
    for number in range(100):
        await fetch(node, b"absent-%d" % number, "n")
    await put(node, b"k", b"v", namespace="n")
    assert await life(node) == 50


async def test_explained() -> None:
    """Which life a value would get and why; nothing where lives do not follow demand, and asking counts for nothing."""
    node, clock = new()
    namespace = node.namespaces.get("n")
    assert namespace is not None
    for _ in range(2):
        await fetch(node, b"k", "n")
        clock.advance(90)
    for _ in range(2):
        wanted = (await explain(node, namespace, b"k")).wanted
        assert wanted is not None
        assert wanted.choice is not None
        assert (wanted.accesses, wanted.since_s, wanted.hit_rate) == (2, 180.0, None)
        assert (wanted.choice.ttl_s, wanted.choice.step.text) == (HOUR / 2, "<5m: 30m")
    default = node.namespaces.get("default")
    assert default is not None
    assert (await explain(node, default, b"k")).wanted is None
