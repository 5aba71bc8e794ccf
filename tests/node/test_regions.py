"""What changes in a region is in its outbox before that is answered."""

from __future__ import annotations

import asyncio

import pytest

from cachenode.core.entries import Batch, Operation
from cachenode.core.regions import Owed, RegionEntry
from cachenode_api.reasons import Reason
from cachenode_api.selectors import EVERYTHING, SelectorKind
from tests.support.cluster import HeldL2, fetch, owned_by, put, run, view_of
from tests.support.eventually import eventually
from tests.support.regions import Site, two_sites

KEY = b"k"


def site(*nodes: str) -> Site:
    return Site("east", ["west"], nodes=nodes or ("a",))


async def change(node_of: Site, operation: Operation, keys: list[bytes], *, namespace: str = "shared") -> None:
    values = [b"v"] * len(keys) if operation is Operation.SET else ()
    deltas = [1] if operation is Operation.INCR else ()
    result = await run(node_of.node, Batch(operation, namespace, keys, values, deltas=deltas))
    assert not result.failures


@pytest.mark.parametrize("operation", [Operation.SET, Operation.DELETE, Operation.INVALIDATE, Operation.INCR])
async def test_changes_are_in_the_outbox(operation: Operation) -> None:
    """Whether there was a value or not, as another region may have one; and whether there is one now."""
    east = site()
    await change(east, operation, [KEY, b"other"])
    written = operation in {Operation.SET, Operation.INCR}
    assert await east.outbox() == [RegionEntry("shared", (KEY, b"other"), written=written)]
    assert east.node.regions is not None
    assert east.node.regions.appended == 1


async def test_barriers_are_in_the_outbox() -> None:
    """Tags, prefixes and the rest, with what becomes of the values."""
    east = site()
    kinds = [SelectorKind.TAG.value, SelectorKind.PREFIX.value]
    await run(east.node, Batch(Operation.BARRIER, "shared", [b"t", b"p:"], flags=kinds, expire=True))
    assert await east.outbox() == [RegionEntry("shared", (b"t", b"p:"), tuple(kinds), expire=True)]


@pytest.mark.parametrize("operation", [Operation.SET, Operation.DELETE, Operation.INVALIDATE])
async def test_namespace_that_is_not_shared_is_nobodys_business(operation: Operation) -> None:
    """Nothing is told of it."""
    east = site()
    await change(east, operation, [KEY], namespace="own")
    await run(east.node, Batch(Operation.BARRIER, "own", [b"t"], flags=[SelectorKind.TAG.value]))
    assert await east.outbox() == []


async def test_reads_loads_and_touches_are_not_told() -> None:
    """They change no other region's copy of the value."""
    east = site()
    east.clock.advance(60.0)  # what a node loads in its first moments is not kept here
    batch = Batch(Operation.LEASE, "shared", [KEY], lease_s=1.0)
    leased = await run(east.node, batch, holder="loader")
    fulfil = Batch(Operation.FULFILL, "shared", [KEY], [b"v"], tokens=list(leased.tokens))
    assert not (await run(east.node, fulfil)).failures
    assert await fetch(east.node, KEY, "shared") == b"v"
    await run(east.node, Batch(Operation.TOUCH, "shared", [KEY], ttls_ms=[1_000]))
    assert await east.outbox() == []


async def test_keys_of_other_nodes_are_told_by_their_owners() -> None:
    """Each key once, whichever node is asked."""
    east = site("a", "b")
    view = view_of(1, "a", "b")
    [ours], [theirs] = owned_by(view, "a"), owned_by(view, "b")
    await change(east, Operation.SET, [ours, theirs])
    await run(east.nodes["b"], Batch(Operation.BARRIER, "shared", [EVERYTHING], flags=[SelectorKind.NAMESPACE.value]))
    told = [text for entry in await east.outbox() for text in entry.texts]
    assert sorted(told) == sorted([ours, theirs, EVERYTHING])


async def test_what_another_region_told_is_not_told_again() -> None:
    """Neither by the node that it came to nor by the owners and coordinators that do it: no loop."""
    east, west = two_sites(nodes=("a", "b"))
    keys = owned_by(view_of(1, "a", "b"), "a") + owned_by(view_of(1, "a", "b"), "b")
    await east.send("west")
    for key in keys:
        await put(west.node, key, b"old", namespace="shared")
    before = await west.outbox()
    await change(east, Operation.SET, keys)
    await run(east.node, Batch(Operation.BARRIER, "shared", [b"x"], flags=[SelectorKind.PREFIX.value]))
    await east.send("west")
    assert [await fetch(west.node, key, "shared") for key in keys] == [None, None]
    assert await west.outbox() == before


async def test_entry_is_appended_when_the_change_is_done() -> None:
    """Not before: another region may read it from here."""
    east = site()
    held = HeldL2(east.l2)
    assert east.node.tier is not None
    east.node.tier._store = held
    held.gate.clear()
    writing = asyncio.create_task(put(east.node, KEY, b"new", namespace="shared"))
    await held.held.wait()
    assert await east.outbox() == []
    held.gate.set()
    await writing
    assert len(await east.outbox()) == 1


async def test_change_that_was_given_up_is_told() -> None:
    """Whoever wanted it is gone; it may be seen all the same."""
    east = site()
    held = HeldL2(east.l2)
    assert east.node.tier is not None
    east.node.tier._store = held
    held.gate.clear()
    writing = asyncio.create_task(put(east.node, KEY, b"new", namespace="shared"))
    await held.held.wait()
    writing.cancel()
    await asyncio.wait([writing])
    await eventually(east.outbox)
    assert await east.outbox() == [RegionEntry("shared", (KEY,), written=True)]


async def test_change_that_was_not_done_is_not_told() -> None:
    """Its condition did not hold, or the value was too large: nothing has changed."""
    east = site()
    result = await run(east.node, Batch(Operation.SET, "shared", [KEY], [b"v"], if_versions=[7]))
    assert result.failures[0].reason is Reason.CONDITION_FAILED
    await run(east.node, Batch(Operation.SET, "shared", [KEY], [b"v" * (1 << 21)]))
    assert await east.outbox() == []


async def test_entry_that_was_not_taken_is_owed() -> None:
    """The writer learns it, the value is there, and the others are told when the store is back."""
    east = site()
    east.store.down = True
    result = await put(east.node, KEY, b"new", namespace="shared")
    assert result.failures[0].reason is Reason.REGIONS_NOT_TOLD
    assert await fetch(east.node, KEY, "shared") == b"new"
    regions = east.node.regions
    assert regions is not None
    assert len(regions.owed) == 1
    await regions.flush()
    assert len(regions.owed) == 1
    east.store.down = False
    await regions.flush()
    assert await east.outbox() == [RegionEntry("shared", (KEY,), written=True)]
    assert not regions.owed


async def test_store_that_keeps_failing_is_left_alone() -> None:
    """Writers do not wait for it each, until it is tried again."""
    east = site()
    east.store.down = True
    for _ in range(3):
        await put(east.node, KEY, b"new", namespace="shared")
    east.store.down = False
    result = await put(east.node, KEY, b"new", namespace="shared")
    assert result.failures[0].reason is Reason.REGIONS_NOT_TOLD
    east.clock.advance(1.1)
    assert east.node.regions is not None
    await east.node.regions.flush()
    assert len(await east.outbox()) == 4


async def test_too_much_owed_is_everything() -> None:
    """Of the namespaces that are concerned."""
    east = site()
    regions = east.node.regions
    assert regions is not None
    regions.owed = Owed(limit=2)
    east.store.down = True
    for _ in range(3):
        await put(east.node, KEY, b"new", namespace="shared")
    east.store.down = False
    east.clock.advance(1.1)
    await regions.flush()
    assert await east.outbox() == [RegionEntry("shared", (EVERYTHING,), (SelectorKind.NAMESPACE.value,))]


async def test_large_batches_become_several_entries() -> None:
    """None of them is too large for a frame."""
    east = site()
    await change(east, Operation.INVALIDATE, [b"%d" % number for number in range(600)])
    assert [len(entry.texts) for entry in await east.outbox()] == [256, 256, 88]
