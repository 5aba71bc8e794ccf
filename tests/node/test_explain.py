"""What a node says about a key: each thing that stands in the way of a read or a load is named."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from cachenode.adapters.l2_chaos import ChaosL2
from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, L2Write, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node.explain import Explanation, explain
from cachenode.node.service import Node
from cachenode.ports import L2Store
from cachenode_api.records import TAGGED
from cachenode_api.selectors import SelectorKind
from cachenode_api.tags import pack_tags
from cachenode_api.version import make_version
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, drop, new_node, owned_by, put, run, view_of
from tests.support.copies import NearSession, settled

FIRST = make_version(1, 1)


async def explained(node: Node, key: bytes = b"k", namespace: str = "default") -> Explanation:
    found = node.namespaces.get(namespace)
    assert found is not None
    return await explain(node, found, key)


def node_with(l2: L2Store | None = None) -> tuple[Node, ManualClock]:
    clock = ManualClock()
    return new_node("a", clock, l2=l2), clock


async def bar(node: Node, kind: SelectorKind, text: bytes) -> None:
    result = await run(node, Batch(Operation.BARRIER, "default", [text], flags=[kind.value]))
    assert not result.failures


async def test_nothing_is_known() -> None:
    """Of a key that nobody has touched there is only its place."""
    node, _ = node_with()
    assert await explained(node) == Explanation(
        owner="a",
        ready=True,
        fenced=False,
        gained=False,
        lease_s=math.inf,
        l1=None,
        l1_state="",
        l2=None,
        l2_state="off",
        barriers=(),
        floor=0,
        near_holders=0,
        loads=(),
        load_pause_s=0.0,
        writing=0,
        changing=0,
        tombstone=0,
    )


async def test_entry_without_its_value() -> None:
    """Version, life, size and tags are those of the value; looking counts as no hit, and takes no time off its life."""
    clock = ManualClock()
    node = new_node("a", clock, l2=MemoryL2(clock))
    value = pack_tags([b"eu", b"red"]) + b"secret"
    await run(node, Batch(Operation.SET, "default", [b"k"], [value], [TAGGED], [60_000]))
    clock.advance(10)
    found = await explained(node)
    assert found.l1 is not None
    assert (found.l1.version, found.l1.ttl_s, found.l1.size, found.l1.tags) == (FIRST, 50, 6, (b"eu", b"red"))
    assert (found.l1_state, found.l2_state) == ("served", "believed")
    assert found.l2 is not None
    assert (found.l2.version, found.l2.size, found.l2.tags, found.l2.position) == (FIRST, 6, (b"eu", b"red"), 0)
    assert "secret" not in repr(found)
    default = node.namespaces.get("default")
    assert default is not None
    assert (default.l1_hits, default.l2_hits, default.misses) == (0, 0, 0)


async def test_place_of_a_key() -> None:
    """A node says who owns the key; that it waits for others to let go of it; and that its lease is over."""
    clock, peers = ManualClock(), DirectPeers(settles=False)
    view = view_of(1, "a", "b")
    node = new_node("a", clock, peers=peers, view=view)
    (mine,), (other,) = owned_by(view, "a"), owned_by(view, "b")
    node.placement.set_lease(clock.now() + 3)
    found = await explained(node, mine)
    assert (found.owner, found.gained, found.fenced, found.lease_s) == ("a", True, False, 3)
    found = await explained(node, other)
    assert (found.owner, found.gained) == ("b", False)
    clock.advance(3)
    found = await explained(node, mine)
    assert (found.fenced, found.lease_s) == (True, 0)


async def test_entries_that_only_wait_for_being_removed() -> None:
    """What a barrier covers, or has moved away, is still there for a moment and is not served."""
    node, _ = node_with()
    await put(node, b"k", b"v")
    await bar(node, SelectorKind.PREFIX, b"k")
    assert (await explained(node)).l1_state == "barred"
    view = view_of(2, "a", "b")
    (moved,) = owned_by(view, "b")
    await put(node, moved, b"v", namespace="other")
    node.placement.apply(view)
    assert (await explained(node, moved, "other")).l1_state == "moved"


async def test_what_l2_holds_is_not_believed() -> None:
    """Why a read does not take what L2 holds is told, for each reason that there is."""
    clock = ManualClock()
    memory = MemoryL2(clock)
    chaos = ChaosL2(memory, random.Random(0))
    node = new_node("a", clock, l2=chaos)
    tier = node.tier
    assert tier is not None
    assert (await explained(node)).l2_state == "absent"
    await memory.write("default", [L2Write(b"k", b"v", 0, FIRST, math.inf)])
    assert (await explained(node)).l2_state == "believed"
    tier.must_adopt = True
    found = await explained(node)
    assert (found.l2_state, found.l2) == ("adopting", None)
    tier.must_adopt = False
    tier.distrust("default", [(b"k", FIRST)])
    found = await explained(node)
    assert (found.l2_state, found.l2 is not None) == ("missed", True)
    assert await tier.recover()
    await memory.write("default", [L2Write(b"k", b"v", 0, FIRST + 1, math.inf)])
    await bar(node, SelectorKind.PREFIX, b"k")
    assert (await explained(node)).l2_state == "barred"
    tier._floor = FIRST + 1
    assert (await explained(node)).l2_state == "forgotten"
    chaos.down = True
    assert [(await explained(node)).l2_state for _ in range(4)] == ["failed", "failed", "failed", "away"]


async def test_l2_that_lost_its_history() -> None:
    """A store that was started anew is not asked before it has been brought up to date."""
    clock = ManualClock()
    memory = MemoryL2(clock)
    node = new_node("a", clock, l2=memory)
    memory.history += 1
    assert (await explained(node)).l2_state == "lost"


async def test_namespace_without_l2() -> None:
    """A namespace that keeps nothing in L2 is told from an L2 that holds nothing."""
    clock = ManualClock()
    policy = NamespacePolicy(name="memory", ttl_s=60, max_value_bytes=100, l2=False, share=1.0)
    node = new_node("a", clock, l2=MemoryL2(clock), policies=[policy])
    assert (await explained(node, namespace="memory")).l2_state == "off"


async def test_damaged_tags_in_l2() -> None:
    """A value whose tags cannot be read is shown as far as that goes."""
    clock = ManualClock()
    memory = MemoryL2(clock)
    node = new_node("a", clock, l2=memory)
    await memory.write("default", [L2Write(b"k", b"\xff\xff", TAGGED, FIRST, math.inf)])
    found = await explained(node)
    assert found.l2 is not None
    assert (found.l2.size, found.l2.tags) == (2, ())


async def test_barriers_that_cover_a_key() -> None:
    """Those of the key and of its value's tags are told by position, and how far all of the namespace goes."""
    node, _ = node_with()
    await run(node, Batch(Operation.SET, "default", [b"k"], [pack_tags([b"red"])], [TAGGED]))
    for kind, text in (
        (SelectorKind.PREFIX, b"k"),
        (SelectorKind.PREFIX, b"other"),
        (SelectorKind.GLOB, b"?"),
        (SelectorKind.TAG, b"red"),
        (SelectorKind.TAG, b"blue"),
    ):
        await bar(node, kind, text)
    found = await explained(node)
    assert [(selector.kind, selector.text) for _, selector in found.barriers] == [
        (SelectorKind.PREFIX, b"k"),
        (SelectorKind.GLOB, b"?"),
        (SelectorKind.TAG, b"red"),
    ]
    assert [position for position, _ in found.barriers] == sorted(position for position, _ in found.barriers)
    assert found.floor == 0
    await bar(node, SelectorKind.NAMESPACE, b"*")
    found = await explained(node)
    assert found.barriers == ()
    assert FIRST < found.floor < node.versions.next()


async def test_who_may_hold_copies() -> None:
    """Sessions count that may hold a copy and whose lease is live."""
    node, clock = node_with()
    await put(node, b"k", b"v")
    for _ in range(2):
        assert await NearSession(node).read(b"k")
    assert (await explained(node)).near_holders == 2
    assert (await explained(node, b"other")).near_holders == 0
    clock.advance(10)
    assert (await explained(node)).near_holders == 0


async def test_loads_under_way() -> None:
    """Who loads and who waits is told, also of a load that the key's change has made useless, and of a pause."""
    node, clock = node_with()
    lease = Batch(Operation.LEASE, "default", [b"k"], lease_s=5.0)
    token = (await run(node, lease)).tokens[0]
    waiting = asyncio.create_task(run(node, Batch(Operation.LEASE, "default", [b"k"], lease_s=5.0)))
    assert not await settled(waiting)
    clock.advance(1)
    (load,) = (await explained(node)).loads
    assert (load.lease_s, load.waiting, load.storable) == (4, 1, True)
    await drop(node, b"k")
    (load,) = (await explained(node)).loads
    assert not load.storable
    await run(node, Batch(Operation.ABANDON, "default", [b"k"], tokens=[token], details=["ValueError"]))
    await waiting
    found = await explained(node)
    assert not found.loads
    assert found.load_pause_s == pytest.approx(0.1)


async def test_writes_under_way_and_removals() -> None:
    """A write on its way to L2 is told, and under which version the key was removed."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    l2.gate.clear()
    writing = asyncio.create_task(put(node, b"k", b"v"))
    await l2.held.wait()
    default = node.namespaces.get("default")
    assert default is not None
    assert (default.writing[b"k"], default.changing[b"k"]) == (FIRST, 1)
    asking = asyncio.create_task(explained(node))
    assert not await settled(asking)
    l2.gate.set()
    await writing
    assert (await asking).writing == 0
    default.writing[b"k"], default.changing[b"k"] = 9, 1
    found = await explained(node)
    assert (found.writing, found.changing) == (9, 1)
    default.writing.clear()
    await drop(node, b"k")
    assert (await explained(node)).tombstone == FIRST + 1
    clock.advance(61)
    assert (await explained(node)).tombstone == 0


@pytest.mark.parametrize("how", ["its TTL is over", "a prefix", "a prefix, walked"])
async def test_what_is_expired(how: str) -> None:
    """What is served marked is said to be stale, in memory and in L2, with how long it is served still."""
    clock = ManualClock()
    policy = NamespacePolicy(name="n", ttl_s=10.0, max_value_bytes=100, l2=True, share=1, stale_s=5.0)
    node = new_node("a", clock, l2=MemoryL2(clock), policies=[policy])
    leased = await run(node, Batch(Operation.LEASE, "n", [b"k"], lease_s=10.0), holder="h")
    fulfilled = Batch(Operation.FULFILL, "n", [b"k"], [b"v"], [0], tokens=[leased.tokens[0]])
    await run(node, fulfilled, holder="h")
    found = await explained(node, namespace="n")
    assert (found.l1_state, found.l2_state, found.expiries) == ("served", "believed", ())
    if how == "its TTL is over":
        clock.advance(11.0)
        left_s = 4.0
    else:
        batch = Batch(Operation.BARRIER, "n", [b"k"], flags=[SelectorKind.PREFIX.value], expire=True)
        await run(node, batch)
        left_s = 5.0
        namespace = node.namespaces.get("n")
        assert namespace is not None
        while how == "a prefix, walked" and namespace.sweep.active:
            namespace.sweep.step(10, clock.now())
    found = await explained(node, namespace="n")
    assert (found.l1_state, found.l2_state) == ("stale", "stale")
    assert found.l2 is not None
    assert found.l2.ttl_s == pytest.approx(left_s, abs=0.01)
    assert [selector.text for _, selector in found.expiries] == ([] if how == "its TTL is over" else [b"k"])
    clock.advance(6.0)
    assert (await explained(node, namespace="n")).l1_state in {"", "barred"}
