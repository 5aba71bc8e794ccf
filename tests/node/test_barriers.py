"""Barriers over several nodes: what they reach, what they wait for, and what L2 may be believed about."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from cachenode.adapters.l2_chaos import ChaosL2
from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.holders import DRIFT, NEAR_LEASE_S
from cachenode.node.barriers import again
from cachenode.node.service import Node
from cachenode_api.keys import seat_of
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER_BYTES, INT_FLAGS, TAGGED
from cachenode_api.ring import Ring
from cachenode_api.selectors import EVERYTHING, SelectorKind, make_selector
from cachenode_api.tags import pack_tags, split_tags
from cachenode_api.version import make_version
from cachenode_api.view import View
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, drop, fetch, member, new_node, owned_by, put, run, touch, view_of
from tests.support.copies import NearSession, settled

LEASE_S = NEAR_LEASE_S * (1 + DRIFT)
PREFIX, GLOB, TAG, NAMESPACE = SelectorKind.PREFIX, SelectorKind.GLOB, SelectorKind.TAG, SelectorKind.NAMESPACE


class Cluster:
    """Nodes of one view over one L2, each with an access to it that can fail on its own."""

    def __init__(self, *names: str, l2: bool = True, held: bool = False) -> None:
        self.clock = ManualClock()
        self.peers = DirectPeers()
        self.view = view_of(1, *names)
        self.memory = MemoryL2(self.clock)
        self.l2 = l2
        self.held: dict[str, HeldL2] = {}
        self.access: dict[str, ChaosL2] = {}
        self.nodes = {name: self.start(name) for name in names}

    def start(self, name: str, view: View | None = None) -> Node:
        """Start a node; one that comes later must learn what was ordered before."""
        self.held[name] = HeldL2(self.memory)
        self.access[name] = ChaosL2(self.held[name], random.Random(0))
        l2 = self.access[name] if self.l2 else None
        node = new_node(name, self.clock, l2=l2, peers=self.peers, view=view or self.view)
        if node.tier is not None and view is not None:
            node.tier.must_adopt = True
        return node

    def change(self, epoch: int, *names: str) -> View:
        """Put a view in force at every node that is in it."""
        view = view_of(epoch, *names)
        for name in names:
            if name in self.nodes:
                self.nodes[name].placement.apply(view)
        self.view = view
        return view

    @property
    def coordinator(self) -> str:
        name = Ring(self.view).owner(seat_of("default"))
        assert name is not None
        return name

    @property
    def other(self) -> str:
        return next(name for name in self.nodes if name != self.coordinator)

    def one_each(self, prefix: str = "k") -> list[bytes]:
        """Return a key of each node."""
        return [owned_by(self.view, name, prefix=prefix)[0] for name in self.nodes]

    async def put(self, key: bytes, value: bytes = b"v", *tags: bytes) -> BatchResult:
        """Set a key at its owner."""
        flags, value = (TAGGED, pack_tags(tags) + value) if tags else (0, value)
        node = self.nodes[Ring(self.view).owner(key) or ""]
        return await run(node, Batch(Operation.SET, "default", [key], [value], [flags]))

    async def get(self, key: bytes) -> list[bytes | Reason | None]:
        """Read a key over each node."""
        found = []
        for node in self.nodes.values():
            value = await fetch(node, key)
            found.append(value)
        return found

    def evict(self) -> None:
        """Empty every node's memory."""
        for node in self.nodes.values():
            for namespace in node.namespaces:
                namespace.store.clear()

    async def bar(self, kind: SelectorKind, text: bytes, at: str | None = None, *, acknowledged: bool = True) -> Reason:
        """Order a barrier; return the reason if it failed."""
        batch = Batch(Operation.BARRIER, "default", [text], flags=[kind.value], acknowledged=acknowledged)
        result = await run(self.nodes[at or self.coordinator], batch)
        return result.failures[0].reason if result.failures else Reason.OK


def at(node: Node) -> int:
    """Return the position of a node's barriers."""
    namespace = node.namespaces.get("default")
    assert namespace is not None
    return namespace.barriers.position


SELECTORS = [(PREFIX, b"k"), (GLOB, b"k*[0-9]"), (TAG, b"red"), (NAMESPACE, EVERYTHING)]


@pytest.mark.parametrize("names", ["a", "ab", "abc"])
@pytest.mark.parametrize("where", ["memory", "L2 alone", "no L2"])
@pytest.mark.parametrize(("kind", "text"), SELECTORS)
async def test_what_was_set_before_is_gone_everywhere(kind: SelectorKind, text: bytes, where: str, names: str) -> None:
    """After a barrier no node finds what it covers, in memory or in L2; the rest stays, and what comes later too."""
    cluster = Cluster(*names, l2=where != "no L2")
    covered, others = cluster.one_each("k"), cluster.one_each("other")
    for key in covered:
        await cluster.put(key, b"old", b"red")
    for key in others:
        await cluster.put(key, b"old", b"blue")
    if where == "L2 alone":
        cluster.evict()
    assert await cluster.bar(kind, text) is Reason.OK
    for key in covered:
        assert await cluster.get(key) == [None] * len(names)
    for key in others if kind is not NAMESPACE else ():
        assert b"old" in (await cluster.get(key))[0]  # type: ignore[operator]
    for key in covered:
        await cluster.put(key, b"new")
    if where == "L2 alone":
        cluster.evict()
    for key in covered:
        assert await cluster.get(key) == [b"new"] * len(names)


async def test_swept_memory_stays_empty_when_l2_is_read() -> None:
    """What a barrier covers does not come back from L2 once the walk is over."""
    cluster = Cluster("a")
    node = cluster.nodes["a"]
    namespace = node.namespaces.get("default")
    assert namespace is not None
    for number in range(50):
        await cluster.put(b"k%d" % number)
    await cluster.bar(PREFIX, b"k")
    while namespace.sweep.active:
        namespace.sweep.step(10, cluster.clock.now())
    assert len(namespace.store) == 0
    assert [await fetch(node, b"k%d" % number) for number in range(50)] == [None] * 50


@pytest.mark.parametrize("l2", [False, True])
@pytest.mark.parametrize("what", ["touch", "incr", "set_if", "delete"])
async def test_nothing_builds_on_what_is_covered(what: str, l2: bool) -> None:
    """While the walk has not come to an entry it is as good as gone: it can be neither touched nor counted up."""
    cluster = Cluster("a", l2=l2)
    node = cluster.nodes["a"]
    await run(node, Batch(Operation.SET, "default", [b"k"], [b"7"], [INT_FLAGS]))
    await cluster.bar(PREFIX, b"k")
    namespace = node.namespaces.get("default")
    assert namespace is not None
    assert namespace.sweep.active
    if what == "touch":
        assert (await touch(node, b"k", 60_000)).versions == [0]
    elif what == "delete":
        assert (await drop(node, b"k")).versions == [0] or l2, "what L2 still has counts as something"
    elif what == "incr":
        result = await run(node, Batch(Operation.INCR, "default", [b"k"], deltas=[1]))
        assert result.records[0][HEADER_BYTES:] == b"1"
        return
    else:
        batch = Batch(Operation.SET, "default", [b"k"], [b"x"], if_versions=[(1 << 64) - 1])
        assert (await run(node, batch)).failures[0].reason is Reason.CONDITION_FAILED
    assert await fetch(node, b"k") is None


# What is under way.


@pytest.mark.parametrize("kind", [PREFIX, TAG, NAMESPACE])
async def test_load_begun_before_a_barrier_is_not_stored(kind: SelectorKind) -> None:
    """Its waiters get the value; it is not stored; who asks after the barrier begins a new flight. Scenario 19."""
    cluster = Cluster("a", "b")
    (key,) = owned_by(cluster.view, "a")
    node, text = cluster.nodes["a"], dict(SELECTORS)[kind]
    first = await run(node, Batch(Operation.LEASE, "default", [key], lease_s=9.0), holder="one")
    waiting = asyncio.create_task(run(node, Batch(Operation.LEASE, "default", [key], lease_s=9.0), holder="two"))
    assert not await settled(waiting)
    assert await cluster.bar(kind, text) is Reason.OK
    second = await run(node, Batch(Operation.LEASE, "default", [key], lease_s=9.0), holder="three")
    assert second.tokens
    assert second.tokens != first.tokens
    value = pack_tags((b"red",)) + b"old"
    batch = Batch(Operation.FULFILL, "default", [key], [value], [TAGGED], tokens=first.tokens)
    assert (await run(node, batch)).versions == [0]
    assert split_tags((await waiting).records[0][HEADER_BYTES:])[1] == b"old"
    assert await cluster.get(key) == [None, None]
    batch = Batch(Operation.FULFILL, "default", [key], [b"new"], tokens=second.tokens)
    assert (await run(node, batch)).versions[0] > 0
    assert await cluster.get(key) == [b"new", b"new"]


@pytest.mark.parametrize("before", ["empty", "walked", "walking"])
@pytest.mark.parametrize("what", ["fulfil", "touch"])
async def test_barrier_during_set_is_not_undone(what: str, before: str) -> None:
    """A value from before a barrier that L2 is taking just now does not appear in memory after it. Scenario 19."""
    cluster = Cluster("a")
    node, held = cluster.nodes["a"], cluster.held["a"]
    namespace = node.namespaces.get("default")
    assert namespace is not None
    if before != "empty":
        await cluster.put(b"other")
    if what == "touch":
        await cluster.put(b"k", b"old")
        changing = touch(node, b"k", 60_000)
    else:
        lease = await run(node, Batch(Operation.LEASE, "default", [b"k"], lease_s=9.0))
        changing = run(node, Batch(Operation.FULFILL, "default", [b"k"], [b"old"], tokens=lease.tokens))
    held.gate.clear()
    writing = asyncio.create_task(changing)
    await held.held.wait()
    held.held.clear()
    barring = asyncio.create_task(cluster.bar(PREFIX, b"k"))
    await held.held.wait()
    position = node.versions.next()
    node.barriers.note(namespace, position, make_selector(PREFIX, b"k"))  # as if L2 had taken it first
    while before == "walked" and namespace.sweep.active:
        namespace.sweep.step(100, cluster.clock.now())
    held.gate.set()
    assert not (await writing).failures
    assert await barring is Reason.OK
    while namespace.sweep.active:
        namespace.sweep.step(100, cluster.clock.now())
    assert await fetch(node, b"k") is None
    cluster.evict()
    assert await fetch(node, b"k") is None


async def test_set_that_a_barrier_undoes_takes_the_older_value_along() -> None:
    """If a tag's barrier covers what L2 is taking, the value which that replaces, without the tag, is gone too."""
    cluster = Cluster("a")
    node, held = cluster.nodes["a"], cluster.held["a"]
    namespace = node.namespaces.get("default")
    assert namespace is not None
    await cluster.put(b"k", b"old")
    held.gate.clear()
    writing = asyncio.create_task(cluster.put(b"k", b"new", b"red"))
    await held.held.wait()
    node.barriers.note(namespace, node.versions.next(), make_selector(TAG, b"red"))
    held.gate.set()
    assert (await writing).versions[0] > 0
    assert await fetch(node, b"k") is None
    cluster.evict()
    assert await fetch(node, b"k") is None


async def test_read_under_way_is_not_kept() -> None:
    """What was read from L2 before a barrier, and comes after it, is not kept in memory, nor copied."""
    cluster = Cluster("a")
    node, held = cluster.nodes["a"], cluster.held["a"]
    namespace = node.namespaces.get("default")
    assert namespace is not None
    await cluster.put(b"k", b"old")
    cluster.evict()
    session = NearSession(node)
    held.gate.clear()
    reading = asyncio.create_task(session.read(b"k"))
    await held.held.wait()
    node.barriers.note(namespace, node.versions.next(), make_selector(PREFIX, b"k"))
    held.gate.set()
    await reading
    assert session.copies == {}
    assert len(namespace.store) == 0


async def test_value_set_during_a_read_and_covered_since_is_not_copied() -> None:
    """A read of L2 that finds memory filled meanwhile looks at the barriers that have come since, too."""
    cluster = Cluster("a")
    node, held = cluster.nodes["a"], cluster.held["a"]
    namespace = node.namespaces.get("default")
    assert namespace is not None
    session = NearSession(node)
    held.gate.clear()
    reading = asyncio.create_task(session.read(b"k"))
    await held.held.wait()
    gate, held.gate = held.gate, asyncio.Event()
    held.gate.set()
    await cluster.put(b"k", b"old")
    await cluster.bar(PREFIX, b"k")
    gate.set()
    await reading
    assert session.copies == {}
    assert await fetch(node, b"k") is None


# Near caches.


async def test_barrier_waits_for_the_sessions_of_every_node() -> None:
    """It is answered when all sessions that hold anything of the namespace, at any node, have acted on it."""
    cluster = Cluster("a", "b", "c")
    sessions = []
    for name, key in zip(cluster.nodes, cluster.one_each(), strict=True):
        await cluster.put(key)
        session = NearSession(cluster.nodes[name])
        assert await session.read(key)
        sessions.append(session)
    idle = NearSession(cluster.nodes["a"])
    barring = asyncio.create_task(cluster.bar(PREFIX, b"k"))
    for session in sessions:
        assert not await settled(barring)
        assert session.copies
        assert session.told == [("default", [], [b"k"])]
        session.acknowledge()
        assert not session.copies
    assert await barring is Reason.OK
    assert idle.told == []


async def test_barrier_does_not_wait_for_its_own_session() -> None:
    """The session that orders a barrier at the coordinator is told ahead of the reply, and not waited for."""
    cluster = Cluster("a")
    await cluster.put(b"k")
    session = NearSession(cluster.nodes["a"])
    await session.read(b"k")
    batch = Batch(Operation.BARRIER, "default", [b"k"], flags=[PREFIX.value])
    assert not (await asyncio.wait_for(session.execute(batch), 5)).failures
    assert session.told == [("default", [], [b"k"])]


async def test_barrier_need_not_wait() -> None:
    """Who does not want to wait is answered once every node has applied it."""
    cluster = Cluster("a", "b")
    sessions = [NearSession(node) for node in cluster.nodes.values()]
    for session, key in zip(sessions, cluster.one_each(), strict=True):
        await cluster.put(key)
        await session.read(key)
    assert await asyncio.wait_for(cluster.bar(PREFIX, b"k", acknowledged=False), 5) is Reason.OK
    assert [len(session.told) for session in sessions] == [1, 1]
    for key in cluster.one_each():
        assert await cluster.get(key) == [None, None]


async def test_barrier_waits_for_who_was_told_before() -> None:
    """A session that has not acknowledged a write yet may serve what the barrier covers as well."""
    cluster = Cluster("a")
    node = cluster.nodes["a"]
    namespace = node.namespaces.get("default")
    assert namespace is not None
    await cluster.put(b"k", b"1")
    session = NearSession(node)
    await session.read(b"k")
    await run(node, Batch(Operation.SET, "default", [b"k"], [b"2"], acknowledged=False))
    namespace.exposure.turn()
    namespace.exposure.turn()
    barring = asyncio.create_task(cluster.bar(PREFIX, b"k"))
    assert not await settled(barring)
    session.acknowledge()
    assert await barring is Reason.OK


# Coordinators.


async def test_forwarded_once_to_the_coordinator() -> None:
    """Any node takes a barrier and hands it on to the coordinator, who tells each other member once."""
    cluster = Cluster("a", "b", "c")
    for key in cluster.one_each():
        await cluster.put(key)
    cluster.peers.forwards.clear()
    assert await cluster.bar(PREFIX, b"k", cluster.other) is Reason.OK
    others = [name for name in cluster.nodes if name != cluster.coordinator]
    assert sorted(cluster.peers.forwards) == sorted((name, 1) for name in [cluster.coordinator, *others])
    assert len({at(node) for node in cluster.nodes.values()}) == 1


async def test_who_is_not_the_coordinator_does_not_hand_on_twice() -> None:
    """A barrier that a peer has forwarded is refused by a node that is not the coordinator either."""
    cluster = Cluster("a", "b")
    batch = Batch(Operation.BARRIER, "default", [b"k"], flags=[PREFIX.value])
    result = await run(cluster.nodes[cluster.other], batch, from_peer=True)
    assert result.failures[0].reason is Reason.NOT_OWNER


async def test_coordinator_out_of_reach() -> None:
    """The barrier fails with the reason, and whether it may have been done."""
    cluster = Cluster("a", "b")
    cluster.peers.cut.add(cluster.coordinator)
    assert await cluster.bar(PREFIX, b"k", cluster.other) is Reason.OWNER_UNREACHABLE
    cluster.peers.cut.clear()
    cluster.peers.lost.add(cluster.coordinator)
    assert await cluster.bar(PREFIX, b"k", cluster.other) is Reason.UNCERTAIN


async def test_orders_are_for_nodes_only() -> None:
    """A client can give no orders."""
    cluster = Cluster("a")
    for operation in (Operation.APPLY, Operation.DISTRUST, Operation.REPLAY):
        batch = Batch(operation, "default", [b"k"], flags=[PREFIX.value], tokens=[1])
        assert (await run(cluster.nodes["a"], batch)).failures[0].reason is Reason.INVALID_REQUEST


@pytest.mark.parametrize(("kind", "text"), [(9, b"k"), (0, b"k"), (PREFIX, b""), (GLOB, b"[a"), (NAMESPACE, b"k")])
async def test_wrong_selectors_are_refused(kind: int, text: bytes) -> None:
    """A selector that cannot be used fails with a text, and nothing happens."""
    cluster = Cluster("a")
    await cluster.put(b"k")
    batch = Batch(Operation.BARRIER, "default", [text], flags=[kind])
    result = await run(cluster.nodes["a"], batch)
    assert result.failures[0].reason is Reason.INVALID_REQUEST
    assert await fetch(cluster.nodes["a"], b"k") == b"v"


async def test_restarted_member_answers_for_its_former_life() -> None:
    """Clients of a life that ended a moment ago may serve their copies: a barrier waits until their leases are over."""
    cluster = Cluster("a", "b")
    view = view_of(2, "a", "b")
    cluster.nodes[cluster.coordinator].placement.apply(view)
    again = cluster.nodes[cluster.other].placement
    again.view = None  # it has just started
    again.apply(view, replaced=True)
    again.peer_settled(cluster.coordinator, "1", 2)
    again.tick(0.0)
    assert await cluster.bar(PREFIX, b"k", acknowledged=False) is Reason.OK
    barring = asyncio.create_task(cluster.bar(PREFIX, b"k"))
    assert not await settled(barring)
    again.tick(4.0)
    assert not await settled(barring)
    again.tick(4.5)
    assert await barring is Reason.OK


async def test_order_of_an_older_view_is_refused() -> None:
    """A node that knows a newer view takes no order from before: another may be the coordinator there."""
    cluster = Cluster("a", "b")
    node = cluster.nodes["a"]
    await cluster.put(owned_by(cluster.view, "a")[0])
    node.placement.apply(view_of(5, "a", "b"))
    order = Batch(Operation.APPLY, "default", [b"k"], flags=[PREFIX.value], tokens=[make_version(4, 1)])
    result = await run(node, order, from_peer=True)
    assert result.failures[0].reason is Reason.NOT_OWNER
    assert at(node) == 0
    known = again("default", make_version(4, 1), make_selector(PREFIX, b"k"))
    assert not (await run(node, known, from_peer=True)).failures
    assert at(node) == make_version(4, 1)


async def test_coordinator_with_an_older_view_does_not_acknowledge() -> None:
    """Who is refused by a member fails the barrier: it may be ordered again under the newer view."""
    cluster = Cluster("a", "b")
    cluster.nodes[cluster.other].placement.apply(view_of(2, "a", "b"))
    assert await cluster.bar(PREFIX, b"k") is Reason.NOT_OWNER
    cluster.nodes[cluster.coordinator].placement.apply(view_of(2, "a", "b"))
    assert await cluster.bar(PREFIX, b"k") is Reason.OK


async def test_coordinator_that_is_fenced_meanwhile_does_not_acknowledge() -> None:
    """Without its ownership lease the coordinator cannot know that it still is one."""
    cluster = Cluster("a")
    node = cluster.nodes["a"]
    await cluster.put(b"k")
    session = NearSession(node)
    await session.read(b"k")
    barring = asyncio.create_task(cluster.bar(PREFIX, b"k"))
    assert not await settled(barring)
    node.placement.lease_until = cluster.clock.now()
    session.acknowledge()
    assert await barring is Reason.NOT_READY


@pytest.mark.parametrize("how", ["comes back", "leaves"])
async def test_unreachable_member_is_waited_for(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it is a member it may serve: the barrier is done once it has answered, or is no member any more."""
    monkeypatch.setattr("cachenode.node.service._ASK_AGAIN_S", 0)
    cluster = Cluster("a", "b", "c")
    gone = next(name for name in cluster.nodes if name not in {cluster.coordinator, cluster.other})
    cluster.peers.cut.add(gone)
    barring = asyncio.create_task(cluster.bar(PREFIX, b"k"))
    assert not await settled(barring, turns=200)
    if how == "comes back":
        cluster.peers.cut.clear()
        assert await barring is Reason.OK
        assert at(cluster.nodes[gone]) > 0
    else:
        left = [name for name in cluster.nodes if name != gone]
        coordinator = cluster.coordinator
        cluster.change(2, *left)
        outcome = await barring
        assert outcome is (Reason.OK if cluster.coordinator == coordinator else Reason.NOT_OWNER)


# The shared store.


@pytest.mark.parametrize("who", ["the coordinator", "a peer"])
async def test_barrier_that_l2_missed_is_replayed(who: str) -> None:
    """Every node remembers it and brings it to L2 before L2 is trusted again, also if the coordinator is gone."""
    cluster = Cluster("a", "b")
    for key in cluster.one_each():
        await cluster.put(key, b"old")
    cluster.access[cluster.coordinator].down = True
    assert await cluster.bar(PREFIX, b"k") is Reason.OK
    assert await cluster.memory.barriers() == []
    for key in cluster.one_each():
        assert await cluster.get(key) == [None, None]
    cluster.access[cluster.coordinator].down = False
    cluster.clock.advance(2.0)
    node = cluster.nodes[cluster.coordinator if who == "the coordinator" else cluster.other]
    assert node.tier is not None
    assert node.tier.behind
    assert await node.tier.recover()
    assert [selector.text for _, _, selector in await cluster.memory.barriers()] == [b"k"]


async def test_new_node_adopts_barriers_before_it_believes_l2() -> None:
    """What was ordered before a node came is in L2; until it knows that it reads nothing there."""
    cluster = Cluster("a", "b")
    keys = owned_by(view_of(2, "a", "b", "c"), "c", 2)
    for key in keys:
        await cluster.put(key, b"old")
    await cluster.bar(PREFIX, keys[0])
    view = cluster.change(2, "a", "b", "c")
    node = cluster.nodes["c"] = cluster.start("c", view)
    assert node.tier is not None
    cluster.clock.advance(1.1)  # readers wait no longer
    assert node.tier.state == "catching_up"
    assert [await fetch(node, key) for key in keys] == [None, None]
    assert await node.tier.recover()
    assert node.tier.state == "closed"
    assert [await fetch(node, key) for key in keys] == [None, b"old"]


async def test_newcomer_is_told_while_the_shared_store_takes_its_time() -> None:
    """Who comes when the members have a barrier and L2 has not yet is told too; it refuses what is of an older view."""
    cluster = Cluster("a", "b")
    first = cluster.coordinator
    new = next(name for name in "cdefgh" if Ring(view_of(2, "a", "b", name)).owner(seat_of("default")) == first)
    (key,) = owned_by(view_of(2, "a", "b", new), new)
    await cluster.put(key, b"old")
    held = cluster.held[first]
    held.gate.clear()
    barring = asyncio.create_task(cluster.bar(PREFIX, key))
    await held.held.wait()
    assert not await settled(barring, turns=50), "b has been told by now"
    view = cluster.change(2, "a", "b", new)
    node = cluster.nodes[new] = cluster.start(new, view)
    assert node.tier is not None
    assert await node.tier.recover()
    assert await fetch(node, key) == b"old", "nothing has been acknowledged yet"
    held.gate.set()
    assert await barring is Reason.NOT_OWNER, "so the client orders it again"
    assert await cluster.bar(PREFIX, key) is Reason.OK
    assert await fetch(node, key) is None


async def test_new_node_does_not_believe_l2_that_cannot_be_asked() -> None:
    """While the barriers cannot be read nothing else of L2 counts."""
    cluster = Cluster("a", "b")
    (key,) = owned_by(view_of(2, "a", "b", "c"), "c")
    await cluster.put(key, b"old")
    await cluster.bar(PREFIX, key)
    view = cluster.change(2, "a", "b", "c")
    node = cluster.nodes["c"] = cluster.start("c", view)
    assert node.tier is not None
    cluster.access["c"].down = True
    assert not await node.tier.recover()
    cluster.access["c"].down = False
    cluster.clock.advance(1.1)
    assert await fetch(node, key) is None
    cluster.clock.advance(2.0)
    assert await node.tier.recover()
    assert await fetch(node, key) is None
    assert node.tier.available


async def test_barrier_that_l2_missed_reaches_who_comes_later() -> None:
    """A node that joins while L2 has not got a barrier yet hears of it from the members, before it serves."""
    cluster = Cluster("a", "b")
    (key,) = owned_by(view_of(2, "a", "b", "c"), "c")
    await cluster.put(key, b"old")
    for name in ("a", "b"):
        cluster.access[name].down = True
    assert await cluster.bar(PREFIX, key) is Reason.OK
    view = view_of(2, "a", "b", "c")
    node = cluster.start("c", view)
    cluster.change(2, "a", "b", "c")
    cluster.nodes["c"] = node
    for _ in range(50):
        await asyncio.sleep(0)
    assert node.tier is not None
    await node.tier.recover()
    await node.tier.recover()
    assert await fetch(node, key) is None


async def test_l2_written_after_a_barrier_is_believed() -> None:
    """An entry whose write began at or after the barrier's position is true, at every node."""
    cluster = Cluster("a", "b")
    for _ in range(3):
        await cluster.bar(PREFIX, b"k")
        for key in cluster.one_each():
            await cluster.put(key, b"new")
    cluster.evict()
    for key in cluster.one_each():
        assert await cluster.get(key) == [b"new", b"new"]


# Distrust.


@pytest.mark.parametrize("what", ["set", "delete"])
async def test_write_that_l2_missed_makes_every_node_distrust_it(what: str) -> None:
    """L2 still has the older value; no node reads it there, before the writer is gone or after."""
    cluster = Cluster("a", "b")
    (key,) = owned_by(cluster.view, "a")
    await cluster.put(key, b"old")
    cluster.access["a"].down = True
    result = await (cluster.put(key, b"new") if what == "set" else drop(cluster.nodes["a"], key))
    assert not result.failures
    tier = cluster.nodes["b"].tier
    assert tier is not None
    assert tier.journal_size == 1
    cluster.peers.cut.add("a")
    assert await fetch(cluster.nodes["b"], key) is None, "past the owner"
    del cluster.nodes["a"]
    cluster.change(2, "b")
    assert await fetch(cluster.nodes["b"], key) is None, "as the owner"
    assert (await cluster.memory.read("default", [key]))[0] is not None
    assert await tier.recover()
    assert await cluster.memory.read("default", [key]) == [None]
    await put(cluster.nodes["b"], key, b"newer")
    cluster.evict()
    assert await fetch(cluster.nodes["b"], key) == b"newer"


async def test_missed_write_waits_for_every_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not acknowledged before each member knows that L2 is behind."""
    monkeypatch.setattr("cachenode.node.service._ASK_AGAIN_S", 0)
    cluster = Cluster("a", "b")
    (key,) = owned_by(cluster.view, "a")
    await cluster.put(key, b"old")
    cluster.access["a"].down = True
    cluster.peers.cut.add("b")
    writing = asyncio.create_task(cluster.put(key, b"new"))
    assert not await settled(writing, turns=200)
    cluster.peers.cut.clear()
    assert not (await writing).failures


async def test_missed_write_voids_reads_under_way_at_peers() -> None:
    """A peer that has read the older value in L2 and is about to use it as the key's next owner must not keep it."""
    cluster = Cluster("a", "b")
    node = cluster.nodes["b"]
    namespace = node.namespaces.get("default")
    assert namespace is not None
    (token,) = namespace.fills.begin([b"k"])
    batch = Batch(Operation.DISTRUST, "default", [b"k"], tokens=[make_version(1, 9)])
    assert not (await run(node, batch, from_peer=True)).failures
    assert not namespace.fills.settle(b"k", token)


async def test_who_comes_later_hears_what_l2_missed() -> None:
    """A node that joins distrusts L2 for the keys whose writes it has missed."""
    cluster = Cluster("a", "b")
    (key,) = owned_by(view_of(2, "a", "b", "c"), "c")
    await cluster.put(key, b"old")
    for name in ("a", "b"):
        cluster.access[name].down = True
    await cluster.put(key, b"new")
    view = view_of(2, "a", "b", "c")
    node = cluster.start("c", view)
    cluster.change(2, "a", "b", "c")
    cluster.nodes["c"] = node
    for _ in range(50):
        await asyncio.sleep(0)
    assert node.tier is not None
    await node.tier.recover()
    assert await fetch(node, key) is None


async def test_endless_values_are_swept_too() -> None:
    """A barrier covers what does not expire as well as what does."""
    cluster = Cluster("a")
    await put(cluster.nodes["a"], b"k1", b"v", ttl_ms=5_000)
    await put(cluster.nodes["a"], b"k2", b"v")
    await cluster.bar(PREFIX, b"k")
    assert [await fetch(cluster.nodes["a"], key) for key in (b"k1", b"k2")] == [None, None]
    assert math.isinf(cluster.nodes["a"].placement.lease_until)


async def test_lost_history_is_replayed_by_all() -> None:
    """L2 that has older values again is believed once every node has brought it what it wrote, and the barriers.

    Scenarios 33 and 38.
    """
    cluster = Cluster("a", "b")
    keys = cluster.one_each()
    for key in [*keys, b"barred"]:
        await cluster.put(key, b"old")
    former = dict(cluster.memory._slots)
    for key in keys:
        await cluster.put(key, b"new")
    await cluster.bar(PREFIX, b"barred")
    cluster.memory.forget()
    cluster.memory._slots.update(former)  # a replica that lacks the last writes has taken the server's place
    cluster.evict()
    for key in [*keys, b"barred"]:
        assert await cluster.get(key) == [None, None], "not believed"
    tiers = [node.tier for node in cluster.nodes.values() if node.tier is not None]
    assert not await tiers[0].recover(), "the next round sees whether nothing was missed meanwhile"
    for key in keys:
        assert await cluster.memory.read("default", [key]) == [None], "also what the other node wrote"
    assert await tiers[0].recover()
    while not await tiers[1].recover():
        pass
    for key in [*keys, b"barred"]:
        assert await cluster.get(key) == [None, None]
    assert [selector.text for _, _, selector in await cluster.memory.barriers()] == [b"barred"]
    await cluster.put(keys[0], b"newer")
    cluster.evict()
    assert await cluster.get(keys[0]) == [b"newer", b"newer"]


async def test_member_that_the_registry_has_left_out_may_act() -> None:
    """A registry whose clock has stepped leaves out a member that is linked: until its lease is over it may serve.

    It is no member, so it is not told: the barrier waits (the simulation found this).
    """
    cluster = Cluster("a", "b")
    name, other = cluster.coordinator, cluster.other
    placement = cluster.nodes[name].placement
    del placement.listeners[0]  # the fixture's, which gives the others' words
    placement.peer_linked(member(other))
    placement.apply(view_of(2, name))
    placement.tick(0.0)
    barring = asyncio.create_task(cluster.bar(PREFIX, b"k", at=name))
    assert not await settled(barring)
    placement.tick(4.5)
    assert await barring is Reason.OK
