"""Writes: versions, the order of L2 and memory, and the interleavings of the module's header."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, BatchResult, L2Entry, L2Write, Layer, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import L2Unavailable
from cachenode.node.filler import fill
from cachenode_api.reasons import Reason
from cachenode_api.records import NO_TTL_MS
from cachenode_api.selectors import EVERYTHING, SelectorKind, make_selector
from cachenode_api.version import make_version
from tests.support.clock import ManualClock
from tests.support.cluster import (
    DirectPeers,
    HeldL2,
    drop,
    fetch,
    new_node,
    owned_by,
    put,
    run,
    touch,
    version_of,
    view_of,
)
from tests.support.copies import settled


async def test_set_is_read_back_with_a_rising_version() -> None:
    """A later set of a key has the higher version, and reads see it."""
    node = new_node("a", ManualClock())
    first = (await put(node, b"k", b"old")).versions[0]
    second = (await put(node, b"k", b"new")).versions[0]
    assert second > first > 0
    assert await fetch(node, b"k") == b"new"


async def test_ttls_of_a_batch() -> None:
    """A TTL of 0 is the namespace's, the highest one is for ever, one for all serves every key."""
    clock = ManualClock()
    policy = NamespacePolicy(name="short", ttl_s=5.0, max_value_bytes=100, l2=False, share=1.0)
    node = new_node("a", clock, policies=[policy])
    keys = [b"default", b"own", b"ever"]
    await run(node, Batch(Operation.SET, "short", keys, [b"v"] * 3, [], [0, 60_000, NO_TTL_MS]))
    clock.advance(5.1)
    assert [await fetch(node, key, "short") for key in keys] == [None, b"v", b"v"]
    await run(node, Batch(Operation.SET, "short", keys, [b"v"] * 3, [], [1_000]))
    clock.advance(1.1)
    assert [await fetch(node, key, "short") for key in keys] == [None, None, None]


async def test_node_that_leaves_ends_its_writes_first() -> None:
    """Writes under way are done and answered before the node resigns; new ones are refused, for another to do."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    await put(node, b"k", b"old")
    l2.gate.clear()
    writing = asyncio.create_task(put(node, b"k", b"new"))
    await l2.held.wait()
    closing = asyncio.create_task(node.close())
    assert not await settled(closing)
    for operation in (Operation.SET, Operation.DELETE, Operation.LEASE):
        refused = await run(node, Batch(operation, "default", [b"k"], [b"v"] * (operation is Operation.SET)))
        assert refused.failures[0].reason is Reason.NOT_READY
    assert await fetch(node, b"k") == b"old", "it still serves reads"
    assert not closing.done()
    l2.gate.set()
    assert not (await writing).failures
    await closing
    assert await fetch(node, b"k") == b"new"


@pytest.mark.parametrize("operation", [Operation.SET, Operation.DELETE])
@pytest.mark.parametrize("epochs", [(4,), (3, 4)], ids=["missed", "seen"])
async def test_write_that_outlives_a_missed_view_is_not_done(operation: Operation, epochs: tuple[int, ...]) -> None:
    """The key is this node's again when L2 answers, but another has owned it meanwhile, or may have."""
    clock, peers = ManualClock(), DirectPeers()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, peers=peers, l2=l2, view=view_of(2, "a", "b"))
    (key,) = owned_by(view_of(2, "a", "b"), "a")
    peers.nodes["b"] = new_node("b", clock, peers=peers, view=view_of(2, "a", "b"))
    l2.gate.clear()
    values = [b"late"] if operation is Operation.SET else []
    writing = asyncio.create_task(run(node, Batch(operation, "default", [key], values)))
    await l2.held.wait()
    for epoch in epochs:
        node.placement.apply(view_of(epoch, *"ab" if epoch == 4 else "b"))
    l2.gate.set()
    assert (await writing).failures[0].reason is Reason.NOT_OWNER
    namespace = node.namespaces.get("default")
    assert namespace is not None
    assert namespace.store.peek(key, clock.now()) is None


async def test_each_key_fails_alone() -> None:
    """A value over the limit and a bad key fail by themselves; the rest of the batch is stored."""
    policy = NamespacePolicy(name="tiny", ttl_s=math.inf, max_value_bytes=4, l2=False, share=1.0)
    node = new_node("a", ManualClock(), policies=[policy])
    keys = [b"ok", b"big", b"", b"x" * 1_025]
    result = await run(node, Batch(Operation.SET, "tiny", keys, [b"1234", b"12345", b"1", b"1"]))
    assert {at: failure.reason for at, failure in result.failures.items()} == {
        1: Reason.VALUE_TOO_LARGE,
        2: Reason.INVALID_KEY,
        3: Reason.INVALID_KEY,
    }
    assert result.failures[1].detail == (
        "value: 5 bytes exceed the limit of 4 bytes of the namespace; store less, or raise its max_value_bytes"
    )
    assert result.versions[0] > 0
    assert await fetch(node, b"ok", "tiny") == b"1234"


async def test_delete_tells_whether_there_was_something() -> None:
    """Delete answers a version for a value that was there, in memory or only in L2, and 0 otherwise."""
    clock = ManualClock()
    l2 = MemoryL2(clock)
    node = new_node("a", clock, l2=l2)
    await put(node, b"k", b"v")
    assert (await drop(node, b"k")).versions[0] > 0
    assert (await drop(node, b"k")).versions[0] == 0
    assert await fetch(node, b"k") is None
    await l2.write("default", [L2Write(b"only", b"v", 0, make_version(1, 99), 60.0)])
    assert (await drop(node, b"only")).versions[0] > 0
    assert await fetch(node, b"only") is None


async def test_delete_without_l2() -> None:
    """Delete works in memory alone."""
    node = new_node("a", ManualClock())
    await put(node, b"k", b"v")
    assert (await drop(node, b"k")).versions[0] > 0
    assert (await drop(node, b"k")).versions[0] == 0


async def test_touch_gives_a_new_life() -> None:
    """Touch keeps value and flags, changes the deadline, and says 0 for an absent key."""
    clock = ManualClock()
    node = new_node("a", clock)
    await run(node, Batch(Operation.SET, "default", [b"k"], [b"v"], [7], [1_000]))
    assert (await touch(node, b"k", 60_000)).versions[0] > 0
    assert (await touch(node, b"absent", 60_000)).versions[0] == 0
    clock.advance(10)
    record = (await run(node, Batch(Operation.GET, "default", [b"k"]))).records[0]
    assert record.endswith(b"v")
    assert record[4] == 7


async def test_touch_reaches_what_is_only_in_l2() -> None:
    """A value that memory has lost is brought from L2, touched, and written back there."""
    clock = ManualClock()
    l2 = MemoryL2(clock)
    node = new_node("a", clock, l2=l2)
    await put(node, b"k", b"v", ttl_ms=5_000)
    node.namespaces.get("default").store.clear()
    assert (await touch(node, b"k", 60_000)).versions[0] > 0
    clock.advance(10)
    node.namespaces.get("default").store.clear()
    assert await fetch(node, b"k") == b"v"


async def test_memory_is_not_ahead_of_l2() -> None:
    """While a set is on its way to L2, readers still see the former value; afterwards the new one."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    await put(node, b"k", b"old")
    l2.gate.clear()
    setting = asyncio.create_task(put(node, b"k", b"new"))
    await l2.held.wait()
    assert await fetch(node, b"k") == b"old"
    l2.gate.set()
    await setting
    assert await fetch(node, b"k") == b"new"


async def test_overtaken_set_succeeds() -> None:
    """Of two overlapping sets the earlier may reach L2 last: it is refused there, and counts as overwritten."""
    clock = ManualClock()
    inner = MemoryL2(clock)
    l2 = HeldL2(inner)
    node = new_node("a", clock, l2=l2)
    l2.gate.clear()
    earlier = asyncio.create_task(put(node, b"k", b"earlier"))
    await l2.held.wait()
    later_version = make_version(1, 2)
    await inner.write("default", [L2Write(b"k", b"later", 0, later_version, math.inf)])
    node.namespaces.get("default").writing[b"k"] = later_version  # the later set of this node is under way
    l2.gate.set()
    assert not (await earlier).failures


async def test_set_refused_by_a_newer_owner_fails() -> None:
    """A set that L2 refuses for a newer owner's write is not acknowledged, and this node's copy is gone."""
    clock = ManualClock()
    l2 = MemoryL2(clock)
    node = new_node("a", clock, l2=l2)
    await put(node, b"k", b"mine")
    await l2.write("default", [L2Write(b"k", b"theirs", 0, make_version(9, 1), math.inf)])
    result = await put(node, b"k", b"late")
    assert result.failures[0].reason is Reason.SUPERSEDED
    assert await fetch(node, b"k") == b"theirs"


async def test_set_voids_the_fill() -> None:
    """A fill that read the old value before a set, and comes back after it, does not bring the old value back.

    Scenario 1.
    """
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    await l2.inner.write("default", [L2Write(b"k", b"old", 0, make_version(0, 1), math.inf)])
    l2.gate.clear()
    reading = asyncio.create_task(fetch(node, b"k"))
    await l2.held.wait()
    gate, l2.gate = l2.gate, asyncio.Event()
    l2.gate.set()
    await put(node, b"k", b"new")
    store = node.namespaces.get("default").store
    store.remove(b"k")  # evicted, so that nothing but the token stands against the old value
    gate.set()
    assert await reading in (b"old", b"new")  # the reader began before the set ended
    assert store.peek(b"k", clock.now()) is None
    assert await fetch(node, b"k") == b"new"


async def test_delete_voids_the_fill() -> None:
    """A fill under way during a delete stores nothing. Scenario 1."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    await l2.inner.write("default", [L2Write(b"k", b"old", 0, make_version(0, 1), math.inf)])
    l2.gate.clear()
    reading = asyncio.create_task(fetch(node, b"k"))
    await l2.held.wait()
    gate, l2.gate = l2.gate, asyncio.Event()
    l2.gate.set()
    await drop(node, b"k")
    gate.set()
    await reading
    assert await fetch(node, b"k") is None


async def test_delete_during_set_is_not_undone() -> None:
    """L2 takes a set, a delete is done, and only then the set's answer comes: the value stays deleted."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    release = asyncio.Event()
    taken, write = asyncio.Event(), l2.write

    async def late_answer(namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        done = await write(namespace, writes)
        taken.set()
        await release.wait()
        return done

    l2.write = late_answer  # type: ignore[method-assign]
    setting = asyncio.create_task(put(node, b"k", b"old"))
    await taken.wait()
    assert (await drop(node, b"k")).versions[0]
    release.set()
    assert not (await setting).failures
    assert node.namespaces.get("default").store.peek(b"k", clock.now()) is None
    assert await fetch(node, b"k") is None


async def test_touch_during_set_does_not_undo_it() -> None:
    """A touch that meets a set under way leaves the set's value and TTL alone."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    await put(node, b"k", b"old")
    l2.gate.clear()
    setting = asyncio.create_task(put(node, b"k", b"new"))
    await l2.held.wait()
    touched = await touch(node, b"k", 1_000)
    assert touched.versions[0] > 0
    l2.gate.set()
    await setting
    clock.advance(2)
    assert await fetch(node, b"k") == b"new"


async def test_set_across_a_view_change_is_not_acknowledged_by_the_former_owner() -> None:
    """A key that moves away while its set is on its way to L2 is answered NOT_OWNER and not kept in memory.

    Scenario 23.
    """
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    both = view_of(2, "a", "b")
    (moving,) = owned_by(both, "b")
    (staying,) = owned_by(both, "a")
    node = new_node("a", clock, l2=l2)
    l2.gate.clear()
    setting = asyncio.create_task(run(node, Batch(Operation.SET, "default", [staying, moving], [b"v", b"v"], [], [0])))
    await l2.held.wait()
    node.placement.apply(both)
    l2.gate.set()
    result = await setting
    assert {at: failure.reason for at, failure in result.failures.items()} == {1: Reason.NOT_OWNER}
    store = node.namespaces.get("default").store
    assert store.peek(moving, clock.now()) is None
    assert store.peek(staying, clock.now()) is not None


async def test_writes_are_forwarded_once() -> None:
    """A write at the wrong node goes to the owner; one that came from a peer is refused instead. Scenario 28."""
    clock = ManualClock()
    peers, both = DirectPeers(), view_of(1, "a", "b")
    a, b = (new_node(name, clock, peers=peers, view=both) for name in ("a", "b"))
    (key,) = owned_by(both, "b")
    assert (await put(a, key, b"v")).versions[0] > 0
    assert peers.forwards == [("b", 1)]
    assert await fetch(b, key) == b"v"
    refused = await run(a, Batch(Operation.SET, "default", [key], [b"w"]), from_peer=True)
    assert refused.failures[0].reason is Reason.NOT_OWNER
    assert peers.forwards == [("b", 1)]
    assert (await drop(a, key)).versions[0] > 0
    assert (await touch(a, key, 1_000)).versions[0] == 0


async def test_a_lost_owner_is_unreachable_before_and_uncertain_after_sending() -> None:
    """A write that surely did not happen may be tried again; one that may have happened says so."""
    clock = ManualClock()
    peers, both = DirectPeers(), view_of(1, "a", "b")
    a, _ = (new_node(name, clock, peers=peers, view=both) for name in ("a", "b"))
    (key,) = owned_by(both, "b")
    peers.cut.add("b")
    assert (await put(a, key, b"v")).failures[0].reason is Reason.OWNER_UNREACHABLE
    peers.cut.clear()
    peers.lost.add("b")
    assert (await put(a, key, b"v")).failures[0].reason is Reason.UNCERTAIN


async def test_version_of_a_record_is_that_of_the_write() -> None:
    """The version that a set returns is the one that readers see."""
    node = new_node("a", ManualClock())
    version = (await put(node, b"k", b"v")).versions[0]
    record = (await run(node, Batch(Operation.GET, "default", [b"k"]))).records[0]
    assert version_of(record) == version


async def test_overtaken_set_leaves_nothing_older() -> None:
    """A set that a delete under way overtakes is answered, and from then on nobody finds what was there before it."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    await put(node, b"k", b"before")
    l2.gate.clear()
    setting = asyncio.create_task(put(node, b"k", b"set"))
    await l2.held.wait()
    node.namespaces.get("default").tombstones.note(b"k", node.versions.next(), clock.now())  # a delete has begun
    l2.gate.set()
    assert not (await setting).failures
    assert await fetch(node, b"k") != b"before"


async def test_reads_do_not_go_back_while_a_write_is_under_way() -> None:
    """Who has read from L2 what a write under way brought there does not find the one before in memory next."""
    clock = ManualClock()
    inner = MemoryL2(clock)
    l2 = HeldL2(inner)
    node = new_node("a", clock, l2=l2)
    namespace = node.namespaces.get("default")
    version = node.versions.next()
    namespace.writing[b"k"] = version  # L2 has taken it, and its answer is on the way
    await inner.write("default", [L2Write(b"k", b"newest", 0, version, math.inf)])
    l2.gate.clear()
    reading = asyncio.create_task(fetch(node, b"k"))
    await l2.held.wait()
    namespace.void(b"k")
    l2.gate.set()
    assert await reading == b"newest"
    assert namespace.store.peek(b"k", clock.now()) is not None


async def test_write_under_way_that_was_undone_is_not_kept() -> None:
    """What a reader found in L2 of a write under way, which was removed before the reader's turn, stays out."""
    clock = ManualClock()
    l2 = MemoryL2(clock)
    node = new_node("a", clock, l2=l2)
    write, read = l2.write, l2.read
    written, found, read_on, write_on = (asyncio.Event() for _ in range(4))

    async def late_write(namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        taken = await write(namespace, writes)
        written.set()
        await write_on.wait()
        return taken

    async def late_read(namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        entries = await read(namespace, keys)
        found.set()
        await read_on.wait()
        return entries

    l2.write, l2.read = late_write, late_read  # type: ignore[method-assign]
    setting = asyncio.create_task(put(node, b"k", b"undone"))
    await written.wait()
    reading = asyncio.create_task(fetch(node, b"k"))
    await found.wait()
    assert not (await run(node, Batch(Operation.INVALIDATE, "default", [b"k"]))).failures
    read_on.set()
    assert await reading == b"undone", "it began before"
    assert await fetch(node, b"k") is None
    write_on.set()
    assert not (await setting).failures
    assert await fetch(node, b"k") is None


async def test_write_under_way_that_was_barred_is_not_kept() -> None:
    """The same for a barrier that comes between two portions of what was read."""
    clock = ManualClock()
    l2 = MemoryL2(clock)
    node = new_node("a", clock, l2=l2)
    namespace = node.namespaces.get("default")
    assert namespace is not None
    keys = [b"%d" % n for n in range(200)]
    version = node.versions.next()
    namespace.writing[keys[-1]] = version
    await l2.write("default", [L2Write(keys[-1], b"undone", 0, version, math.inf)])

    def bar(first: int, _records: list[bytes], _layers: list[Layer], _sure: bool) -> None:
        if first == 0:
            node.barriers.note(namespace, node.versions.next(), make_selector(SelectorKind.NAMESPACE, EVERYTHING))

    await fill(node, namespace, keys, bar)
    assert namespace.store.peek(keys[-1], clock.now()) is None


async def test_set_that_ends_late_does_not_come_back() -> None:
    """A set that waits for a silent L2 does not take the place of a later one, whose value has gone meanwhile."""
    l2 = MemoryL2(ManualClock())
    node = new_node("a", ManualClock(), l2=l2)
    waiting, silent = asyncio.Event(), asyncio.Event()

    async def fail(namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        if writes[0].value == b"earlier":
            waiting.set()
            await silent.wait()
        raise L2Unavailable("silent")

    l2.write = fail  # type: ignore[method-assign]
    earlier = asyncio.create_task(put(node, b"k", b"earlier"))
    await waiting.wait()
    assert not (await put(node, b"k", b"later")).failures
    assert await fetch(node, b"k") == b"later"
    node.namespaces.get("default").store.remove(b"k")  # evicted, or a removal that was ordered before both
    silent.set()
    assert not (await earlier).failures
    assert await fetch(node, b"k") is None
    assert not node.namespaces.get("default").writing


async def test_set_that_a_reader_has_stored_is_done() -> None:
    """A reader finds in L2 what a set has just brought there, and keeps it, before the set hears that L2 took it."""
    clock = ManualClock()
    inner = MemoryL2(clock)
    node = new_node("a", clock, l2=inner)
    taken = inner.write

    async def late(namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        done = await taken(namespace, writes)
        assert await fetch(node, b"k") == b"v"
        return done

    inner.write = late  # type: ignore[method-assign]
    assert not (await put(node, b"k", b"v")).failures


async def test_touch_during_delete_brings_nothing_back() -> None:
    """A touch that meets a delete under way finds nothing, and when both are done there is nothing."""
    clock = ManualClock()
    l2 = HeldL2(MemoryL2(clock))
    node = new_node("a", clock, l2=l2)
    await put(node, b"k", b"old")
    l2.gate.clear()
    deleting = asyncio.create_task(drop(node, b"k"))
    await l2.held.wait()
    touching = asyncio.create_task(touch(node, b"k", 60_000))
    await asyncio.sleep(0)
    l2.gate.set()
    assert (await deleting).versions[0]
    assert (await touching).versions == [0]
    assert await fetch(node, b"k") is None


async def test_write_that_begins_after_its_key_has_moved_is_not_done() -> None:
    """A view comes between a batch and its first step: what moved is refused before L2 hears of it, the rest done."""
    clock, peers = ManualClock(), DirectPeers()
    l2 = MemoryL2(clock)
    a = new_node("a", clock, l2=l2, peers=peers)
    both = view_of(2, "a", "b")
    (mine,), (moved,) = owned_by(both, "a"), owned_by(both, "b")
    b = new_node("b", clock, l2=l2, peers=peers, view=both)
    for operation, values in ((Operation.SET, [b"late", b"late"]), (Operation.DELETE, ())):
        a.placement.view, a.placement.ring = None, None
        a.placement.apply(view_of(1, "a"))
        results: dict[int, Reason | None] = {}

        def reply(part: BatchResult, into: dict[int, Reason | None] = results) -> None:
            for at, index in enumerate(part.indices or ()):
                into[index] = part.failures[at].reason if at in part.failures else None

        rest = a.execute(Batch(operation, "default", [mine, moved], values), reply)
        assert rest is not None
        a.placement.apply(both)
        await rest
        assert results == {0: None, 1: Reason.NOT_OWNER}
        assert (await l2.read("default", [moved])) == [None]
    assert not (await put(b, moved, b"new")).failures
