"""What a namespace's accesses decide on a node: the lives of values that bring none, and which loads are kept."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node.explain import explain
from cachenode.node.service import Node
from cachenode_api.records import HEADER, HEADER_BYTES, NO_TTL_MS
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


async def load(node: Node, key: bytes) -> tuple[bytes, int]:
    """Ask for a key with a LEASE and load it if it is absent; return what was found and the version that was stored."""
    lent = await run(node, Batch(Operation.LEASE, "n", [key], lease_s=5.0))
    if not lent.tokens:
        return lent.records[0][HEADER_BYTES:], 0
    done = await run(node, Batch(Operation.FULFILL, "n", [key], [b"v"], tokens=lent.tokens))
    return b"", done.versions[0]


@pytest.mark.parametrize("l2", [False, True])
async def test_loads_are_kept_once_a_key_is_popular(l2: bool) -> None:
    """Until then each is handed out alone, and neither memory nor L2 has it."""
    node, clock = new(l2=l2, adaptive_ttl=False, admit_after=3, demand_window_s=100.0)
    assert [await load(node, b"k") for _ in range(2)] == [(b"", 0)] * 2
    found, version = await load(node, b"k")
    assert (found, version > 0) == (b"", True)
    assert await load(node, b"k") == (b"v", 0)
    namespace = node.namespaces.get("n")
    assert namespace is not None
    assert namespace.demand is not None
    assert (namespace.demand.admitted, namespace.demand.not_admitted) == (1, 2)
    clock.advance(300)
    assert await load(node, b"k") == (b"", 0), "what was asked for long ago does not count"


async def test_who_waits_is_told_what_is_not_kept() -> None:
    """Callers at the same time share the load, and each is given what it brings."""
    node, _ = new(adaptive_ttl=False, admit_after=3)
    lent = await run(node, Batch(Operation.LEASE, "n", [b"k"], lease_s=5.0))
    waiting = asyncio.create_task(run(node, Batch(Operation.LEASE, "n", [b"k"], lease_s=5.0, timeout_s=5.0)))
    await asyncio.sleep(0)
    done = await run(node, Batch(Operation.FULFILL, "n", [b"k"], [b"v"], tokens=lent.tokens))
    assert done.versions == [0]
    assert (await waiting).records[0][HEADER_BYTES:] == b"v"
    assert await fetch(node, b"k", "n") is None


async def test_writes_are_kept() -> None:
    """Whoever writes a value wants it kept."""
    node, _ = new(adaptive_ttl=False, admit_after=100)
    await put(node, b"k", b"v", namespace="n")
    assert await fetch(node, b"k", "n") == b"v"


async def test_value_that_is_there_is_renewed() -> None:
    """It is replaced when it is loaded anew, however little its key is asked for."""
    node, clock = new(adaptive_ttl=False, stale_s=60.0)
    namespace = node.namespaces.get("n")
    assert namespace is not None
    assert (await load(node, b"k"))[1]
    node.namespaces.adopt(replace(namespace.policy, admit_after=100), 1, clock.now())
    clock.advance(6)
    lent = await run(node, Batch(Operation.LEASE, "n", [b"k"], lease_s=5.0))
    assert (lent.records[0] != b"", len(lent.tokens)) == (True, 1)
    done = await run(node, Batch(Operation.FULFILL, "n", [b"k"], [b"new"], tokens=lent.tokens))
    assert done.versions[0]
    assert await fetch(node, b"k", "n") == b"new"


async def test_admission_is_explained() -> None:
    """How often the key was asked for, and how often it must be."""
    node, _ = new(adaptive_ttl=False, admit_after=3)
    namespace = node.namespaces.get("n")
    assert namespace is not None
    await fetch(node, b"k", "n")
    found = await explain(node, namespace, b"k")
    assert found.wanted is not None
    assert (found.wanted.accesses, found.wanted.choice, found.admit_after) == (1, None, 3)
