"""What is written in one region is brought to another, never in the place of anything newer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cachenode.core.entries import Batch, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node import region_values as module
from cachenode.node.namespaces import Namespace
from cachenode_api.records import DEPENDENT, EXTENDED, HEADER, INT_FLAGS, STALE
from tests.support.cluster import fetch, put, run
from tests.support.eventually import eventually
from tests.support.regions import SHARED, DirectLink, Site, two_sites

POLICY = replace(SHARED, stale_s=0.0, region_value_bytes=100)
K = b"k"


async def sites(policy: NamespacePolicy = POLICY, *, nodes: tuple[str, ...] = ("a",)) -> tuple[Site, Site]:
    """Return east and west, each past the first gap of the other."""
    east, west = two_sites(policies=[policy], nodes=nodes)
    for site, other in ((east, "west"), (west, "east")):
        await site.send(other)
    for site in (east, west):
        site.clock.advance(60.0)
    return east, west


def shared(site: Site) -> Namespace:
    found = site.node.namespaces.get("shared")
    assert found is not None
    return found


def held(site: Site, key: bytes = K) -> bytes | None:
    """Return a key's record if some node has it in memory; nobody reads it for that."""
    for node in site.nodes.values():
        namespace = node.namespaces.get("shared")
        assert namespace is not None
        if (record := namespace.store.peek(key, site.clock.now())) is not None:
            return bytes(record)
    return None


def brought(site: Site) -> tuple[int, int]:
    spaces = [node.namespaces.get("shared") for node in site.nodes.values()]
    assert all(spaces)
    return sum(each.remote_values for each in spaces if each), sum(each.remote_values_missed for each in spaces if each)


async def settled(site: Site) -> None:
    """Return when nothing is being brought."""
    await eventually(lambda: not any(links.values._tasks for links in site.regions.values()))


@pytest.mark.parametrize("nodes", [("a",), ("a", "b")])
async def test_value_is_there_before_it_is_asked_for(nodes: tuple[str, ...]) -> None:
    """Whichever node owns the key; and what is brought is told to nobody."""
    east, west = await sites(nodes=nodes)
    keys = [b"k%d" % number for number in range(8)]
    for key in keys:
        await put(west.node, key, b"old", namespace="shared")
        await put(east.node, key, b"new " + key, namespace="shared")
    await west.store.fetch("nobody", "test", lease_s=1.0, after=None, most=1)
    before = len(await west.outbox())
    await east.send("west")
    await settled(west)
    assert brought(west) == (8, 0)
    assert all((held(west, key) or b"").endswith(b"new " + key) for key in keys)
    assert [await fetch(west.node, key, "shared") for key in keys] == [b"new " + key for key in keys]
    assert len(await west.outbox()) == before


async def on_its_way(east: Site, west: Site, value: bytes) -> DirectLink:
    """Write a value in the east, and hold it on its way to the west. Return the link, whose `gate` lets it go on."""
    link = west.link("east")
    link.gate.clear()
    link.asked.clear()
    await put(east.node, K, value, namespace="shared")
    await east.send("west")
    await link.asked.wait()
    return link


async def test_life_and_flags_come_along() -> None:
    """What is left of the life; how the value is encoded."""
    east, west = await sites()
    await run(east.node, Batch(Operation.SET, "shared", [K], [b"7"], [INT_FLAGS], [60_000]))
    east.clock.advance(20.0)
    await east.send("west")
    await settled(west)
    record = held(west)
    assert record is not None
    _, flags, _, deadline = HEADER.unpack_from(record)
    assert flags == INT_FLAGS
    assert deadline - west.clock.now() == pytest.approx(40.0, abs=0.1)


@pytest.mark.parametrize("operation", [Operation.DELETE, Operation.INVALIDATE])
async def test_nothing_is_asked_for_where_nothing_was_written(operation: Operation) -> None:
    """What was removed has no value."""
    east, west = await sites()
    await run(east.node, Batch(operation, "shared", [K]))
    await east.send("west")
    assert not west.link("east").asked.is_set()
    assert brought(west) == (0, 0)


async def test_namespace_that_wants_none_gets_none() -> None:
    """The region that reads says what is brought to it."""
    east, west = await sites(replace(POLICY, region_value_bytes=0))
    await put(east.node, K, b"v", namespace="shared")
    await east.send("west")
    assert not west.link("east").asked.is_set()


@pytest.mark.parametrize(("value", "flags"), [(b"v" * 101, 0), (b"v", STALE), (b"v", DEPENDENT), (None, 0)], ids=str)
async def test_what_cannot_be_kept_is_not_brought(value: bytes | None, flags: int) -> None:
    """Too large, past its TTL, dependent on what is not known here, or gone: it is counted."""
    east, west = await sites()
    await run(east.node, Batch(Operation.SET, "shared", [K], [value or b"v"], [flags]))
    if value is None:
        shared(east).store.remove(K)
        await east.l2.drop("shared", [(K, 1 << 62)])
    await east.send("west")
    await settled(west)
    assert held(west) is None
    assert brought(west) == (0, 1)


async def test_extended_life_is_not_carried_on() -> None:
    """A loaded value's life includes that as a stale one: each region adds its own."""
    east, _ = await sites(replace(POLICY, stale_s=30.0))
    leased = await run(east.node, Batch(Operation.LEASE, "shared", [K], lease_s=1.0), holder="loader")
    end = Batch(Operation.FULFILL, "shared", [K], [b"v"], tokens=list(leased.tokens), ttls_ms=[10_000])
    await run(east.node, end)
    found = await east.regions["a"].receiver.cached("west", "east", "shared", K, 100)
    assert found is not None
    assert not found.flags & EXTENDED
    assert found.ttl_s == pytest.approx(10.0, abs=0.1)
    east.clock.advance(11.0)
    assert await east.regions["a"].receiver.cached("west", "east", "shared", K, 100) is None


async def test_value_on_its_way_is_overtaken() -> None:
    """A second word comes, or a write here: what was on its way is not kept."""
    east, west = await sites()
    link = await on_its_way(east, west, b"first")
    await put(east.node, K, b"second", namespace="shared")
    await east.send("west")
    link.gate.set()
    await settled(west)
    assert await fetch(west.node, K, "shared") == b"second"

    link = await on_its_way(east, west, b"third")
    await put(west.node, K, b"own", namespace="shared")
    link.gate.set()
    await settled(west)
    assert await fetch(west.node, K, "shared") == b"own"


async def test_reader_waits_for_the_value() -> None:
    """Who would load it is given it."""
    east, west = await sites()
    link = await on_its_way(east, west, b"new")
    lease = Batch(Operation.LEASE, "shared", [K], lease_s=1.0)
    reading = asyncio.ensure_future(run(west.node, lease, holder="caller"))
    await eventually(lambda: shared(west).load_waits == 1)
    link.gate.set()
    assert (await reading).records[0].endswith(b"new")


async def test_reader_loads_what_does_not_come() -> None:
    """The region is cut off: the lease is given back at once, and the next one in line loads."""
    east, west = await sites()
    link = west.link("east")
    await put(east.node, K, b"new", namespace="shared")
    link.cut = True
    await east.send("west")
    await settled(west)
    assert brought(west) == (0, 1)
    result = await run(west.node, Batch(Operation.LEASE, "shared", [K], lease_s=1.0), holder="caller")
    assert any(result.tokens)


async def test_two_who_write_agree() -> None:
    """Whichever of the two words comes first: neither region ends up with the other's value alone."""
    for first, second in (("east", "west"), ("west", "east")):
        both = dict(zip(("east", "west"), await sites(), strict=True))
        await asyncio.gather(*(put(site.node, K, name.encode(), namespace="shared") for name, site in both.items()))
        for name, other in ((first, second), (second, first)):
            await both[name].send(other)
            await settled(both[other])
        found = {await fetch(site.node, K, "shared") for site in both.values()} - {None}
        assert len(found) <= 1


async def test_too_many_are_not_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted; what is left comes."""
    monkeypatch.setattr(module, "_MOST_WAITING", 3)
    east, west = await sites()
    keys = [b"k%d" % number for number in range(5)]
    await run(east.node, Batch(Operation.SET, "shared", keys, [b"v"] * 5))
    await east.send("west")
    await settled(west)
    assert brought(west) == (3, 2)


async def test_node_that_stops_gives_its_leases_back() -> None:
    """Nobody waits for what it was going to bring."""
    east, west = await sites()
    await on_its_way(east, west, b"new")
    await west.regions["a"].values.close()
    result = await run(west.node, Batch(Operation.LEASE, "shared", [K], lease_s=1.0), holder="caller")
    assert any(result.tokens)
