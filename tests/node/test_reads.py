"""Reads: memory, the owner, L2, and what is answered when one of them is away."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence

import pytest

from cachenode.adapters.l2_chaos import ChaosL2
from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, L2Write, Layer, Operation
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, HEADER_BYTES
from cachenode_api.version import make_version
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, HeldL2, fetch, new_node, owned_by, put, run, view_of


async def test_hits_are_answered_without_awaiting() -> None:
    """What is in memory is answered before `execute` returns, the rest later, each key once."""
    clock = ManualClock()
    node = new_node("a", clock, l2=MemoryL2(clock))
    await put(node, b"here", b"v")
    parts: list[BatchResult] = []
    rest = node.execute(Batch(Operation.GET, "default", [b"absent", b"here"]), parts.append)
    assert [list(part.indices or ()) for part in parts] == [[1]]
    assert rest is not None
    await rest
    assert [list(part.indices or ()) for part in parts] == [[1], [0]]


async def test_l2_hit_is_kept_in_memory() -> None:
    """A value found in L2 comes from memory the next time, with its remaining life."""
    clock = ManualClock()
    l2 = MemoryL2(clock)
    node = new_node("a", clock, l2=l2)
    await l2.write("default", [L2Write(b"k", b"v", 3, make_version(0, 5), 10.0)])
    first = await run(node, Batch(Operation.GET, "default", [b"k"]))
    second = await run(node, Batch(Operation.GET, "default", [b"k"]))
    assert (first.layers, second.layers) == ([Layer.L2], [Layer.L1])
    namespace = node.namespaces.get("default")
    assert (namespace.l1_hits, namespace.l2_hits, namespace.misses) == (1, 1, 0)
    clock.advance(10.1)
    assert await fetch(node, b"k") is None


async def test_fenced_node_finds_nothing() -> None:
    """Neither memory nor L2 may be believed once its lease is over."""
    clock = ManualClock()
    node = new_node("a", clock, l2=MemoryL2(clock))
    await put(node, b"k", b"v")
    node.placement.set_lease(clock.now())
    assert await fetch(node, b"k") is None


class FixedCopies:
    """Copies that do not change."""

    def __init__(self, *keys: bytes) -> None:
        self.keys = keys
        self.wanted: list[bytes] = []

    def find(self, namespace: str, key: bytes) -> bytes:
        return HEADER.pack(0, 0, 1, math.inf) + b"copy" if namespace == "default" and key in self.keys else b""

    def want(self, owner: str, namespace: str, keys: Sequence[bytes]) -> None:
        assert (owner, namespace) == ("b", "default")
        self.wanted += keys


async def test_hot_keys_of_other_nodes_are_copied() -> None:
    """The owner says which keys are asked for often; their copies answer unary reads, and only those."""
    clock = ManualClock()
    peers, both = DirectPeers(), view_of(1, "a", "b")
    a = new_node("a", clock, peers=peers, view=both)
    b = new_node("b", clock, peers=peers, view=both, hot_reads_per_s=3)
    hot, cold = owned_by(both, "b", 2)
    a.copies = copies = FixedCopies()
    for key in (hot, cold):
        await put(b, key, b"v")
    for _ in range(3):
        assert copies.wanted == []
        await fetch(a, hot)
    assert copies.wanted == [hot]
    await run(a, Batch(Operation.GET, "default", [hot, cold]))
    assert copies.wanted == [hot], "a batch is hot if all of it is"

    copies.keys = (hot, *owned_by(both, "a", 1))
    batch = Batch(Operation.GET, "default", [cold, hot, copies.keys[1]])
    unary = await run(a, batch)
    assert [record[HEADER_BYTES:] for record in unary.records] == [b"v", b"copy", b""]
    assert a.copy_hits == 1
    session = await run(a, batch, holder=object())
    assert [record[HEADER_BYTES:] for record in session.records] == [b"v", b"v", b""]


async def test_wrong_node_asks_the_owner_once() -> None:
    """A read at the wrong node is forwarded in one request; from a peer it is refused; nothing is kept by the asker.

    Scenario 28.
    """
    clock = ManualClock()
    peers, both = DirectPeers(), view_of(1, "a", "b")
    a, b = (new_node(name, clock, peers=peers, view=both) for name in ("a", "b"))
    keys = owned_by(both, "b", 3)
    for key in keys:
        await put(b, key, b"v-" + key)
    result = await run(a, Batch(Operation.GET, "default", [*keys, b"nowhere"]))
    assert [record[24:] for record in result.records[:3]] == [b"v-" + key for key in keys]
    assert [forward for forward in peers.forwards if forward[1] >= 3]
    assert len(a.namespaces.get("default").store) == 0
    refused = await run(a, Batch(Operation.GET, "default", keys[:1]), from_peer=True)
    assert refused.failures[0].reason is Reason.NOT_OWNER


async def test_unreachable_owner_is_passed_by_to_l2() -> None:
    """If the owner is away, L2 answers in its place and nothing is kept; without L2 the reason is told."""
    clock = ManualClock()
    l2 = MemoryL2(clock)
    peers, both = DirectPeers(), view_of(1, "a", "b")
    a, b = (new_node(name, clock, l2=l2, peers=peers, view=both) for name in ("a", "b"))
    present, absent = owned_by(both, "b", 2)
    await put(b, present, b"v")
    peers.cut.add("b")
    assert await fetch(a, present) == b"v"
    assert await fetch(a, absent) is None
    assert len(a.namespaces.get("default").store) == 0
    lone_peers = DirectPeers()
    lone = new_node("a", clock, peers=lone_peers, view=both)
    assert await fetch(lone, present) is Reason.OWNER_UNREACHABLE


async def test_a_peer_with_another_view_is_passed_by() -> None:
    """If the peer says that it does not own the key, L2 answers; the other keys keep the peer's answers."""
    clock = ManualClock()
    l2 = MemoryL2(clock)
    peers, both = DirectPeers(), view_of(1, "a", "b")
    a = new_node("a", clock, l2=l2, peers=peers, view=both)
    b = new_node("b", clock, l2=l2, peers=peers, view=both)
    three = view_of(2, "a", "b", "c")
    kept = next(key for key in owned_by(both, "b", 200) if key in set(owned_by(three, "b", 200)))
    moved = next(key for key in owned_by(both, "b", 200) if key in set(owned_by(three, "c", 200)))
    await put(b, kept, b"kept")
    await put(b, moved, b"moved")
    b.placement.apply(three)
    result = await run(a, Batch(Operation.GET, "default", [kept, moved]))
    assert [record[24:] for record in result.records] == [b"kept", b"moved"]


async def test_l2_that_fails_is_a_miss() -> None:
    """A reader never sees an error of L2: the value is absent, and after some failures L2 is not asked any more."""
    clock = ManualClock()
    chaos = ChaosL2(MemoryL2(clock), random.Random(0))
    node = new_node("a", clock, l2=chaos)
    chaos.down = True
    for number in range(5):
        assert await fetch(node, b"k%d" % number) is None
    assert node.tier is not None
    assert not node.tier.available
    assert node.tier.errors == 3


async def test_slow_part_is_answered_in_time() -> None:
    """A batch's time limit ends its slow part with a reason, and what was known has been answered."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    await put(node, b"here", b"v")
    l2.gate.clear()
    batch = Batch(Operation.GET, "default", [b"here", b"slow"], timeout_s=0.01)
    result = await run(node, batch)
    assert result.records[0].endswith(b"v")
    assert result.failures[1].reason is Reason.DEADLINE_EXCEEDED
    assert len(node.namespaces.get("default").fills) == 0


async def test_cancelled_fill_gives_its_token_back() -> None:
    """A caller that leaves during a fill leaves nothing behind."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    l2.gate.clear()
    task = asyncio.create_task(fetch(node, b"k"))
    await l2.held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(node.namespaces.get("default").fills) == 0


async def test_a_long_fill_hands_over_in_portions_and_a_write_in_between_wins() -> None:
    """The first keys are answered before the last are stored; a key written meanwhile keeps what was written.

    Scenario 1.
    """
    clock = ManualClock()
    l2 = MemoryL2(clock)
    node = new_node("a", clock, l2=l2)
    keys = [b"k%d" % number for number in range(300)]
    await l2.write("default", [L2Write(key, b"old", 0, make_version(0, 1), 60.0) for key in keys])
    namespace = node.namespaces.get("default")
    seen: list[int] = []

    def reply(part: BatchResult) -> None:
        seen.extend(part.indices or ())
        if len(seen) < len(keys):
            assert len(namespace.store) < len(keys)
            namespace.fills.void(keys[-1])
            now = clock.now()
            namespace.store.put(keys[-1], b"new", flags=0, version=make_version(0, 9), deadline=now + 9, now=now)

    rest = node.execute(Batch(Operation.GET, "default", keys), reply)
    assert rest is not None
    await rest
    assert seen == list(range(300))
    assert await fetch(node, keys[-1]) == b"new"
    assert len(namespace.fills) == 0


async def test_a_fill_that_is_cancelled_between_portions_gives_the_other_tokens_back() -> None:
    """Nothing stays behind for the keys that were not reached."""
    clock = ManualClock()
    node = new_node("a", clock, l2=MemoryL2(clock))
    keys = [b"k%d" % number for number in range(300)]
    task: asyncio.Task[None] | None = None

    def reply(_part: BatchResult) -> None:
        assert task is not None
        task.cancel()

    rest = node.execute(Batch(Operation.GET, "default", keys), reply)
    assert rest is not None
    task = asyncio.create_task(rest)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(node.namespaces.get("default").fills) == 0


async def test_unknown_namespace_and_missing_view() -> None:
    """A strict node refuses names it does not know; a node without a view is not ready."""
    node = new_node("a", ManualClock())
    assert await fetch(node, b"k", "Not A Name") is Reason.UNKNOWN_NAMESPACE
    assert await fetch(node, b"k", "made-on-demand") is None
    node.placement.apply(view_of(2, "b"))
    assert await fetch(node, b"k") is Reason.NOT_READY


async def test_bad_keys_fail_alone() -> None:
    """An empty and an overlong key fail; the others are answered."""
    node = new_node("a", ManualClock())
    await put(node, b"k", b"v")
    result = await run(node, Batch(Operation.GET, "default", [b"", b"k", b"x" * 1_025]))
    assert sorted(result.failures) == [0, 2]
    assert {failure.reason for failure in result.failures.values()} == {Reason.INVALID_KEY}
    assert result.records[1].endswith(b"v")
