"""Entries that depend on others, at their owners: linked before they are stored, through loads and view changes."""

from __future__ import annotations

import asyncio
import math

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.dependencies import KEEP_S, Links
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import PeerUnavailable
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, fetch, new_node, owned_by, put, run, touch, view_of
from tests.support.copies import NearSession, settled
from tests.support.dependents import fulfil, lease, set_on

VIEW = view_of(1, "a", "b")
PARENT = owned_by(VIEW, "a", prefix="p")[0]
CHILD, OTHER = owned_by(VIEW, "b", 2)


def pair() -> tuple[Node, Node, ManualClock]:
    """Return two nodes and their clock."""
    clock, peers = ManualClock(), DirectPeers()
    a, b = (new_node(name, clock, peers=peers, view=VIEW) for name in ("a", "b"))
    return a, b, clock


class HeldLinks(DirectPeers):
    """Peers that hold LINKs at a gate, before they are done or after."""

    def __init__(self, *, after: bool = False) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = asyncio.Event()
        self.after = after

    async def _wait(self, batch: Batch) -> None:
        if batch.operation is Operation.LINK and not self.gate.is_set():
            self.held.set()
            await self.gate.wait()

    async def forward(self, owner: str, batch: Batch) -> BatchResult:
        if self.after:
            result = await super().forward(owner, batch)
            await self._wait(batch)
            return result
        await self._wait(batch)
        return await super().forward(owner, batch)


async def test_loaded_dependent_is_kept_from_the_first_load_on() -> None:
    """Who says on asking what is likely: changes are noted before the load begins."""
    a, b, clock = pair()
    token = await lease(a, CHILD, PARENT)
    clock.advance(3.0)
    assert (await fulfil(a, CHILD, b"1", token, PARENT)).versions[0]
    assert await fetch(b, CHILD) == b"1"
    await put(b, PARENT, b"new")
    assert await fetch(a, CHILD) is None


async def test_parent_that_changes_during_a_load() -> None:
    """Nobody knows yet what is loaded from it: what was loaded is handed out and not stored (C2)."""
    a, b, clock = pair()
    token = await lease(a, CHILD, PARENT)
    clock.advance(1.0)
    await put(b, PARENT, b"new")
    clock.advance(1.0)
    assert (await fulfil(a, CHILD, b"made of the old", token, PARENT)).versions == [0]
    assert await fetch(a, CHILD) is None


async def test_who_joins_a_load_after_a_change_looks_again() -> None:
    """Nobody knew that the load would depend on what has changed: it is not handed to who may have asked later."""
    a, b, clock = pair()
    token = await lease(a, CHILD, PARENT)
    clock.advance(1.0)
    await put(b, PARENT, b"new")
    waiting = asyncio.create_task(lease(b, CHILD))
    assert not await settled(waiting)
    clock.advance(1.0)
    assert (await fulfil(a, CHILD, b"made of the old", token, PARENT)).versions == [0]
    assert await waiting, "it is to load itself"


async def test_load_of_a_known_dependent_ends_with_a_change() -> None:
    """The dependent was stored before: the change takes the load off its key, whoever may join it afterwards."""
    a, b, clock = pair()
    await set_on(a, CHILD, b"1", PARENT)
    await put(a, PARENT, b"2")
    clock.advance(1.0)
    token = await lease(a, CHILD)
    await put(a, PARENT, b"3")
    clock.advance(1.0)
    assert await lease(b, CHILD), "who asks after the change begins a load of its own"
    assert (await fulfil(a, CHILD, b"made of 2", token, PARENT)).versions == [0]


async def test_load_from_before_changes_were_noted_is_not_kept() -> None:
    """A loader says at the end what it has used: the first load is not kept, the next one is."""
    a, _, clock = pair()
    token = await lease(a, CHILD)
    clock.advance(1.0)
    assert (await fulfil(a, CHILD, b"1", token, PARENT)).versions == [0]
    clock.advance(1.0)
    token = await lease(a, CHILD)
    clock.advance(1.0)
    assert (await fulfil(a, CHILD, b"2", token, PARENT)).versions[0]


async def test_load_that_began_after_a_change_is_kept() -> None:
    """It has read what the parent is now. A tenth of the load's time is the clocks' due."""
    a, _, clock = pair()
    await set_on(a, OTHER, b"x", PARENT)
    await put(a, PARENT, b"new")
    clock.advance(1.0)
    token = await lease(a, CHILD, PARENT)
    clock.advance(5.0)
    assert (await fulfil(a, CHILD, b"1", token, PARENT)).versions[0]


async def test_parent_that_changes_while_its_dependent_is_loaded_through_another() -> None:
    """The load reads an entry that goes with its parent: it counts as changed."""
    a, _, clock = pair()
    middle = owned_by(VIEW, "a")[0]
    await set_on(a, middle, b"m", PARENT)
    token = await lease(a, CHILD, middle)
    clock.advance(1.0)
    await put(a, PARENT, b"new")
    clock.advance(1.0)
    assert (await fulfil(a, CHILD, b"made of the old", token, middle)).versions == [0]


async def test_load_that_brings_other_parents_takes_dependents_along() -> None:
    """They know the parents of before: a change of the new one would not reach them."""
    a, _, clock = pair()
    middle = owned_by(VIEW, "a")[0]
    await set_on(a, middle, b"m", PARENT, ttl_ms=1_000)
    await set_on(a, CHILD, b"1", middle)
    clock.advance(2.0)
    for parents, left in (((PARENT,), b"1"), ((PARENT, OTHER), None)):
        token = await lease(a, middle, *parents)
        clock.advance(0.1)
        assert (await fulfil(a, middle, b"m", token, *parents)).versions[0]
        assert await fetch(a, CHILD) == left
        await run(a, Batch(Operation.TOUCH, "default", [middle], ttls_ms=[1]))
        clock.advance(1.0)


async def test_load_of_what_has_lost_a_parent_ends_loads_from_it() -> None:
    """They may have read what depended on it, and would not be told: they are handed out and not stored."""
    a, _, clock = pair()
    middle = owned_by(VIEW, "a")[0]
    await set_on(a, middle, b"m", PARENT, ttl_ms=1_000)
    token = await lease(a, CHILD, middle)
    clock.advance(2.0)
    again = await lease(a, middle, OTHER)
    assert (await fulfil(a, middle, b"m", again, OTHER)).versions[0]
    clock.advance(1.0)
    assert (await fulfil(a, CHILD, b"made of m and its parent", token, middle)).versions == [0]


async def test_parent_that_is_loaded_meanwhile_with_parents_of_its_own() -> None:
    """A load that loads another on its way: it is kept, and linked to what that depends on."""
    a, b, clock = pair()
    middle = owned_by(VIEW, "a")[0]
    token = await lease(a, CHILD, middle)
    inner = await lease(a, middle, PARENT)
    clock.advance(1.0)
    assert (await fulfil(a, middle, b"m", inner, PARENT)).versions[0]
    assert (await fulfil(a, CHILD, b"made of m", token, middle)).versions[0]
    await put(b, PARENT, b"new")
    assert await fetch(a, CHILD) is None


async def test_parent_that_changes_while_its_dependent_is_written() -> None:
    """The dependent is linked and waits for L2: the change finds it, and it is gone when its write is answered."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    policy = NamespacePolicy(name="quick", ttl_s=math.inf, max_value_bytes=1 << 20, l2=False, share=1.0)
    node = new_node("a", clock, l2=l2, policies=[policy])
    await put(node, b"p", b"1", namespace="quick")
    l2.gate.clear()
    writing = asyncio.create_task(set_on(node, b"k", b"made of 1", ("quick", b"p")))
    await l2.held.wait()
    changing = asyncio.create_task(put(node, b"p", b"2", namespace="quick"))
    assert not await settled(changing)
    l2.gate.set()
    assert not (await changing).failures
    await writing
    assert await fetch(node, b"k") is None


async def test_change_between_link_and_write() -> None:
    """The parent's owner has made the link, and its word is on the way: the change does not find anything to remove."""
    clock, peers = ManualClock(), HeldLinks(after=True)
    a, b = (new_node(name, clock, peers=peers, view=VIEW) for name in ("a", "b"))
    await set_on(a, OTHER, b"x", PARENT)
    peers.gate.clear()
    writing = asyncio.create_task(set_on(b, CHILD, b"made of the old", PARENT))
    await peers.held.wait()
    assert not (await put(a, PARENT, b"new")).failures
    peers.gate.set()
    await writing
    assert await fetch(a, CHILD) is None


async def test_touched_dependent_is_still_reached() -> None:
    """A longer life of the dependent is one of its links too."""
    a, b, clock = pair()
    await set_on(a, CHILD, b"1", PARENT, ttl_ms=1_000)
    clock.advance(0.9)
    assert (await touch(a, CHILD, 600_000)).versions[0]
    clock.advance(KEEP_S + 100)
    for node in (a, b):
        for _ in range(5):
            node.cascades.expire(clock.now())
            node.linking.expire(clock.now())
    assert await fetch(a, CHILD) == b"1"
    await put(a, PARENT, b"new")
    assert await fetch(a, CHILD) is None


async def test_links_and_edges_end_with_their_entries() -> None:
    """Nothing is left of a dependent that has ended, on either side."""
    a, b, clock = pair()
    await set_on(a, CHILD, b"1", PARENT, ttl_ms=1_000)
    clock.advance(KEEP_S + 2)
    for node in (a, b):
        for _ in range(5):
            node.cascades.expire(clock.now())
            node.linking.expire(clock.now())
    for node, kind in ((a, "dependents"), (b, "links")):
        namespace = node.namespaces.get("default")
        assert len(getattr(namespace, kind)) == 0


async def test_links_beyond_the_limit_take_their_entries_along() -> None:
    """The oldest dependents are given up rather than forgotten."""
    a, b, _ = pair()
    namespace = b.namespaces.get("default")
    assert namespace is not None
    namespace.links = Links(limit=1)
    await set_on(a, CHILD, b"1", PARENT)
    await set_on(a, OTHER, b"2", PARENT)
    await b.cascades.ended(5.0)
    assert [await fetch(a, key) for key in (CHILD, OTHER)] == [None, b"2"]


async def test_owner_of_a_parent_out_of_reach() -> None:
    """Nobody would tell of its changes: the write fails, and may be repeated."""
    clock, peers = ManualClock(), DirectPeers()
    _, b = (new_node(name, clock, peers=peers, view=VIEW) for name in ("a", "b"))
    peers.cut.add("a")
    refused = await set_on(b, CHILD, b"1", PARENT)
    assert refused.failures[0].reason is Reason.OWNER_UNREACHABLE
    assert await fetch(b, CHILD) is None


# Views.


def trio(peers: DirectPeers, *, l2: bool = False) -> tuple[dict[str, Node], ManualClock]:
    """Return three nodes of a cluster that has two members yet."""
    clock = ManualClock()
    store = MemoryL2(clock) if l2 else None
    return {name: new_node(name, clock, peers=peers, l2=store, view=VIEW) for name in ("a", "b", "c")}, clock


def moving(epoch: int = 2) -> tuple[bytes, bytes]:
    """Return a parent that goes from a to c with the view that admits c, and a dependent that stays with b."""
    after = view_of(epoch, "a", "b", "c")
    parent = next(key for key in owned_by(after, "c", 50, prefix="p") if key in owned_by(VIEW, "a", 200, prefix="p"))
    child = next(key for key in owned_by(after, "b", 50) if key in owned_by(VIEW, "b", 200))
    return parent, child


@pytest.mark.parametrize("held", [False, True])
async def test_parent_that_moves_keeps_its_dependents(held: bool) -> None:
    """Its new owner knows them before it acts: a write there waits until all have given their word."""
    peers = HeldLinks()
    nodes, _ = trio(peers)
    parent, child = moving()
    assert not (await set_on(nodes["a"], child, b"1", parent)).failures
    peers.settles = False
    if held:
        peers.gate.clear()
    for node in nodes.values():
        node.placement.apply(view_of(2, "a", "b", "c"))
    changing = asyncio.create_task(put(nodes["a"], parent, b"new"))
    if held:
        await peers.held.wait()
        assert not await settled(changing)
        assert await fetch(nodes["b"], child) == b"1"
        peers.gate.set()
    assert not (await changing).failures
    assert await fetch(nodes["b"], child) is None


async def test_new_owner_out_of_reach_costs_the_dependent() -> None:
    """Its parent's new owner cannot be told: it is dropped, from near caches too, before this node gives its word."""

    class Cut(DirectPeers):
        async def forward(self, owner: str, batch: Batch) -> BatchResult:
            if batch.operation is Operation.LINK and owner == "c":
                raise PeerUnavailable("cut", sent=False)
            return await super().forward(owner, batch)

    peers = Cut()
    nodes, _ = trio(peers)
    parent, child = moving()
    assert not (await set_on(nodes["a"], child, b"1", parent)).failures
    peers.settles = False
    session = NearSession(nodes["b"])
    await session.read(child)
    for node in nodes.values():
        node.placement.apply(view_of(2, "a", "b", "c"))
    writing = asyncio.create_task(put(nodes["a"], parent, b"new"))
    while ("default", [child], []) not in session.told:
        assert not await settled(writing)
    session.acknowledge()
    assert not (await writing).failures
    assert await fetch(nodes["b"], child) is None


async def test_dependent_in_l2_of_a_lost_owner() -> None:
    """The dependent's owner is gone, and its links with it: L2 still has the value, and nobody believes it."""
    peers = DirectPeers()
    nodes, _ = trio(peers, l2=True)
    child = next(key for key in owned_by(VIEW, "b", 50))
    await set_on(nodes["a"], child, b"1", PARENT)
    del peers.nodes["b"]
    nodes["a"].placement.apply(view_of(2, "a"))
    assert await fetch(nodes["a"], child) is None


async def test_dependent_that_was_evicted_is_found_in_l2() -> None:
    """Its owner has the link: it believes L2."""
    peers = DirectPeers()
    nodes, _ = trio(peers, l2=True)
    await set_on(nodes["a"], CHILD, b"1", PARENT)
    namespace = nodes["b"].namespaces.get("default")
    assert namespace is not None
    namespace.store.clear()
    assert await fetch(nodes["a"], CHILD) == b"1"
    namespace.store.clear()
    await put(nodes["a"], PARENT, b"new")
    assert await fetch(nodes["a"], CHILD) is None


@pytest.mark.parametrize("epoch", [2, 3])
async def test_view_that_comes_while_an_entry_is_linked(epoch: int) -> None:
    """Whether its key moves or the view before was missed: nothing is stored, and the caller may try again."""
    peers = HeldLinks()
    nodes, _ = trio(peers)
    peers.gate.clear()
    writing = asyncio.create_task(set_on(nodes["b"], CHILD, b"1", PARENT))
    await peers.held.wait()
    for node in nodes.values():
        node.placement.apply(view_of(epoch, "a", "b", "c"))
    peers.gate.set()
    assert (await writing).failures[0].reason is Reason.NOT_OWNER
    assert await fetch(nodes["b"], CHILD) is None


async def test_missed_view_unties_everything() -> None:
    """What was linked may have changed under owners that this node has never heard of."""
    peers = DirectPeers()
    nodes, _ = trio(peers, l2=True)
    await set_on(nodes["a"], CHILD, b"1", PARENT)
    for node in nodes.values():
        node.placement.apply(view_of(3, "a", "b"))
        assert node.tier is not None
        node.tier.must_adopt = False
    assert await fetch(nodes["b"], CHILD) is None
