"""What was changed in another region is loaded there, while the origin of this one may lag behind.

Two regions with an origin each; that of west has not heard of what east has changed.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from cachenode.core.entries import Batch, Loaded, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import OriginError, RegionUnavailable
from cachenode.node.explain import explain
from cachenode.node.namespaces import Namespace
from cachenode_api.records import TAGGED
from cachenode_api.selectors import SelectorKind
from cachenode_api.tags import pack_tags
from tests.support.cluster import fetch, put, run, view_of
from tests.support.regions import Site, two_sites

LIFE_S = 5.0
MARKED = NamespacePolicy(
    name="shared",
    ttl_s=math.inf,
    max_value_bytes=1 << 20,
    l2=True,
    share=1.0,
    origin="o",
    regions=True,
    remote_marker_s=LIFE_S,
)
K = b"k"


async def lagging(policy: NamespacePolicy = MARKED, *, nodes: tuple[str, ...] = ("a",)) -> tuple[Site, Site]:
    """Return east and west, past their first gap; east's origin has what west's does not have yet."""
    east, west = two_sites(policies=[policy], nodes=nodes)
    await east.send("west")
    for site in (east, west):
        site.clock.advance(60.0)
    east.loader.put(K, b"new")
    west.loader.put(K, b"old")
    return east, west


def shared(site: Site) -> Namespace:
    found = site.node.namespaces.get("shared")
    assert found is not None
    return found


async def change(site: Site, *keys: bytes, operation: Operation = Operation.INVALIDATE) -> None:
    assert not (await run(site.node, Batch(operation, "shared", list(keys or (K,))))).failures


async def bar(site: Site, kind: SelectorKind, text: bytes) -> None:
    result = await run(site.node, Batch(Operation.BARRIER, "shared", [text], flags=[kind.value]))
    assert not result.failures


async def test_miss_is_loaded_where_the_key_was_changed() -> None:
    """And kept: it is what a read of the region finds from then on, also when its own origin still lags."""
    east, west = await lagging()
    assert await fetch(west.node, K, "shared") == b"old"
    await change(east)
    await east.send("west")
    assert await fetch(west.node, K, "shared") == b"new"
    assert await fetch(west.node, K, "shared") == b"new"
    assert (west.link("east").loads, len(west.loader.calls)) == (1, 1)
    assert (shared(west).remote_loads, shared(west).remote_load_failures) == (1, 0)
    [counters] = east.regions["a"].receiver.counters()
    assert counters.loads == 1


async def test_marker_ends() -> None:
    """Then this region's origin is asked, and what it has is kept."""
    east, west = await lagging()
    await change(east)
    await east.send("west")
    west.clock.advance(LIFE_S)
    west.loader.put(K, b"new")
    assert await fetch(west.node, K, "shared") == b"new"
    assert await fetch(west.node, K, "shared") == b"new"
    assert (west.link("east").loads, len(west.loader.calls)) == (0, 1)


@pytest.mark.parametrize("how", ["cut", "failing"])
async def test_region_out_of_reach_is_stood_in_for(how: str) -> None:
    """What the lagging origin has is handed out, and not kept: with the link back the next reader gets what is new."""
    east, west = await lagging()
    await change(east)
    await east.send("west")
    if how == "cut":
        west.link("east").cut = True
    else:
        east.loader.values[K] = OriginError("on purpose", again=False)
    assert await fetch(west.node, K, "shared") == b"old"
    assert shared(west).remote_load_failures == 1
    west.link("east").cut = False
    east.loader.put(K, b"new")
    assert await fetch(west.node, K, "shared") == b"new"
    assert shared(west).remote_loads == 1


async def test_region_that_keeps_failing_is_left_alone_for_a_while() -> None:
    """Readers do not wait for it each time."""
    east, west = await lagging()
    await change(east)
    await east.send("west")
    link = west.link("east")
    link.cut = True
    for _ in range(5):
        assert await fetch(west.node, K, "shared") == b"old"
    assert (link.loads, shared(west).remote_load_failures) == (3, 5)
    link.cut = False
    west.clock.advance(1.1)
    assert await fetch(west.node, K, "shared") == b"new"


async def test_readers_share_one_load() -> None:
    """However many wait, on whichever node: one flight, and one call to the other region."""
    east, west = await lagging(nodes=("a", "b"))
    await change(east)
    await east.send("west")
    east.loader.gate.clear()
    readers = [asyncio.ensure_future(fetch(node, K, "shared")) for node in west.nodes.values() for _ in range(5)]
    await east.loader.held.wait()
    east.loader.gate.set()
    assert set(await asyncio.gather(*readers)) == {b"new"}
    assert sum(west.link("east", name).loads for name in west.nodes) == 1
    assert west.loader.calls == []


async def test_change_meanwhile_voids_the_load() -> None:
    """What the region brings then is given to who waited, and not kept."""
    east, west = await lagging()
    await change(east)
    await east.send("west")
    link = west.link("east")
    east.loader.gate.clear()
    reader = asyncio.ensure_future(fetch(west.node, K, "shared"))
    await east.loader.held.wait()
    east.loader.put(K, b"newer")
    await change(east)
    await east.send("west")
    east.loader.gate.set()
    assert await reader == b"new"
    assert await fetch(west.node, K, "shared") == b"newer"
    assert link.loads == 2


async def test_change_for_a_primary_elsewhere_marks_too() -> None:
    """Who writes west's data writes east's database: until that is replicated, east has it and west has not."""
    east, west = await lagging(replace(MARKED, primary_region="east"))
    await change(west)
    assert await fetch(west.node, K, "shared") == b"new"
    await put(west.node, b"l", b"written", namespace="shared")
    east.loader.put(b"l", b"written")
    shared(west).store.remove(b"l")
    await west.l2.drop("shared", [(b"l", 1 << 62)])
    assert await fetch(west.node, b"l", "shared") == b"written"
    assert west.loader.calls == []


async def test_own_change_is_loaded_here() -> None:
    """Without a primary region each has what it has changed itself."""
    _, west = await lagging()
    await change(west)
    assert await fetch(west.node, K, "shared") == b"old"
    assert west.link("east").loads == 0
    assert shared(west).store.peek(K, west.clock.now()) is not None


async def test_two_who_changed_the_same_are_not_asked() -> None:
    """Either may lack the other's change. What this region has is not kept until it must have both."""
    east, west = await lagging()
    await change(west)
    await change(east)
    await east.send("west")
    for _ in range(2):
        assert await fetch(west.node, K, "shared") == b"old"
    assert (west.link("east").loads, len(west.loader.calls)) == (0, 2)


@pytest.mark.parametrize("nodes", [("a",), ("a", "b")])
async def test_selector_marks_what_it_covers(nodes: tuple[str, ...]) -> None:
    """On every node; the rest is loaded here."""
    east, west = await lagging(nodes=nodes)
    await bar(east, SelectorKind.PREFIX, b"p:")
    await east.send("west")
    for number in range(4):
        key = b"p:%d" % number
        east.loader.put(key, b"new")
        west.loader.put(key, b"old")
        assert await fetch(west.node, key, "shared") == b"new"
    assert await fetch(west.node, K, "shared") == b"old"


async def test_tag_is_known_when_the_value_is() -> None:
    """Which keys a tag covers is not known before: they are loaded here first, and there if they bear it."""
    east, west = await lagging()
    east.loader.values[K] = Loaded(pack_tags([b"t"]) + b"new", TAGGED)
    west.loader.values[K] = Loaded(pack_tags([b"t"]) + b"old", TAGGED)
    west.loader.put(b"l", b"other")
    await bar(east, SelectorKind.TAG, b"t")
    await east.send("west")
    found = await fetch(west.node, K, "shared")
    assert isinstance(found, bytes)
    assert found.endswith(b"new")
    assert await fetch(west.node, b"l", "shared") == b"other"
    assert west.link("east").loads == 1


async def test_absence_there_is_one() -> None:
    """The key was removed from the database, and the replica still has it."""
    east, west = await lagging()
    del east.loader.values[K]
    await change(east, operation=Operation.DELETE)
    await east.send("west")
    assert await fetch(west.node, K, "shared") is None


async def test_lease_waits_for_the_region() -> None:
    """A caller that would load itself, from what lags, is given what the node has loaded there."""
    east, west = await lagging()
    await change(east)
    await east.send("west")
    result = await run(west.node, Batch(Operation.LEASE, "shared", [K], lease_s=1.0), holder="caller")
    assert result.records[0].endswith(b"new")
    assert not any(result.tokens)


async def test_region_is_asked_past_its_cache() -> None:
    """It may not have heard yet of what was written here: what it has cached does not count."""
    east, west = await lagging(replace(MARKED, primary_region="east"))
    await put(east.node, K, b"cached", namespace="shared")
    await change(west)
    assert await fetch(west.node, K, "shared") == b"new"


async def test_region_asks_nobody_for_another() -> None:
    """Both have marks of the key: each loads from its own origin what the other asks for."""
    east, west = await lagging()
    east.loader.gate.clear()
    west.loader.gate.clear()
    shared(east).mark([K], "west", east.clock.now())
    shared(west).mark([K], "east", west.clock.now())
    readers = [asyncio.ensure_future(fetch(site.node, K, "shared")) for site in (east, west)]
    await asyncio.gather(east.loader.held.wait(), west.loader.held.wait())
    east.loader.gate.set()
    west.loader.gate.set()
    assert await asyncio.gather(*readers) == [b"old", b"new"]


async def test_unshared_namespace_is_not_loaded_from() -> None:
    """Nor is an overloaded region."""
    east, west = await lagging()
    receiver = east.regions["a"].receiver
    with pytest.raises(OriginError, match="not shared"):
        await receiver.load("west", "east", "default", K)
    with pytest.raises(RegionUnavailable):
        await receiver.load("north", "east", "shared", K)
    assert west.loader.calls == []


async def test_gap_has_nobody_asked_for_everything() -> None:
    """What is loaded is not kept until replication must be through."""
    east, west = await lagging()
    east.store.lose()
    await east.send("west")
    for _ in range(2):
        assert await fetch(west.node, K, "shared") == b"old"
    assert (west.link("east").loads, len(west.loader.calls)) == (0, 2)


async def test_new_owner_keeps_nothing_for_a_while() -> None:
    """Nobody has told it what is marked."""
    _, west = await lagging()
    west.node.placement.apply(view_of(2, "a"))
    for _ in range(2):
        assert await fetch(west.node, K, "shared") == b"old"
    assert len(west.loader.calls) == 2


async def test_marker_is_explained() -> None:
    """With the region, and for how long."""
    east, west = await lagging()
    found = await explain(west.node, shared(west), K)
    assert (found.loads_from, found.marked_s) == ("", 0.0)
    await change(east)
    await east.send("west")
    west.clock.advance(1.0)
    found = await explain(west.node, shared(west), K)
    assert (found.loads_from, found.marked_s) == ("east", LIFE_S - 1.0)
