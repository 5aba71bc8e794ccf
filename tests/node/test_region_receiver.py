"""What another region says is acted on once, and nothing is acted on that leaves a hole."""

from __future__ import annotations

import asyncio

import pytest

from cachenode.core.entries import Batch, Operation
from cachenode.core.regions import Cursor, RegionEntry, Shipment
from cachenode.errors import L2Unavailable, RegionUnavailable
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, STALE
from cachenode_api.selectors import SelectorKind
from tests.support.cluster import fetch, put, run
from tests.support.regions import SHARED, Site

BOX = "run:1"
KEY = b"k"


async def site(reached: int = 0) -> Site:
    """Return a region that has acted on so many entries of east's outbox."""
    west = Site("west", ["east"], nodes=("a", "b"))
    await west.store.advance("east", None, Cursor(BOX, reached))
    return west


def told(*keys: bytes, after: int = 0, namespace: str = "shared") -> Shipment:
    entries = tuple(RegionEntry(namespace, (key,)) for key in keys)
    return Shipment(BOX, after, after + len(keys), entries)


async def take(west: Site, shipment: Shipment, node: str = "a") -> Cursor | None:
    return await west.regions[node].receiver.take("east", "west", shipment)


async def test_what_comes_twice_is_done_once() -> None:
    """One after the other, or at the same time."""
    west = await site()
    await put(west.node, KEY, b"old", namespace="shared")
    answers = await asyncio.gather(*(take(west, told(KEY)) for _ in range(3)))
    assert set(answers) == {Cursor(BOX, 1)}
    assert await fetch(west.node, KEY, "shared") is None
    await put(west.node, KEY, b"new", namespace="shared")
    assert await take(west, told(KEY)) == Cursor(BOX, 1)
    assert await take(west, told(KEY), "b") == Cursor(BOX, 1)
    assert await fetch(west.node, KEY, "shared") == b"new"
    [counters] = west.regions["a"].receiver.counters()
    assert (counters.applied, counters.known) == (1, 3)


async def test_part_of_what_comes_may_be_known() -> None:
    """The rest is done."""
    west = await site()
    for key in (KEY, b"l"):
        await put(west.node, key, b"v", namespace="shared")
    await take(west, told(KEY))
    await put(west.node, KEY, b"new", namespace="shared")
    assert await take(west, told(KEY, b"l")) == Cursor(BOX, 2)
    assert await fetch(west.node, KEY, "shared") == b"new"
    assert await fetch(west.node, b"l", "shared") is None


async def test_cursor_that_was_moved_meanwhile_stays() -> None:
    """Two nodes take the same: what the later one answers is where the region is."""
    west = await site()
    moved, advance = Cursor(BOX, 9), west.store.advance

    async def overtaken(origin: str, known: Cursor | None, to: Cursor) -> bool:
        assert await advance(origin, known, moved)
        return await advance(origin, known, to)

    west.store.advance = overtaken  # type: ignore[method-assign]
    assert await take(west, told(KEY)) == moved
    assert await west.store.cursor("east") == moved


async def test_hole_is_not_acted_on() -> None:
    """Whoever sends learns where the region is."""
    west = await site(3)
    await put(west.node, KEY, b"v", namespace="shared")
    assert await take(west, told(KEY, after=4)) == Cursor(BOX, 3)
    assert await fetch(west.node, KEY, "shared") == b"v"


async def test_gap_takes_everything() -> None:
    """In each namespace that is shared, in memory and in L2, on all nodes; once."""
    west = await site(3)
    for node in west.nodes.values():
        await put(node, KEY, b"v", namespace="shared")
    await put(west.node, KEY, b"v", namespace="own")
    gap = Shipment("run:2", 0, 7, gap=True)
    assert await take(west, gap) == Cursor("run:2", 7)
    assert [await fetch(node, KEY, "shared") for node in west.nodes.values()] == [None, None]
    assert await fetch(west.node, KEY, "own") == b"v"
    await put(west.node, KEY, b"new", namespace="shared")
    assert await take(west, gap) == Cursor("run:2", 7)
    assert await fetch(west.node, KEY, "shared") == b"new"


async def test_selectors_and_expiries_are_done_as_they_are_told() -> None:
    """A prefix covers keys; what is expired may be served, marked, and the rest may not."""
    west = await site()
    for key in (b"p:1", KEY, b"q"):
        await put(west.node, key, b"v", namespace="shared")
    entries = (
        RegionEntry("shared", (b"p:",), (SelectorKind.PREFIX.value,)),
        RegionEntry("shared", (KEY,), expire=True),
    )
    await take(west, Shipment(BOX, 0, 2, entries))
    assert await fetch(west.node, b"p:1", "shared") is None
    assert await fetch(west.node, b"q", "shared") == b"v"
    result = await run(west.node, Batch(Operation.GET, "shared", [KEY]))
    assert HEADER.unpack_from(result.records[0])[1] & STALE


@pytest.mark.parametrize("namespace", ["own", "n/a"])
async def test_namespace_that_is_not_shared_here_is_left_alone(namespace: str) -> None:
    """The entry is done with, and counted."""
    west = await site()
    await put(west.node, KEY, b"v", namespace="own")
    assert await take(west, told(KEY, namespace=namespace)) == Cursor(BOX, 1)
    assert await fetch(west.node, KEY, "own") == b"v"
    assert [each.ignored for each in west.regions["a"].receiver.counters()] == [1]


async def test_what_was_done_but_not_noted_is_not_done_again() -> None:
    """The store takes no cursor: the sender comes again, and the value that came since stays."""
    west = await site()
    advance = west.store.advance

    async def refused(origin: str, known: Cursor | None, to: Cursor) -> bool:
        raise L2Unavailable("on purpose")

    west.store.advance = refused  # type: ignore[method-assign]
    with pytest.raises(L2Unavailable):
        await take(west, told(KEY))
    await put(west.node, KEY, b"new", namespace="shared")
    west.store.advance = advance  # type: ignore[method-assign]
    assert await take(west, told(KEY)) == Cursor(BOX, 1)
    assert await fetch(west.node, KEY, "shared") == b"new"
    assert await west.store.cursor("east") == Cursor(BOX, 1)


async def test_lost_cursor_is_not_made_up_from_memory() -> None:
    """The store is empty: what it held may be lost too, and the region says that it knows nothing."""
    west = await site()
    await take(west, told(KEY))
    west.store.lose()
    assert await take(west, told(b"l", after=1)) is None
    assert await west.regions["a"].receiver.position("east", "west") is None


async def test_what_cannot_be_done_in_time_is_not_acknowledged() -> None:
    """A member is out of reach: the cursor stays."""
    west = await site()
    west.peers.cut.add("b")
    receiver = west.regions["a"].receiver
    receiver._timeout_s = 0.05
    entry = RegionEntry("shared", (b"t",), (SelectorKind.TAG.value,))
    with pytest.raises(RegionUnavailable, match="in time"):
        await take(west, Shipment(BOX, 0, 1, (entry,)))
    assert await west.store.cursor("east") == Cursor(BOX, 0)


async def loaded(west: Site, key: bytes) -> bytes | None:
    """Load a key as a reader who finds nothing does; return what is kept of that."""
    leased = await run(west.node, Batch(Operation.LEASE, "shared", [key], lease_s=1.0), holder="loader")
    await run(west.node, Batch(Operation.FULFILL, "shared", [key], [b"loaded"], tokens=list(leased.tokens)))
    kept = await fetch(west.node, key, "shared")
    assert not isinstance(kept, Reason)
    return kept


@pytest.mark.parametrize("how", ["key", "selector", "gap"])
async def test_what_is_loaded_soon_after_is_not_kept(how: str) -> None:
    """It may come from a replica that the other region's change has not reached; a while later it is kept."""
    west = await site()
    west.clock.advance(60.0)
    assert await loaded(west, b"before") == b"loaded"
    entry = RegionEntry("shared", (KEY,), (SelectorKind.PREFIX.value,) if how == "selector" else ())
    await take(west, Shipment("run:2", 0, 7, gap=True) if how == "gap" else Shipment(BOX, 0, 1, (entry,)))
    assert await loaded(west, KEY) is None
    assert await loaded(west, b"other") == (None if how == "gap" else b"loaded")
    west.clock.advance(SHARED.region_holdoff_s + 0.1)
    assert await loaded(west, KEY) == b"loaded"


@pytest.mark.parametrize("operation", [Operation.INVALIDATE, Operation.BARRIER])
async def test_own_word_holds_nothing_off(operation: Operation) -> None:
    """Who declares something untrue here has changed what this region loads from."""
    west = await site()
    west.clock.advance(60.0)
    flags = [SelectorKind.PREFIX.value] if operation is Operation.BARRIER else ()
    await run(west.node, Batch(operation, "shared", [KEY], flags=flags))
    assert await loaded(west, KEY) == b"loaded"


@pytest.mark.parametrize(("origin", "target"), [("north", "west"), ("east", "south")])
async def test_only_regions_that_are_known_are_heard(origin: str, target: str) -> None:
    """And only what is meant for this one."""
    west = await site()
    with pytest.raises(RegionUnavailable) as refused:
        await west.regions["a"].receiver.take(origin, target, told(KEY))
    assert refused.value.refused
