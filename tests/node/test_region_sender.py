"""What is in the outbox gets to the other region, whatever becomes of senders and links."""

from __future__ import annotations

import asyncio

from cachenode.core.entries import Batch, Operation
from cachenode.node.region_sender import ASK_S, RegionSender
from tests.support.cluster import fetch, put, run
from tests.support.eventually import eventually
from tests.support.regions import DirectLink, Site, two_sites

KEYS = [b"%d" % number for number in range(5)]


async def invalidate(site: Site, key: bytes) -> None:
    assert not (await run(site.node, Batch(Operation.INVALIDATE, "shared", [key]))).failures


async def cached(site: Site, keys: list[bytes]) -> list[bytes]:
    """Return which of the keys have a value."""
    return [key for key in keys if await fetch(site.node, key, "shared") is not None]


async def introduced(most: int = 1_000) -> tuple[Site, Site]:
    """Return two regions that know each other; west has values."""
    east, west = two_sites(most=most)
    await east.send("west")
    for key in KEYS:
        await put(west.node, key, b"v", namespace="shared")
    return east, west


def link_to(site: Site, target: str) -> DirectLink:
    """Return another link that ends where the one to west does."""
    link = DirectLink("east", target)
    link.receiver = site.link("west").receiver
    return link


async def test_invalidations_arrive() -> None:
    """And nothing else goes."""
    east, west = await introduced()
    await invalidate(east, KEYS[0])
    await east.send("west")
    assert await cached(west, KEYS) == KEYS[1:]
    sender = east.sender("west")
    assert (sender.sent, sender.state) == (1, "connected")
    counters = sender.counters()
    assert (counters.lag_entries, counters.lag_s, counters.sending, counters.connected) == (0, 0.0, True, True)


async def test_region_that_is_cut_off_serves_and_catches_up() -> None:
    """The backlog is told with its age, and arrives as a whole."""
    east, west = await introduced()
    east.link("west").cut = True
    for key in KEYS[:3]:
        await invalidate(east, key)
        east.clock.advance(1.0)
    await east.send("west")
    assert await cached(west, KEYS) == KEYS
    counters = east.sender("west").counters()
    assert (counters.state, counters.lag_entries, counters.lag_s) == ("cut", 3, 3.0)
    assert counters.why
    east.link("west").cut = False
    await east.send("west")
    assert await cached(west, KEYS) == KEYS[3:]
    counters = east.sender("west").counters()
    assert (counters.state, counters.lag_entries, counters.lag_s, counters.gaps) == ("connected", 0, 0.0, 1)


async def test_lost_answer() -> None:
    """What was done is not done again: the value that came since stays."""
    east, west = await introduced()
    link = east.link("west")
    link.lose_answer = True
    await invalidate(east, KEYS[0])
    await east.send("west")
    assert await cached(west, KEYS) == KEYS[1:]
    await put(west.node, KEYS[0], b"new", namespace="shared")
    link.lose_answer = False
    await east.send("west")
    assert await cached(west, KEYS) == KEYS
    [counters] = west.regions["a"].receiver.counters()
    assert (counters.applied, counters.gaps) == (1, 1)


async def test_frozen_sender_brings_nothing_new() -> None:
    """Another has taken over meanwhile; what the first one sends when it wakes up is known."""
    east, west = await introduced()
    link = east.link("west")
    link.gate.clear()
    await invalidate(east, KEYS[0])
    frozen = asyncio.create_task(east.send("west"))
    await eventually(lambda: east.sender("west").counters().lag_entries == 1)
    east.clock.advance(6.0)
    other = RegionSender("west", east.store, link_to(east, "west"), sender="b", clock=east.clock, lease_s=5.0)
    while await other.step() == 0.0:
        pass
    assert other.sent == 1
    await put(west.node, KEYS[0], b"new", namespace="shared")
    link.gate.set()
    await frozen
    assert await cached(west, KEYS) == KEYS
    assert east.sender("west").state == "waiting"
    assert [each.known for each in west.regions["a"].receiver.counters()] == [1]


async def test_one_node_sends_and_another_takes_over() -> None:
    """At the end of the lease, from where the region is."""
    east, west = two_sites(nodes=("a", "b"))
    await east.send("west", "a")
    await east.send("west", "b")
    assert [east.sender("west", name).state for name in ("a", "b")] == ["connected", "waiting"]
    assert not east.sender("west", "b").counters().sending
    await put(west.node, KEYS[0], b"v", namespace="shared")
    await invalidate(east, KEYS[0])
    east.clock.advance(5.1)
    await east.send("west", "b")
    assert await cached(west, KEYS) == []
    assert east.sender("west", "b").sent == 1
    assert east.sender("west", "b").gaps == 0


async def test_stopped_sender_gives_the_link_back() -> None:
    """Another node has it at once."""
    east, _ = two_sites(nodes=("a", "b"))
    sender = east.sender("west", "a")
    sender.start()
    await eventually(lambda: sender.state == "connected")
    await sender.stop()
    await east.send("west", "b")
    assert east.sender("west", "b").state == "connected"


async def test_trimmed_backlog_is_a_gap() -> None:
    """More has changed than the outbox holds: everything goes, and nothing stays behind."""
    east, west = await introduced(most=2)
    east.link("west").cut = True
    for key in KEYS[:3]:
        await invalidate(east, key)
    east.link("west").cut = False
    await put(west.node, b"untouched", b"v", namespace="shared")
    await put(west.node, b"mine", b"v", namespace="own")
    await east.send("west")
    assert await cached(west, [*KEYS, b"untouched"]) == []
    assert await fetch(west.node, b"mine", "own") == b"v"
    assert east.sender("west").gaps == 2
    await put(west.node, KEYS[0], b"new", namespace="shared")
    await east.send("west")
    assert await cached(west, KEYS) == KEYS[:1]


async def test_lost_outbox_is_a_gap() -> None:
    """What was in it may concern anything."""
    east, west = await introduced()
    east.link("west").cut = True
    await invalidate(east, KEYS[0])
    east.store.lose()
    east.link("west").cut = False
    await east.send("west")
    assert await cached(west, KEYS) == []


async def test_region_that_lost_its_cursor_is_told_a_gap() -> None:
    """Though nothing has happened here since: it is asked from time to time."""
    east, west = await introduced()
    west.store.lose()
    await east.send("west")
    assert await cached(west, KEYS) == KEYS
    east.clock.advance(ASK_S)
    await east.send("west")
    assert await cached(west, KEYS) == []
    assert east.sender("west").gaps == 2


async def test_paused_link_sends_nothing() -> None:
    """What waits is told nevertheless, and arrives when it goes on."""
    east, west = await introduced()
    await east.store.pause("west", paused=True)
    await invalidate(east, KEYS[0])
    await east.send("west")
    assert east.sender("west").state == "paused"
    assert east.sender("west").counters().lag_entries == 1
    assert await cached(west, KEYS) == KEYS
    await east.store.pause("west", paused=False)
    await east.send("west")
    assert await cached(west, KEYS) == KEYS[1:]


async def test_store_that_does_not_answer_is_waited_for() -> None:
    """The link goes on when it is back."""
    east, west = await introduced()
    east.store.down = True
    await east.send("west")
    assert east.sender("west").state == "no_store"
    east.store.down = False
    await invalidate(east, KEYS[0])
    await east.send("west")
    assert await cached(west, KEYS) == KEYS[1:]


async def test_region_that_refuses_is_told_apart() -> None:
    """Somebody has to look at the configuration."""
    east, _ = two_sites()
    sender = RegionSender("north", east.store, link_to(east, "north"), sender="a", clock=east.clock, lease_s=5.0)
    await sender.step()
    assert sender.state == "refused"
    assert "another region" in sender.why


async def test_sender_goes_on_by_itself() -> None:
    """Its own node's entries wake it; it survives whatever a step raises."""
    east, west = await introduced()
    regions = east.regions["a"]
    regions.start()
    await invalidate(east, KEYS[0])
    await eventually(lambda: west.regions["a"].receiver.counters()[0].applied == 1)
    await regions.stop()
    assert await cached(west, KEYS) == KEYS[1:]
