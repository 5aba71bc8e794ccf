"""What every `RegionStore` does, whichever keeps the outbox."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random

import pytest

from cachenode.adapters.redis_client import connect
from cachenode.adapters.regions_chaos import ChaosRegions
from cachenode.adapters.regions_memory import MemoryRegions
from cachenode.adapters.regions_redis import RedisRegions
from cachenode.core.regions import Cursor, Outgoing, RegionEntry
from cachenode.errors import L2Unavailable
from cachenode.ports import RegionStore
from tests.support.clock import ManualClock
from tests.support.redis_server import LEGS

KEYS = RegionEntry("users", (b"a", b"\xff"), written=True)
TAG = RegionEntry("pages", (b"t", b"p"), (3, 1), expire=True)
MOST = 8


class Store:
    """A store under test, with ways to let its leases end and to have its server forget."""

    def __init__(
        self, store: RegionStore, end_leases: Callable[[], Awaitable[None]], lose: Callable[[], Awaitable[None]]
    ) -> None:
        self.store = store
        self.end_leases = end_leases
        self.lose = lose

    async def fetch(
        self, after: Cursor | None = None, *, remote: str = "west", sender: str = "a", most: int = 100
    ) -> Outgoing:
        found = await self.store.fetch(remote, sender, lease_s=30.0, after=after, most=most)
        assert found is not None
        return found

    async def append(self, count: int) -> None:
        for number in range(count):
            await self.store.append([RegionEntry("users", (b"%d" % number,))])


@pytest.fixture(params=["memory", "chaos", *LEGS, "cluster"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Each implementation in turn."""
    if request.param in {"memory", "chaos"}:
        clock = ManualClock()
        memory = MemoryRegions(clock, ["west", "south"], most=MOST)

        async def pass_time() -> None:
            clock.advance(31.0)

        async def lose() -> None:
            memory.lose()

        inner = ChaosRegions(memory, Random(1)) if request.param == "chaos" else memory
        yield Store(inner, pass_time, lose)
        return
    url = request.getfixturevalue("server_urls")(request.param)
    client, cluster = connect(url, timeout_s=5.0, connect_timeout_s=5.0), f"t{secrets.token_hex(6)}"

    leases = ["lease:west", "lease:south"]

    async def delete(*names: str) -> None:
        await client.delete(*(f"cn:{{{cluster}}}:regions:{name}" for name in names))

    real = RedisRegions(client, cluster, ["west", "south"], most=MOST, append_timeout_s=5.0, timeout_s=5.0)
    yield Store(real, lambda: delete(*leases), lambda: delete("outbox", "entries", "paused", "cursors", *leases))
    await real.close()


def numbers(found: Outgoing) -> list[int]:
    return [number for number, _ in found.entries]


async def test_entries_are_numbered_without_gaps(store: Store) -> None:
    """In the order in which they were appended, with all that they say."""
    empty = await store.fetch()
    assert (empty.head, empty.entries, empty.oldest_s) == (0, (), 0.0)
    await store.store.append([KEYS, TAG])
    await store.store.append([KEYS])
    found = await store.fetch()
    assert found.entries == ((1, KEYS), (2, TAG), (3, KEYS))
    assert (found.outbox, found.head, found.after, found.waiting) == (empty.outbox, 3, 0, 3)


async def test_appends_at_the_same_time_are_all_there(store: Store) -> None:
    """Each has a number of its own."""
    entries = [RegionEntry("users", (b"%d" % number,)) for number in range(MOST)]
    await asyncio.gather(*(store.store.append([entry]) for entry in entries))
    found = await store.fetch()
    assert numbers(found) == list(range(1, MOST + 1))
    assert sorted(entry for _, entry in found.entries) == sorted(entries)


async def test_only_what_comes_after_the_cursor_is_returned(store: Store) -> None:
    """And no more than was asked for."""
    await store.append(5)
    outbox = (await store.fetch()).outbox
    found = await store.fetch(Cursor(outbox, 2), most=2)
    assert (found.after, numbers(found), found.waiting) == (2, [3, 4], 3)


async def test_cursor_is_remembered_for_a_sender_that_does_not_know_it(store: Store) -> None:
    """So that it can tell how much waits before the other region has answered."""
    await store.append(5)
    outbox = (await store.fetch()).outbox
    await store.fetch(Cursor(outbox, 4))
    assert numbers(await store.fetch()) == [5]
    assert numbers(await store.fetch(Cursor("another", 1))) == [5]
    assert numbers(await store.fetch(Cursor(outbox, 99))) == [5]


async def test_what_all_have_acted_on_goes(store: Store) -> None:
    """And not before: a region that was never reached keeps everything."""
    await store.append(5)
    outbox = (await store.fetch()).outbox
    await store.fetch(Cursor(outbox, 4))
    assert numbers(await store.fetch(remote="south")) == [1, 2, 3, 4, 5]
    await store.fetch(Cursor(outbox, 3), remote="south")
    await store.fetch(Cursor(outbox, 0), remote="south")
    assert numbers(await store.fetch(remote="south")) == [4, 5]


async def test_outbox_is_bounded(store: Store) -> None:
    """Beyond its limit the oldest entries go; the numbers show it."""
    await store.append(MOST + 3)
    found = await store.fetch()
    assert found.head == MOST + 3
    assert numbers(found) == list(range(4, MOST + 4))


async def test_lost_outbox_is_another_one(store: Store) -> None:
    """Its numbers begin anew, under an id that was never used."""
    await store.append(3)
    ids = {(await store.fetch()).outbox}
    for _ in range(2):
        await store.lose()
        await store.append(1)
        found = await store.fetch()
        assert (found.head, numbers(found)) == (1, [1])
        ids.add(found.outbox)
    assert len(ids) == 3


async def test_outbox_that_was_lost_unseen_is_another_one(store: Store) -> None:
    """Also if nothing was appended since."""
    await store.append(3)
    before = await store.fetch()
    await store.lose()
    after = await store.fetch(Cursor(before.outbox, 3))
    assert after.outbox != before.outbox
    assert after.head == 0


async def test_one_sender_has_the_link_to_a_region(store: Store) -> None:
    """Until it gives it back or its lease ends; links to different regions have different senders."""
    await store.fetch(sender="a")
    await store.fetch(sender="a")
    assert await store.store.fetch("west", "b", lease_s=30.0, after=None, most=1) is None
    await store.fetch(sender="b", remote="south")
    await store.store.release("west", "b")
    assert await store.store.fetch("west", "b", lease_s=30.0, after=None, most=1) is None
    await store.store.release("west", "a")
    await store.fetch(sender="b")
    await store.end_leases()
    await store.fetch(sender="a")


async def test_pause_is_told_to_every_sender(store: Store) -> None:
    """For the one region, until it ends."""
    await store.store.pause("west", paused=True)
    await store.store.pause("west", paused=True)
    assert (await store.fetch()).paused
    assert not (await store.fetch(remote="south")).paused
    await store.store.pause("west", paused=False)
    assert not (await store.fetch()).paused


async def test_cursor_moves_only_from_where_it_is_known_to_be(store: Store) -> None:
    """Of two who act on the same, one learns that the other has been there."""
    first, second = Cursor("run:1", 0), Cursor("run:1", 7)
    assert await store.store.cursor("west") is None
    assert await store.store.advance("west", None, first)
    assert not await store.store.advance("west", None, second)
    assert await store.store.advance("west", first, second)
    assert not await store.store.advance("west", first, Cursor("run:1", 5))
    assert await store.store.cursor("west") == second
    assert await store.store.cursor("south") is None


async def test_lost_reply_is_not_a_lost_call() -> None:
    """A caller that gets no answer does not know which of them it was; down nothing is reached."""
    memory = MemoryRegions(ManualClock(), ["west"], most=MOST)
    chaos = ChaosRegions(memory, Random(1), lose_reply=1.0)
    with pytest.raises(L2Unavailable, match="reply"):
        await chaos.append([KEYS])
    chaos.lose_reply, chaos.lose_call = 0.0, 1.0
    with pytest.raises(L2Unavailable, match="call"):
        await chaos.append([TAG])
    chaos.lose_call, chaos.down = 0.0, True
    with pytest.raises(L2Unavailable, match="call"):
        await chaos.cursor("west")
    chaos.down = False
    found = await chaos.fetch("west", "a", lease_s=1.0, after=None, most=9)
    assert found is not None
    assert found.entries == ((1, KEYS),)
