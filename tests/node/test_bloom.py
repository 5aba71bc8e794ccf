"""A filter of what has a value answers for what has none, and never hides a key that was written."""

from __future__ import annotations

import asyncio

import pytest

from cachenode.core.entries import Batch, Operation
from cachenode.errors import OriginError
from cachenode_api.keys import seat_of
from cachenode_api.reasons import Reason
from cachenode_api.ring import Ring
from cachenode_api.selectors import SelectorKind
from tests.support.cluster import owned_by, run, view_of
from tests.support.filters import OTHER, K, Rig


@pytest.mark.parametrize("l2", [False, True])
async def test_absent_key_costs_nothing(l2: bool) -> None:
    """Neither L2 nor the origin is asked, by GET or LEASE; what the origin has is loaded."""
    rig = Rig(l2=l2)
    rig.loader.put(K, b"v")
    assert await rig.get(OTHER) is None
    assert rig.asked == 1
    assert await rig.rebuild() == "done"
    if rig.l2 is not None:
        rig.l2.gate.clear()  # whoever asks L2 waits for good
    assert await rig.get(OTHER) is None
    lease = await rig.do(Operation.LEASE, OTHER)
    assert (lease.records, lease.tokens, lease.failures) == ([b""], (), {})
    assert rig.asked == 1
    if rig.l2 is not None:
        rig.l2.gate.set()
    assert await rig.get() == b"v"
    counters = rig.bloom().counters(rig.clock.now(), 1)
    assert (counters.state, counters.absences, counters.passed, counters.skipped) == ("ready", 2, 1, 1)
    assert (counters.listed, counters.rebuilds, counters.failures, counters.age_s) == (1, 1, 0, 0.0)
    assert 0 < counters.fill < 0.01 < counters.bytes


async def test_namespace_without_a_filter_is_as_before() -> None:
    """Orders of others about a filter change nothing there."""
    rig = Rig()
    found = await run(rig.node, Batch(Operation.BLOOM_TAKE, "default", [b"bloom"], [b""], tokens=[7]), from_peer=True)
    assert (found.versions, found.failures) == ([0], {})
    strange = await run(rig.node, Batch(Operation.BLOOM_BEGIN, "n", [b"bloom"], [b""], tokens=[7]))
    assert strange.failures[0].reason is Reason.INVALID_REQUEST


async def test_written_key_is_not_hidden() -> None:
    """It is added before the write is acknowledged; once removed it only costs a look."""
    rig = Rig()
    await rig.rebuild()
    await rig.set(OTHER)
    assert await rig.get(OTHER) == b"set"
    await rig.do(Operation.DELETE, OTHER)
    assert await rig.get(OTHER) is None
    assert rig.bloom().passed == 1
    assert rig.bloom().false_positives == 1


@pytest.mark.parametrize("l2", [False, True])
async def test_write_during_a_rebuild(l2: bool) -> None:
    """A key that is written behind the listing's back is in the fresh filter."""
    rig = Rig(l2=l2)
    rebuilding = rig.rebuilding()
    await rig.loader.listed.wait()
    rig.loader.put(K, b"v")
    await rig.do(Operation.INVALIDATE, K)
    await rig.set(OTHER)
    rig.loader.listing.set()
    await rebuilding
    rig.node.namespaces.get("n").store.clear()
    assert await rig.get(K) == b"v"
    assert await rig.get(OTHER) == (b"set" if l2 else None)
    assert await rig.get(b"third") is None
    assert rig.bloom().absences == 1


async def test_write_that_spans_the_beginning() -> None:
    """It was begun before the rebuild, so the fresh filter has it from its end."""
    rig = Rig(l2=True)
    assert rig.l2 is not None
    await rig.rebuild()
    rig.l2.gate.clear()
    writing = asyncio.ensure_future(rig.set(OTHER))
    await rig.l2.held.wait()
    assert rig.bloom().begin(1 << 63, 1_000, 0.01, 1, 0)
    rig.l2.gate.set()
    await writing
    generation = rig.bloom()._fresh
    assert generation is not None
    assert OTHER in generation.keys


async def test_older_rebuild() -> None:
    """What it lists is not taken: it was begun before the later one, which may know more."""
    rig = Rig("a", "b")
    rebuilding = rig.rebuilding()
    await rig.loader.listed.wait()
    assert rig.bloom("b").begin(1 << 63, 1_000, 0.01, 1, 0)
    rig.loader.listing.set()
    await rebuilding
    assert (rig.bloom("a").rebuilds, rig.bloom("b").rebuilds) == (1, 0)
    assert not rig.bloom("b").begin(5, 1_000, 0.01, 1, 0)
    refused = await rig.rebuild("a")
    assert (refused, rig.bloom("a").failures) == ("failed", 1)


async def test_one_lists_for_all() -> None:
    """Every node answers for its own keys; what one has written the others need not know."""
    rig = Rig("a", "b", "c")
    keys = {name: owned_by(rig.view, name, 3, prefix=f"{name}-") for name in "abc"}
    for name in "abc":
        rig.loader.put(keys[name][0], b"v")
    await rig.rebuild()
    assert rig.loader.lists == 1
    for name in "abc":
        await rig.set(keys[name][1], node="a")
        rig.nodes[name].namespaces.get("n").store.clear()
        assert await rig.get(keys[name][2], node="b") is None
    assert rig.asked == 0
    for name in "abc":
        assert await rig.get(keys[name][0], node="b") == b"v"
        assert rig.bloom(name).absences == 1


async def test_key_that_was_elsewhere() -> None:
    """Nobody else knows what its owner of a while has written: until the next rebuild it is looked for."""
    rig = Rig("a", "b", l2=True)
    await rig.rebuild()
    [key] = moved = [key for key in owned_by(view_of(2, "a", "b", "c"), "c", 40) if Ring(rig.view).owner(key) == "a"][
        :1
    ]
    rig.change("a", "b", "c")
    await rig.set(key, node="c")
    rig.change("a", "b")
    assert await rig.get(key, node="a") == b"set"
    stayed = [each for each in owned_by(rig.view, "a", 40) if each not in moved]
    stayed = [each for each in stayed if Ring(view_of(2, "a", "b", "c")).owner(each) == "a"]
    assert await rig.get(stayed[0], node="a") is None
    assert (rig.bloom("a").absences, rig.bloom("a").skipped) == (1, 1)
    assert rig.bloom("a").counters(0.0, rig.view.epoch).state == "partial"


async def test_value_that_only_l2_has() -> None:
    """It was written before the rebuild, and is not at the origin: L2 is listed too."""
    rig = Rig(l2=True)
    await rig.set(OTHER)
    rig.node.namespaces.get("n").store.clear()
    await rig.rebuild()
    assert await rig.get(OTHER) == b"set"


async def test_invalidated_key_is_looked_for() -> None:
    """The origin has changed: what was inserted there is found at once."""
    rig = Rig()
    await rig.rebuild()
    rig.loader.put(K, b"v")
    assert await rig.get() is None
    await rig.do(Operation.INVALIDATE)
    assert await rig.get() == b"v"


@pytest.mark.parametrize(
    ("kind", "text", "hidden"),
    [(SelectorKind.PREFIX, b"k", False), (SelectorKind.TAG, b"t", False), (SelectorKind.NAMESPACE, b"*", False)],
)
async def test_barrier_suspends_what_it_covers(kind: SelectorKind, text: bytes, hidden: bool) -> None:
    """Until the next rebuild; one by tag may cover any key, one by prefix only its own."""
    rig = Rig()
    await rig.rebuild()
    rig.loader.put(K, b"v")
    await rig.do(Operation.BARRIER, text, flags=[kind.value])
    assert await rig.get() == b"v"
    asked = rig.asked
    assert await rig.get(OTHER) is None
    assert (rig.asked > asked) is (kind is not SelectorKind.PREFIX)
    await rig.rebuild()
    asked = rig.asked
    assert await rig.get(b"k2") is None
    assert rig.asked == asked
    assert not hidden


async def test_rebuild_that_fails() -> None:
    """The filter in use goes on; the next attempt comes after a pause."""
    rig = Rig()
    rig.loader.put(K, b"v")
    await rig.rebuild()
    rig.loader.breaks = OriginError("OSError")
    assert await rig.rebuild() == "failed"
    assert await rig.get(OTHER) is None
    assert rig.bloom().absences == 1
    assert not rig.bloom().counters(0.0, 1).building


async def test_l2_that_is_away_fails_a_rebuild() -> None:
    """It may have what the origin lacks."""
    rig = Rig(l2=True)
    assert rig.l2 is not None
    tier = rig.node.tier
    assert tier is not None
    for _ in range(3):
        tier._fail()
    assert await rig.rebuild() == "failed"


async def test_when_rebuilds_are_due() -> None:
    """At once by the node with the seat, after a change of view, and when the schedule says so."""
    rig = Rig("a", "b")
    seat = Ring(rig.view).owner(seat_of("n"))

    async def tick() -> int:
        for node in rig.nodes.values():
            node.blooms.tick(rig.clock.now())
        tasks = [each.task for node in rig.nodes.values() for each in node.blooms._running.values() if each.task]
        await asyncio.gather(*tasks)
        return rig.loader.lists

    assert await tick() == 0
    rig.clock.advance(2.0)
    assert await tick() == 1
    assert seat is not None
    assert rig.nodes[seat].blooms._plans.keys() == {"n"}
    rig.clock.advance(10.0)
    assert await tick() == 1
    rig.change("a", "b", "c")
    assert await tick() == 1
    rig.clock.advance(2.0)
    assert await tick() == 2
    assert rig.bloom("c").counters(0.0, 2).state == "ready"
    rig.clock.advance(60.0)
    rig.wall += 86_399
    assert await tick() == 2
    rig.wall += 2
    assert await tick() == 3
    for node in rig.nodes.values():
        await node.blooms.close()
