"""Values that are expired rather than removed: served for a while, marked, by every node, and never unmarked again."""

from __future__ import annotations

import asyncio

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node.barriers import again
from cachenode.node.service import Node
from cachenode_api.keys import seat_of
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, HEADER_BYTES, INT_FLAGS, STALE, TAGGED
from cachenode_api.ring import Ring
from cachenode_api.selectors import EVERYTHING, SelectorKind, make_selector
from cachenode_api.tags import pack_tags, split_tags
from cachenode_api.version import ABSENT_VERSION
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, new_node, run, view_of
from tests.support.copies import NearSession, settled

STALE_S = 5.0
K = b"k7"
PREFIX, GLOB, TAG, NAMESPACE = SelectorKind.PREFIX, SelectorKind.GLOB, SelectorKind.TAG, SelectorKind.NAMESPACE
WAYS = [(None, K), (PREFIX, b"k"), (GLOB, b"*7"), (TAG, b"red"), (NAMESPACE, EVERYTHING)]


class Cluster:
    """Nodes over one L2 with a namespace that serves what is expired for five seconds."""

    def __init__(self, names: str = "ab", *, l2: bool = True, stale_s: float = STALE_S) -> None:
        self.clock = ManualClock()
        self.peers = DirectPeers()
        self.view = view_of(1, *names)
        self.policy = NamespacePolicy(name="n", ttl_s=100.0, max_value_bytes=100, l2=l2, share=1, stale_s=stale_s)
        self.memory = MemoryL2(self.clock)
        self.held: dict[str, HeldL2] = {}
        self.nodes: dict[str, Node] = {}
        for name in names:
            self.start(name)

    def start(self, name: str) -> Node:
        self.held[name] = HeldL2(self.memory)
        l2 = self.held[name] if self.policy.l2 else None
        self.nodes[name] = new_node(name, self.clock, l2=l2, peers=self.peers, policies=[self.policy], view=self.view)
        return self.nodes[name]

    @property
    def owner(self) -> Node:
        return self.nodes[Ring(self.view).owner(K) or ""]

    @property
    def other(self) -> Node:
        return next(node for node in self.nodes.values() if node is not self.owner)

    async def put(self, value: bytes = b"old", flags: int = TAGGED) -> int:
        value = pack_tags([b"red"]) + value if flags & TAGGED else value
        return (await run(self.owner, Batch(Operation.SET, "n", [K], [value], [flags]))).versions[0]

    async def expire(self, kind: SelectorKind | None = None, text: bytes = K, at: Node | None = None) -> BatchResult:
        """Expire a key, or what a selector covers; it must not fail."""
        batch = Batch(Operation.INVALIDATE, "n", [text], expire=True)
        if kind is not None:
            batch = Batch(Operation.BARRIER, "n", [text], flags=[kind.value], expire=True)
        result = await run(at or self.owner, batch)
        assert not result.failures, result
        return result

    async def read(self, at: Node | None = None, operation: Operation = Operation.GET) -> tuple[bytes, bool, int]:
        """Return value, mark and token."""
        result = await run(at or self.owner, Batch(operation, "n", [K], lease_s=5.0, timeout_s=30.0))
        assert not result.failures, result
        if not result.records[0]:
            return b"", False, result.tokens[0] if result.tokens else 0
        flags, value = HEADER.unpack_from(result.records[0])[1], result.records[0][HEADER_BYTES:]
        value = split_tags(value)[1] if flags & TAGGED else value
        return value, bool(flags & STALE), result.tokens[0] if result.tokens else 0

    async def lease(self) -> tuple[bytes, bool, int]:
        return await self.read(operation=Operation.LEASE)

    def evict(self) -> None:
        for node in self.nodes.values():
            for namespace in node.namespaces:
                namespace.store.clear()


@pytest.mark.parametrize(("kind", "text"), WAYS)
@pytest.mark.parametrize("where", ["memory", "L2 alone", "no L2"])
@pytest.mark.parametrize("walked", [False, True])
async def test_served_marked_and_for_so_long(kind: SelectorKind | None, text: bytes, where: str, walked: bool) -> None:
    """After an expiry every node serves the value marked, one caller gets the right to load it, and then it ends."""
    cluster = Cluster(l2=where != "no L2")
    await cluster.put()
    if where == "L2 alone":
        cluster.evict()
    await cluster.expire(kind, text, cluster.other)
    for node in cluster.nodes.values() if walked else ():
        for namespace in node.namespaces:
            while namespace.sweep.active:
                namespace.sweep.step(10, cluster.clock.now())
    value, stale, token = await cluster.lease()
    assert (value, stale, bool(token)) == (b"old", True, True)
    assert await cluster.lease() == (b"old", True, 0)
    assert [await cluster.read(node) for node in cluster.nodes.values()] == [(b"old", True, 0)] * 2
    cluster.clock.advance(STALE_S - 0.1)
    assert await cluster.read(cluster.other) == (b"old", True, 0)
    cluster.clock.advance(0.1)
    assert [await cluster.read(node) for node in cluster.nodes.values()] == [(b"", False, 0)] * 2


@pytest.mark.parametrize(("kind", "text"), WAYS)
async def test_what_is_loaded_anew_is_fresh(kind: SelectorKind | None, text: bytes) -> None:
    """The load that replaces an expired value is stored, and is served unmarked for its own life."""
    cluster = Cluster()
    await cluster.put()
    await cluster.expire(kind, text)
    *_, token = await cluster.lease()
    result = await run(cluster.owner, Batch(Operation.FULFILL, "n", [K], [b"new"], tokens=[token]))
    assert result.versions[0]
    cluster.clock.advance(STALE_S + 1)
    assert await cluster.lease() == (b"new", False, 0)
    cluster.evict()
    assert await cluster.read() == (b"new", False, 0)


@pytest.mark.parametrize(("kind", "text"), WAYS)
@pytest.mark.parametrize("l2", [True, False])
async def test_namespace_that_serves_nothing_stale_removes(kind: SelectorKind | None, text: bytes, l2: bool) -> None:
    """Where there is no ``stale_s`` to expire is to remove."""
    cluster = Cluster(l2=l2, stale_s=0.0)
    await cluster.put()
    await cluster.expire(kind, text)
    cluster.evict()
    assert [await cluster.read(node) for node in cluster.nodes.values()] == [(b"", False, 0)] * 2


@pytest.mark.parametrize(("kind", "text"), WAYS)
async def test_load_under_way_is_not_stored(kind: SelectorKind | None, text: bytes) -> None:
    """What a load brings that began before the expiry is as old as what was expired."""
    cluster = Cluster()
    *_, token = await cluster.lease()
    await cluster.expire(kind, text)
    result = await run(
        cluster.owner, Batch(Operation.FULFILL, "n", [K], [pack_tags([b"red"]) + b"old"], [TAGGED], tokens=[token])
    )
    assert result.versions == [0]
    assert await cluster.read() == (b"", False, 0)


@pytest.mark.parametrize(("kind", "text"), WAYS)
async def test_copies_are_waited_for(kind: SelectorKind | None, text: bytes) -> None:
    """A near cache drops its copy before the expiry is answered, and may not keep what is marked."""
    cluster = Cluster("a")
    await cluster.put()
    session = NearSession(cluster.owner)
    assert await session.read(K, namespace="n")
    expiring = asyncio.create_task(cluster.expire(kind, text))
    assert not await settled(expiring)
    session.acknowledge()
    await asyncio.wait_for(expiring, 5)
    result = await session.execute(Batch(Operation.GET, "n", [K]))
    assert result.records[0]
    assert not result.near or HEADER.unpack_from(result.records[0])[3] <= cluster.clock.now()
    cluster.evict()
    assert not await session.read(K, namespace="n")


async def test_expiring_what_is_being_written_removes_it() -> None:
    """A value on its way to L2 may have been loaded before the expiry: it is removed, not served unmarked after it."""
    cluster = Cluster("a")
    await cluster.put()
    cluster.held["a"].gate.clear()
    writing = asyncio.create_task(cluster.put(b"between"))
    await cluster.held["a"].held.wait()
    expiring = asyncio.create_task(cluster.expire())
    await settled(expiring)
    cluster.held["a"].gate.set()
    await asyncio.gather(writing, expiring)
    assert await cluster.read() == (b"", False, 0)
    cluster.evict()
    assert await cluster.read() == (b"", False, 0)


@pytest.mark.parametrize("l2", [True, False])
async def test_expiring_what_a_sink_is_being_given_removes_it(l2: bool) -> None:
    """A write on its way to the origin was ordered before the expiry: what it stores must not come after."""
    cluster = Cluster("a", l2=l2)
    await cluster.put()
    namespace = cluster.owner.namespaces.get("n")
    assert namespace is not None
    namespace.at_sink.add(K)
    await cluster.expire()
    assert await cluster.read() == (b"", False, 0)


async def test_keys_whose_writes_are_queued_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue for an origin knows a value by its version, so that is not replaced; selectors replace none."""
    cluster = Cluster("a")
    await cluster.put()
    monkeypatch.setattr(cluster.owner, "behind", lambda _namespace: object())
    await cluster.expire(PREFIX, b"k")
    assert (await cluster.read())[:2] == (b"old", True)
    await cluster.expire()
    assert await cluster.read() == (b"", False, 0)


async def test_selector_expires_what_is_being_written() -> None:
    """A value on its way to L2 as a selector is expired is served from there, marked, and not from memory."""
    cluster = Cluster("a")
    cluster.held["a"].gate.clear()
    writing = asyncio.create_task(cluster.put())
    await cluster.held["a"].held.wait()
    expiring = asyncio.create_task(cluster.expire(PREFIX, b"k"))
    await settled(expiring)
    cluster.held["a"].gate.set()
    await asyncio.gather(writing, expiring)
    assert await cluster.read() == (b"old", True, 0)


@pytest.mark.parametrize(("kind", "text"), WAYS)
@pytest.mark.parametrize("l2", [True, False])
async def test_nothing_is_built_on_what_is_expired(kind: SelectorKind | None, text: bytes, l2: bool) -> None:
    """A touch does not prolong it, a counter begins anew, and a condition sees that there is nothing."""
    cluster = Cluster(l2=l2)
    version = await cluster.put(b"41", INT_FLAGS)
    if kind is TAG:
        kind, text = PREFIX, b"k"
    await cluster.expire(kind, text)
    owner = cluster.owner
    assert (await run(owner, Batch(Operation.TOUCH, "n", [K], ttls_ms=[60_000]))).versions == [0]
    again_ = await run(owner, Batch(Operation.SET, "n", [K], [b"1"], [0], if_versions=[version]))
    assert again_.failures[0].reason is Reason.CONDITION_FAILED
    assert (await run(owner, Batch(Operation.INCR, "n", [K], deltas=[1]))).records[0][HEADER_BYTES:] == b"1"
    await cluster.expire(kind, text)
    assert (await run(owner, Batch(Operation.SET, "n", [K], [b"2"], [0], if_versions=[ABSENT_VERSION]))).versions[0]
    assert await cluster.read() == (b"2", False, 0)


async def test_expired_twice_ends_with_the_first() -> None:
    """What is expired while it is marked does not live longer; a removal ends it."""
    cluster = Cluster("a")
    await cluster.put()
    await cluster.expire()
    cluster.clock.advance(STALE_S - 1)
    await cluster.expire()
    await cluster.expire(PREFIX, b"k")
    assert (await cluster.read())[:2] == (b"old", True)
    cluster.clock.advance(1)
    assert await cluster.read() == (b"", False, 0)
    await cluster.put()
    await cluster.expire(PREFIX, b"k")
    await run(cluster.owner, Batch(Operation.BARRIER, "n", [b"k"], flags=[PREFIX.value]))
    assert await cluster.read() == (b"", False, 0)


@pytest.mark.parametrize(("kind", "text"), WAYS)
async def test_new_owner_serves_marked(kind: SelectorKind | None, text: bytes) -> None:
    """A node that owned nothing of it before knows of the expiry, and serves what L2 has as marked."""
    cluster = Cluster("abc")
    await cluster.put()
    await cluster.expire(kind, text)
    former = cluster.owner.placement.me.id
    cluster.view = view_of(2, *(name for name in cluster.nodes if name != former))
    del cluster.nodes[former]
    for node in cluster.nodes.values():
        node.placement.apply(cluster.view)
    assert (await cluster.read())[:2] == (b"old", True)
    cluster.clock.advance(STALE_S)
    assert await cluster.read() == (b"", False, 0)


async def test_expiry_is_a_removal_to_a_newcomer() -> None:
    """A node that learns of it from the shared store does not know when it was: it finds nothing."""
    cluster = Cluster("ab")
    await cluster.put()
    await cluster.expire(PREFIX, b"k")
    cluster.view = view_of(2, "c")
    newcomer = cluster.start("c")
    assert newcomer.tier is not None
    newcomer.tier.must_adopt = True
    await newcomer.tier.recover()
    assert await cluster.read(newcomer) == (b"", False, 0)


@pytest.mark.parametrize(("kind", "text"), WAYS[1:])
async def test_expiry_that_comes_again_removes_nothing(kind: SelectorKind, text: bytes) -> None:
    """A member that is told once more, or looks in the shared store, knows that it was an expiry."""
    cluster = Cluster("a")
    await cluster.put()
    position = (await cluster.expire(kind, text)).versions[0]
    node = cluster.owner
    await run(node, again("n", position, make_selector(kind, text)), from_peer=True)
    assert node.tier is not None
    node.tier.must_adopt = True
    await node.tier.recover()
    assert (await cluster.read())[:2] == (b"old", True)


async def test_handed_over_entries_keep_their_mark() -> None:
    """What is taken out of memory for a new owner while a walk is under way is judged first."""
    cluster = Cluster("a", l2=False)
    await cluster.put()
    await cluster.expire(PREFIX, b"k")
    namespace = cluster.owner.namespaces.get("n")
    assert namespace is not None
    record = namespace.store.peek(K, cluster.clock.now())
    assert record is not None
    assert not HEADER.unpack_from(record)[1] & STALE
    view = view_of(2, "a", "b")
    owner = Ring(view).owner(K)
    cluster.owner.handover._take_out(namespace, K, owner or "")
    record = namespace.store.peek(K, cluster.clock.now())
    assert record is not None
    assert HEADER.unpack_from(record)[1] & STALE


def test_coordinator_is_somebody() -> None:
    """The seat of the namespace that these tests use is one of the nodes."""
    assert Ring(view_of(1, "a", "b")).owner(seat_of("n")) in {"a", "b"}
