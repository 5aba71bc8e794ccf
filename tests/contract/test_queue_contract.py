"""What every `WriteQueue` does, whichever holds the writes."""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random

import pytest

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.adapters.l2_redis import RedisL2
from cachenode.adapters.queue_chaos import ChaosQueue
from cachenode.adapters.queue_memory import MemoryQueue
from cachenode.adapters.queue_redis import RedisQueue
from cachenode.adapters.redis_client import connect
from cachenode.core.entries import L2Write, QueuedWrite
from cachenode.core.queued import SHARDS, Outcome, Put, QueueStatus, shard_of
from cachenode.ports import L2Store, WriteQueue
from tests.support.clock import ManualClock
from tests.support.redis_server import LEGS

NS = "orders"
KEY = b"k"
SHARD = shard_of(KEY)
START = b"0-0"

Pass = Callable[[float], Awaitable[None]]


class Queue:
    """A queue under test with the shared store beside it, and a way to let leases end."""

    def __init__(self, queue: WriteQueue, l2: L2Store, let_pass: Pass) -> None:
        self.queue = queue
        self.l2 = l2
        self.let_pass = let_pass

    async def put(
        self, version: int, value: bytes | None = b"v", *, key: bytes = KEY, flags: int = 0, most: int = 100
    ) -> Put:
        (answer,) = await self.queue.put(NS, [QueuedWrite(key, value, flags, version)], most)
        return answer

    async def fetch(
        self, consumer: str = "a", *, claim: bytes = b"", most: int = 100, shard: int = SHARD
    ) -> list[bytes]:
        """Return the ids that a consumer gets, none if the shard is another's."""
        found = await self.queue.fetch(NS, shard, consumer, lease_s=5.0, most=most, claim=claim)
        return [id_ for id_, _, _ in found.entries]

    async def claim(self, consumer: str = "a") -> bytes:
        """Take the shard and return the id of its only entry."""
        await self.fetch(consumer, claim=START)
        (id_,) = await self.fetch(consumer)
        return id_

    async def version(self, key: bytes = KEY) -> int:
        """Return the version that is queued, 0 for none."""
        (write,) = await self.queue.newest(NS, [key])
        return 0 if write is None else write.version


@pytest.fixture(params=["memory", "chaos", *LEGS])
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[Queue]:
    """Each implementation in turn, on one server with the shared store."""
    if request.param in ("memory", "chaos"):
        clock = ManualClock()

        async def let_pass(seconds: float) -> None:
            clock.advance(seconds)

        l2 = MemoryL2(clock)
        memory = MemoryQueue(clock, l2)
        yield Queue(ChaosQueue(memory, Random(1)) if request.param == "chaos" else memory, l2, let_pass)
        return
    url, cluster = request.getfixturevalue("server_urls")(request.param), f"t{secrets.token_hex(4)}"
    client = connect(url, timeout_s=5.0, connect_timeout_s=5.0)

    async def shift_leases(seconds: float) -> None:
        script = """
        for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
          local lease = redis.call('GET', key)
          redis.call('SET', key, struct.pack('>I8', struct.unpack('>I8', lease) - ARGV[2]) .. string.sub(lease, 9))
        end
        """
        await client.eval(script, 0, f"cn:{cluster}:.wb.lease:*", round(seconds * 1_000))

    real = RedisQueue(connect(url, timeout_s=5.0, connect_timeout_s=5.0), cluster, put_timeout_s=5.0, timeout_s=5.0)
    store = RedisL2(connect(url, timeout_s=5.0, connect_timeout_s=5.0), cluster, timeout_s=5.0)
    yield Queue(real, store, shift_leases)
    await real.close()
    await store.close()
    await client.aclose()


async def test_write_is_queued_and_stored(queue: Queue) -> None:
    """A put queues the write and brings its value to the shared store in the same step."""
    assert await queue.put(7, b"value", flags=3) == Put(Outcome.QUEUED, found=False)
    assert await queue.queue.newest(NS, [b"other", KEY]) == [None, QueuedWrite(KEY, b"value", 3, 7)]
    (entry,) = await queue.l2.read(NS, [KEY])
    assert entry is not None
    assert (entry.value, entry.flags, entry.version, entry.ttl_s) == (b"value", 3, 7, math.inf)


async def test_removal_is_queued(queue: Queue) -> None:
    """A removal takes the value out of the shared store, and says whether there was one."""
    await queue.put(7)
    assert await queue.put(8, None) == Put(Outcome.REPLACED, found=True)
    assert await queue.queue.newest(NS, [KEY]) == [QueuedWrite(KEY, None, 0, 8)]
    assert await queue.l2.read(NS, [KEY]) == [None]
    assert await queue.put(9, None) == Put(Outcome.REPLACED, found=False)


@pytest.mark.parametrize("version", [1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 64) - 1])
async def test_only_newer_writes_are_taken(queue: Queue, version: int) -> None:
    """A write that is not newer than what is queued changes nothing, whatever the version's size."""
    await queue.put(version, b"kept")
    for late in {version, version - 1}:
        assert await queue.put(late, b"late") == Put(Outcome.SUPERSEDED)
        assert await queue.put(late, None) == Put(Outcome.SUPERSEDED)
    assert await queue.queue.newest(NS, [KEY]) == [QueuedWrite(KEY, b"kept", 0, version)]


async def test_write_older_than_the_stored_value_is_not_queued(queue: Queue) -> None:
    """What a former owner brings late is refused by the shared store's version, and is not queued either."""
    await queue.l2.write(NS, [L2Write(KEY, b"new", 0, 9, math.inf)])
    assert await queue.put(8, b"old") == Put(Outcome.SUPERSEDED)
    assert await queue.version() == 0
    await queue.l2.drop(NS, [(KEY, 20)])
    assert await queue.put(19, b"old") == Put(Outcome.SUPERSEDED)


async def test_one_entry_a_key(queue: Queue) -> None:
    """However often a key is written, it waits once, with its newest value."""
    assert [(await queue.put(version)).outcome for version in (1, 2, 3)] == [Outcome.QUEUED, *[Outcome.REPLACED] * 2]
    id_ = await queue.claim()
    assert await queue.version() == 3
    assert await queue.queue.done(NS, SHARD, "a", [(id_, KEY, 3)]) == [False]
    assert await queue.queue.status(NS) == QueueStatus(0, 0.0, 0)


async def test_newer_write_stays_queued(queue: Queue) -> None:
    """A write that came while an older one was on its way to the origin is not taken out with that."""
    await queue.put(1)
    id_ = await queue.claim()
    await queue.put(2)
    assert await queue.queue.done(NS, SHARD, "a", [(id_, KEY, 1)]) == [True]
    assert await queue.version() == 2
    assert await queue.queue.done(NS, SHARD, "a", [(id_, KEY, 2)]) == [False]
    assert await queue.version() == 0


async def test_full_queue_changes_nothing(queue: Queue) -> None:
    """A new key is refused when as many wait as may; a key that waits already is taken."""
    await queue.put(1, key=b"a", most=1)
    assert (await queue.put(2, key=b"b", most=1)).outcome is Outcome.FULL
    assert await queue.l2.read(NS, [b"b"]) == [None]
    assert await queue.version(b"b") == 0
    assert (await queue.put(3, key=b"a", most=1)).outcome is Outcome.REPLACED


async def test_shard_has_one_consumer(queue: Queue) -> None:
    """A shard is nobody else's before its lease ends, or is given back. What another says about it is refused."""
    await queue.put(1)
    id_ = await queue.claim("a")
    denied = await queue.queue.fetch(NS, SHARD, "b", lease_s=5.0, most=10, claim=START)
    assert not denied.held
    assert 0 < denied.free_in_s <= 5.0
    assert await queue.queue.done(NS, SHARD, "b", [(id_, KEY, 1)]) is None
    assert await queue.queue.bury(NS, SHARD, "b", [(id_, KEY, 1, 1, "no")]) is None
    assert await queue.version() == 1
    await queue.queue.release(NS, SHARD, "b")
    assert not (await queue.queue.fetch(NS, SHARD, "b", lease_s=5.0, most=0)).held
    await queue.queue.release(NS, SHARD, "a")
    assert await queue.fetch("b", claim=START) == [id_]


async def test_zombie_is_fenced(queue: Queue) -> None:
    """After a lease's end another consumer gets what was delivered; the former one can change nothing. Scenario 45."""
    await queue.put(1)
    id_ = await queue.claim("a")
    await queue.let_pass(5.1)
    assert await queue.queue.done(NS, SHARD, "a", [(id_, KEY, 1)]) is None
    assert await queue.fetch("b", claim=START) == [id_]
    assert await queue.queue.done(NS, SHARD, "a", [(id_, KEY, 1)]) is None
    assert await queue.queue.done(NS, SHARD, "b", [(id_, KEY, 1)]) == [False]


async def test_lost_answer_is_claimed_again(queue: Queue) -> None:
    """What a consumer was given and never heard of is given to it again when it claims."""
    await queue.put(1)
    id_ = await queue.claim()
    assert await queue.fetch() == []
    assert await queue.fetch(claim=START) == [id_]


async def test_claims_go_on_from_a_cursor(queue: Queue) -> None:
    """A claim of many entries is answered in parts, each entry once, and nothing is ever lost from the stream."""
    keys = [b"key-%d" % number for number in range(400)]
    mine = [key for key in keys if shard_of(key) == SHARD]
    await queue.queue.put(NS, [QueuedWrite(key, b"v", 0, 1) for key in keys], 1_000)
    await queue.fetch(claim=START)
    assert len(await queue.fetch(most=1_000)) == len(mine)
    cursor, lost = START, 0
    seen: list[bytes] = []
    while cursor:
        found = await queue.queue.fetch(NS, SHARD, "a", lease_s=5.0, most=7, claim=cursor)
        cursor, seen, lost = found.cursor, seen + [key for _, key, _ in found.entries], lost + found.lost
    assert sorted(seen) == sorted(mine)
    assert lost == 0


async def test_prolonging_takes_nothing(queue: Queue) -> None:
    """A fetch of no entries prolongs the lease only, and says how much waits; a claim goes on later."""
    await queue.put(1)
    found = await queue.queue.fetch(NS, SHARD, "a", lease_s=5.0, most=0, claim=START)
    assert (found.held, found.entries, found.cursor, found.waiting) == (True, (), START, 1)
    assert len(await queue.fetch()) == 1


async def test_dead_letters(queue: Queue) -> None:
    """A write that the origin refuses is moved aside with its value and the reason; the key waits no more."""
    await queue.put(1, b"12345", key=KEY)
    id_ = await queue.claim()
    assert await queue.queue.bury(NS, SHARD, "a", [(id_, KEY, 1, 5, "it violates a constraint")]) == [False]
    assert await queue.version() == 0
    (letter,) = await queue.queue.dead_letters(NS, b"", 10)
    assert letter[1:6] == (KEY, False, 1, 5, 5)
    assert letter.reason == "it violates a constraint"
    assert await queue.queue.dead_letters(NS, letter.id, 10) == []
    assert (await queue.queue.status(NS)).dead == 1
    assert (await queue.put(2, key=b"other", most=1)).outcome is Outcome.FULL
    assert await queue.queue.replay(NS, [letter]) == [True]
    assert await queue.queue.newest(NS, [KEY]) == [QueuedWrite(KEY, b"12345", 0, 1)]
    status = await queue.queue.status(NS)
    assert (status.waiting, status.dead) == (1, 0)
    assert await queue.queue.replay(NS, [letter]) == [False]


async def test_newer_write_outlives_a_dead_letter(queue: Queue) -> None:
    """A key whose write is buried while a newer one is queued stays queued, and the letter is never made."""
    await queue.put(1)
    id_ = await queue.claim()
    await queue.put(2)
    assert await queue.queue.bury(NS, SHARD, "a", [(id_, KEY, 1, 5, "no")]) == [True]
    assert await queue.version() == 2
    assert await queue.queue.dead_letters(NS, b"", 10) == []


async def test_replay_does_not_undo_a_newer_write(queue: Queue) -> None:
    """A dead letter whose key has a newer write in the queue is dropped when it is replayed."""
    await queue.put(1, None)
    id_ = await queue.claim()
    await queue.queue.bury(NS, SHARD, "a", [(id_, KEY, 1, 1, "no")])
    (letter,) = await queue.queue.dead_letters(NS, b"", 10)
    assert letter.removal
    await queue.put(2)
    assert await queue.queue.replay(NS, [letter]) == [False]
    assert await queue.version() == 2
    assert (await queue.queue.status(NS)).dead == 0


async def test_discarded_letters_are_gone(queue: Queue) -> None:
    """Discarding counts those that were there."""
    await queue.put(1)
    id_ = await queue.claim()
    await queue.queue.bury(NS, SHARD, "a", [(id_, KEY, 1, 1, "no")])
    letters = await queue.queue.dead_letters(NS, b"", 10)
    assert await queue.queue.discard(NS, letters) == 1
    assert await queue.queue.discard(NS, letters) == 0
    assert await queue.queue.discard(NS, []) == 0


async def test_newest_returns_fewer_rather_than_too_many_bytes(queue: Queue) -> None:
    """What would be too many bytes is cut off after a key, but never before the first."""
    keys = [b"a", b"b", b"c"]
    await queue.queue.put(NS, [QueuedWrite(key, b"x" * 1_000, 0, 1) for key in keys], 10)
    assert len(await queue.queue.newest(NS, keys, 10)) == 1
    assert len(await queue.queue.newest(NS, keys, 2_500)) == 2
    assert len(await queue.queue.newest(NS, keys)) == 3
    assert await queue.queue.newest(NS, []) == []


async def test_empty_queue(queue: Queue) -> None:
    """There is nothing to be had from a queue that nobody has written to, and nothing wrong with it."""
    assert await queue.queue.status(NS) == QueueStatus(0, 0.0, 0)
    for shard in range(SHARDS):
        assert await queue.fetch(claim=START, shard=shard) == []
        assert await queue.fetch(shard=shard) == []
    assert await queue.queue.done(NS, 0, "a", []) == []
    assert await queue.queue.bury(NS, 0, "a", []) == []
    assert await queue.queue.dead_letters(NS, b"", 10) == []
