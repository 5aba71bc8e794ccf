"""Changes of what others depend on: everything that was made from it goes, before the change is answered."""

from __future__ import annotations

import asyncio
import math

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.dependencies import Dependents
from cachenode.core.entries import Batch, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node.service import Node
from cachenode_api.dependencies import MAX_PARENTS
from cachenode_api.reasons import Reason
from cachenode_api.selectors import EVERYTHING, SelectorKind
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, drop, fetch, new_node, owned_by, put, run, view_of
from tests.support.copies import NearSession, settled
from tests.support.dependents import references, set_on

VIEW = view_of(1, "a", "b")
PARENT, PARENT_OF_B = owned_by(VIEW, "a", prefix="p")[0], owned_by(VIEW, "b", prefix="p")[0]
CHILD, OTHER = owned_by(VIEW, "b", 2)
CHILD_OF_A = owned_by(VIEW, "a")[0]


def pair(*, l2: bool = False, policies: tuple[NamespacePolicy, ...] = ()) -> tuple[Node, Node]:
    """Return two nodes."""
    clock, peers = ManualClock(), DirectPeers()
    store = MemoryL2(clock) if l2 else None
    a, b = (new_node(name, clock, peers=peers, l2=store, view=VIEW, policies=policies) for name in ("a", "b"))
    return a, b


async def change(node: Node, key: bytes, operation: Operation) -> None:
    values = [b"new"] if operation is Operation.SET else ()
    deltas = [1] if operation is Operation.INCR else ()
    assert not (await run(node, Batch(operation, "default", [key], values, deltas=deltas))).failures


@pytest.mark.parametrize("l2", [False, True])
@pytest.mark.parametrize("operation", [Operation.SET, Operation.DELETE, Operation.INVALIDATE, Operation.INCR])
async def test_changed_parent_takes_its_dependents_along(operation: Operation, l2: bool) -> None:
    """Whatever changes the parent, be it in the cache or not: the dependent is gone on every node, and in L2."""
    a, b = pair(l2=l2)
    assert not (await set_on(a, CHILD, b"made of it", PARENT)).failures
    assert await fetch(a, CHILD) == await fetch(b, CHILD) == b"made of it"
    await change(b, PARENT, operation)
    assert await fetch(a, CHILD) is None
    assert await fetch(b, CHILD) is None


async def test_what_does_not_depend_stays() -> None:
    """Neither other keys go, nor what is stored under the dependent's key without depending on anything."""
    a, _ = pair()
    await set_on(a, CHILD, b"1", PARENT)
    await put(a, OTHER, b"2")
    await put(a, CHILD, b"3")
    await put(a, PARENT, b"new")
    assert [await fetch(a, key) for key in (CHILD, OTHER, PARENT)] == [b"3", b"2", b"new"]


async def test_dependents_over_others_go_too() -> None:
    """A chain over both nodes and two namespaces, whose links are made one after the other."""
    policy = NamespacePolicy(name="pages", ttl_s=math.inf, max_value_bytes=1 << 20, l2=False, share=1.0)
    a, b = pair(policies=(policy,))
    await set_on(a, CHILD, b"1", PARENT)
    await set_on(a, CHILD_OF_A, b"2", CHILD)
    await set_on(a, b"page", b"3", CHILD_OF_A, namespace="pages")
    await put(b, PARENT, b"new")
    assert [await fetch(b, key) for key in (CHILD, CHILD_OF_A)] == [None, None]
    assert await fetch(b, b"page", "pages") is None


async def test_cycle_ends_where_it_begins() -> None:
    """What is written stays, whoever depends on whom; what depends on itself is nothing special."""
    a, _ = pair()
    for _ in range(3):
        await set_on(a, PARENT, b"1", CHILD)
        await set_on(a, CHILD, b"2", PARENT)
        assert await fetch(a, CHILD) == b"2"
        assert await fetch(a, PARENT) is None
    await set_on(a, OTHER, b"3", OTHER)
    assert await fetch(a, OTHER) == b"3"


async def test_life_and_eviction_of_a_parent_cascade_nothing() -> None:
    """A parent that ends has not changed."""
    a, b = pair()
    await put(a, PARENT, b"p", ttl_ms=1_000)
    await set_on(a, CHILD, b"made of it", PARENT)
    clock = a.clock
    assert isinstance(clock, ManualClock)
    clock.advance(2.0)
    assert await fetch(a, PARENT) is None
    assert await fetch(b, CHILD) == b"made of it"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (SelectorKind.PREFIX, PARENT[:1]),
        (SelectorKind.GLOB, PARENT[:1] + b"*"),
        (SelectorKind.NAMESPACE, EVERYTHING),
        (SelectorKind.TAG, b"t"),
    ],
)
async def test_barrier_takes_dependents_along(kind: SelectorKind, text: bytes) -> None:
    """A selector that covers the parent, in another namespace than the dependent's. A parent keeps its tags in mind."""
    policy = NamespacePolicy(name="pages", ttl_s=math.inf, max_value_bytes=1 << 20, l2=False, share=1.0)
    a, b = pair(policies=(policy,))
    await run(a, Batch(Operation.SET, "default", [PARENT], [b"\x02\x00\x01tp"], [1 << 13]))
    await set_on(a, b"page", b"1", PARENT, namespace="pages")
    await set_on(a, b"other", b"2", b"unrelated", namespace="pages")
    await run(b, Batch(Operation.BARRIER, "default", [text], flags=[kind]))
    assert await fetch(a, b"page", "pages") is None
    kept = kind is not SelectorKind.NAMESPACE
    assert await fetch(a, b"other", "pages") == (b"2" if kept else None)


async def test_holders_of_dependents_are_waited_for() -> None:
    """A near cache holds the dependent: the parent's change is answered when it has dropped it (C3)."""
    a, b = pair()
    await set_on(a, CHILD, b"1", PARENT)
    session = NearSession(b)
    assert await session.read(CHILD)
    changing = asyncio.create_task(put(a, PARENT, b"new"))
    assert not await settled(changing)
    assert session.told[-1] == ("default", [CHILD], [])
    session.acknowledge()
    assert not (await changing).failures


async def test_dependent_that_is_linked_during_a_change() -> None:
    """The parent's write waits for L2 while a dependent comes: it goes when the write is done."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    policy = NamespacePolicy(name="pages", ttl_s=math.inf, max_value_bytes=1 << 20, l2=False, share=1.0)
    node = new_node("a", clock, l2=l2, policies=[policy])
    await set_on(node, b"first", b"1", b"p", namespace="pages")  # dependents are known from here on
    l2.gate.clear()
    changing = asyncio.create_task(put(node, b"p", b"new"))
    await l2.held.wait()
    linking = asyncio.create_task(set_on(node, b"page", b"made of the old", b"p", namespace="pages"))
    assert not (await linking).failures
    l2.gate.set()
    await changing
    assert await fetch(node, b"page", "pages") is None


async def test_change_that_began_before_there_were_dependents() -> None:
    """The namespace's first dependent waits until what was being written without knowing of it has been."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    policy = NamespacePolicy(name="pages", ttl_s=math.inf, max_value_bytes=1 << 20, l2=False, share=1.0)
    node = new_node("a", clock, l2=l2, policies=[policy])
    l2.gate.clear()
    changing = asyncio.create_task(put(node, b"p", b"new"))
    await l2.held.wait()
    linking = asyncio.create_task(set_on(node, b"page", b"1", b"p", namespace="pages"))
    assert not await settled(linking)
    l2.gate.set()
    await changing
    assert not (await linking).failures


async def test_second_change_waits_for_the_same_dependents() -> None:
    """The first change's cascade waits for a near cache; the second one is not answered before it either."""
    a, b = pair()
    await set_on(a, CHILD, b"1", PARENT)
    session = NearSession(b)
    await session.read(CHILD)
    changes = [asyncio.create_task(put(a, PARENT, value)) for value in (b"2", b"3")]
    assert not any([await settled(change) for change in changes])
    session.acknowledge()
    assert [(await change).failures for change in changes] == [{}, {}]


async def test_cascade_outlives_its_caller() -> None:
    """The time of the call is over while the dependent's owner is out of reach: it hears of the change all the same."""
    a, b = pair()
    await set_on(a, CHILD, b"1", PARENT)
    peers = a._peers
    assert isinstance(peers, DirectPeers)
    peers.cut.add("b")
    late = await run(a, Batch(Operation.SET, "default", [PARENT], [b"new"], timeout_s=0.05))
    assert late.failures[0].reason is Reason.DEADLINE_EXCEEDED
    assert await fetch(b, CHILD) == b"1"
    peers.cut.clear()
    await a.cascades.ended(5.0)
    assert await fetch(b, CHILD) is None


async def test_change_waits_for_an_owner_out_of_reach() -> None:
    """It is answered when the dependent's owner is reached again."""
    a, b = pair()
    await set_on(a, CHILD, b"1", PARENT)
    peers = a._peers
    assert isinstance(peers, DirectPeers)
    peers.cut.add("b")
    changing = asyncio.create_task(put(a, PARENT, b"new"))
    assert not await settled(changing)
    peers.cut.clear()
    assert not (await changing).failures
    assert await fetch(b, CHILD) is None


async def test_refused_change_changes_nothing() -> None:
    """A condition that is not met leaves the dependents alone."""
    a, _ = pair()
    await put(a, PARENT, b"p")
    await set_on(a, CHILD, b"1", PARENT)
    refused = await run(a, Batch(Operation.SET, "default", [PARENT], [b"x"], if_versions=[1]))
    assert refused.failures[0].reason is Reason.CONDITION_FAILED
    assert await fetch(a, CHILD) == b"1"


async def test_too_many_parents_are_refused() -> None:
    """With what they depend on, too; nothing is stored, and the limit is told."""
    a, _ = pair()
    parents = [b"%d" % number for number in range(MAX_PARENTS + 1)]
    refused = await set_on(a, CHILD, b"1", *parents)
    assert refused.failures[0].reason is Reason.INVALID_REQUEST
    assert "32" in refused.failures[0].detail
    for group in range(5):
        await set_on(a, b"group%d" % group, b"1", *(b"%d-%d" % (group, at) for at in range(30)))
    refused = await set_on(a, CHILD, b"1", *(b"group%d" % group for group in range(5)))
    assert refused.failures[0].reason is Reason.INVALID_REQUEST
    assert "128" in refused.failures[0].detail
    assert await fetch(a, CHILD) is None


async def test_edges_beyond_the_limit_take_their_dependents_along() -> None:
    """The parents that were named longest ago are given up: no change of theirs can be missed any more."""
    node = new_node("a", ManualClock())
    namespace = node.namespaces.get("default")
    assert namespace is not None
    namespace.dependents = Dependents(0.0, limit=2)
    node.cascades._opened["default"] = asyncio.Event()
    node.cascades._opened["default"].set()
    for at in range(3):
        await set_on(node, b"d%d" % at, b"1", b"p%d" % at)
    await node.cascades.ended(5.0)
    assert [await fetch(node, b"d%d" % at) for at in range(3)] == [None, b"1", b"1"]
    assert len(namespace.dependents) == 2


async def test_batch_of_dependents_with_parents_of_their_own() -> None:
    """Each key of a batch has its block; an empty one depends on nothing."""
    a, b = pair()
    batch = Batch(Operation.SET, "default", [CHILD, OTHER, CHILD_OF_A], [b"1", b"2", b"3"])
    batch.depends_on = [references(PARENT), b"", references(PARENT_OF_B)]
    assert not (await run(a, batch)).failures
    await drop(b, PARENT)
    assert [await fetch(a, key) for key in (CHILD, OTHER, CHILD_OF_A)] == [None, b"2", b"3"]
    await drop(b, PARENT_OF_B)
    assert await fetch(a, CHILD_OF_A) is None


async def test_clients_order_nothing() -> None:
    """What nodes order each other is refused from anybody else."""
    node = new_node("a", ManualClock())
    for operation in (Operation.LINK, Operation.CASCADE):
        refused = await run(node, Batch(operation, "default", [b"k"]))
        assert refused.failures[0].reason is Reason.INVALID_REQUEST
