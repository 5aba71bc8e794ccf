"""What every `L2Store` does, whichever holds the values."""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random

import pytest
from redis.asyncio import Redis

from cachenode.adapters.l2_chaos import ChaosL2
from cachenode.adapters.l2_memory import MemoryL2
from cachenode.adapters.l2_null import NullL2
from cachenode.adapters.l2_redis import RedisL2
from cachenode.adapters.redis_client import connect
from cachenode.adapters.redis_cluster import pipeline_of
from cachenode.adapters.redis_pipeline import raise_first
from cachenode.core.entries import L2Entry, L2Write
from cachenode.ports import L2Store
from cachenode_api.selectors import EVERYTHING, Selector, SelectorKind, make_selector
from tests.support.clock import ManualClock
from tests.support.redis_server import LEGS

NS = "users"
HIGH = (1 << 64) - 1

Pass = Callable[[float], Awaitable[None]]


class Store:
    """A store under test, and a way to let its time pass."""

    def __init__(self, l2: L2Store, let_pass: Pass) -> None:
        self.l2 = l2
        self.let_pass = let_pass

    async def put(self, key: bytes, value: bytes, version: int, *, ttl_s: float = math.inf, flags: int = 0) -> bool:
        (done,) = await self.l2.write(NS, [L2Write(key, value, flags, version, ttl_s)])
        return done

    async def get(self, key: bytes) -> L2Entry | None:
        (entry,) = await self.l2.read(NS, [key])
        return entry

    async def drop(self, key: bytes, version: int) -> bool:
        (done,) = await self.l2.drop(NS, [(key, version)])
        return done


def memory_store(*, chaos: bool) -> Store:
    clock = ManualClock()

    async def let_pass(seconds: float) -> None:
        clock.advance(seconds)

    memory = MemoryL2(clock)
    return Store(ChaosL2(memory, Random(1)) if chaos else memory, let_pass)


async def shift_deadlines(client: Redis, pattern: str, seconds: float) -> None:
    """Let time pass on a real server: move the deadlines it keeps and those inside the envelopes."""
    script = """
    for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
      local left = redis.call('PTTL', key)
      if left >= 0 then
        local raw = redis.call('GET', key)
        if #raw >= 18 then
          local deadline = struct.unpack('>I8', raw, 11) - ARGV[2]
          redis.call('SET', key, string.sub(raw, 1, 10) .. struct.pack('>I8', deadline) .. string.sub(raw, 19))
        end
        redis.call('PEXPIRE', key, left - ARGV[2])
      end
    end
    """
    for server in await pipeline_of(client).all():
        raise_first(await server.round_trip([("EVAL", script, 0, pattern, round(seconds * 1_000))]))


@pytest.fixture(params=["memory", "chaos", *LEGS, "cluster"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Each implementation in turn."""
    if request.param in {"memory", "chaos"}:
        yield memory_store(chaos=request.param == "chaos")
        return
    url = request.getfixturevalue("server_urls")(request.param)
    cluster = f"t{secrets.token_hex(6)}"
    client = connect(url, timeout_s=5.0, connect_timeout_s=5.0)

    async def let_pass(seconds: float) -> None:
        await shift_deadlines(client, f"cn:{cluster}:*", seconds)

    l2 = RedisL2(client, cluster, timeout_s=5.0)
    yield Store(l2, let_pass)
    await l2.close()


async def test_absent(store: Store) -> None:
    """A key that was never written is absent."""
    assert await store.get(b"k") is None


async def test_reads_what_was_written(store: Store) -> None:
    """Value, flags, version and endless life come back as they went in, whatever bytes they have."""
    value = bytes(range(256)) * 3
    assert await store.put(b"k\x00\xff", value, HIGH, flags=0xDEADBEEF)
    assert await store.get(b"k\x00\xff") == L2Entry(value, 0xDEADBEEF, HIGH, math.inf)


async def test_empty_value(store: Store) -> None:
    """A value of no bytes is a value."""
    await store.put(b"k", b"", 1)
    assert await store.get(b"k") == L2Entry(b"", 0, 1, math.inf)


async def test_results_are_in_order(store: Store) -> None:
    """Many keys of one call, some absent and some twice, are answered in the order of the call."""
    await store.l2.write(NS, [L2Write(b"a", b"1", 0, 1, 60), L2Write(b"b", b"2", 0, 2, 60)])
    entries = await store.l2.read(NS, [b"b", b"x", b"a", b"b"])
    assert [entry and entry.value for entry in entries] == [b"2", None, b"1", b"2"]


async def test_no_keys(store: Store) -> None:
    """A call without keys has an empty result."""
    assert await store.l2.read(NS, []) == []
    assert await store.l2.write(NS, []) == []
    assert await store.l2.drop(NS, []) == []


async def test_namespaces_are_apart(store: Store) -> None:
    """The same key in two namespaces is two entries, also when namespace and key run together to the same text."""
    await store.l2.write("a", [L2Write(b"b:c", b"1", 0, 1, 60)])
    assert await store.l2.read("a.b", [b"c"]) == [None]
    assert await store.l2.read("b", [b"b:c"]) == [None]
    assert (await store.l2.read("a", [b"b:c"]))[0] is not None


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (1, 2),
        (255, 256),
        (2**31, 2**32),
        (2**53, 2**53 + 1),
        (2**63 - 1, 2**63),
        (0x00FF << 48, 0x0100 << 48),
        (0, HIGH),
    ],
)
async def test_newer_wins_and_older_is_refused(store: Store, older: int, newer: int) -> None:
    """Versions are compared as 64-bit numbers, over the whole range; the same version again is refused too."""
    assert await store.put(b"k", b"old", older)
    assert await store.put(b"k", b"new", newer)
    assert not await store.put(b"k", b"old", older)
    assert not await store.put(b"k", b"other", newer)
    entry = await store.get(b"k")
    assert entry is not None
    assert (entry.value, entry.version) == (b"new", newer)


async def test_one_call_with_two_versions_of_a_key(store: Store) -> None:
    """Writes of one call take effect in order."""
    writes = [L2Write(b"k", b"2", 0, 2, 60), L2Write(b"k", b"1", 0, 1, 60), L2Write(b"k", b"3", 0, 3, 60)]
    assert await store.l2.write(NS, writes) == [True, False, True]


async def test_drop_tells_whether_a_value_was_there(store: Store) -> None:
    """A drop reports True for a live value, False for nothing and for a tombstone."""
    await store.put(b"k", b"v", 5)
    assert await store.drop(b"k", 6)
    assert await store.get(b"k") is None
    assert not await store.drop(b"k", 7)
    assert not await store.drop(b"other", 1)


async def test_drop_is_unconditional(store: Store) -> None:
    """A drop with a lower version removes a newer value all the same, and the tombstone keeps the higher version."""
    await store.put(b"k", b"v", 2**40)
    assert await store.drop(b"k", 3)
    assert await store.get(b"k") is None
    assert not await store.put(b"k", b"v", 2**40)
    assert await store.put(b"k", b"v", 2**40 + 1)


async def test_tombstone_refuses_older_and_allows_newer(store: Store) -> None:
    """After a drop a write that began before it is refused, one that began after it is stored."""
    await store.drop(b"k", 10)
    assert not await store.put(b"k", b"older", 9)
    assert not await store.put(b"k", b"same", 10)
    assert await store.get(b"k") is None
    assert await store.put(b"k", b"newer", 11)
    assert (await store.get(b"k")) is not None


async def test_tombstone_keeps_its_own_version_over_a_lower_one(store: Store) -> None:
    """A second drop with a lower version does not make the tombstone weaker."""
    await store.drop(b"k", 10)
    await store.drop(b"k", 4)
    assert not await store.put(b"k", b"v", 9)


async def test_tombstone_ends(store: Store) -> None:
    """A tombstone refuses for a minute, not for ever."""
    await store.drop(b"k", 10)
    await store.let_pass(55)
    assert not await store.put(b"k", b"v", 9)
    await store.let_pass(6)
    assert await store.put(b"k", b"v", 9)


async def test_life_gets_shorter_and_ends(store: Store) -> None:
    """The remaining life counts down; at its end the value is absent and its version forgotten."""
    await store.put(b"k", b"v", 5, ttl_s=100)
    entry = await store.get(b"k")
    assert entry is not None
    assert 90 < entry.ttl_s <= 100.001
    await store.let_pass(60)
    entry = await store.get(b"k")
    assert entry is not None
    assert 30 < entry.ttl_s <= 40.001
    await store.let_pass(41)
    assert await store.get(b"k") is None
    assert await store.put(b"k", b"v", 1)


async def test_a_write_replaces_the_life(store: Store) -> None:
    """A newer write brings its own life, also an endless one."""
    await store.put(b"k", b"v", 1, ttl_s=10)
    await store.put(b"k", b"w", 2)
    await store.let_pass(20)
    assert await store.get(b"k") == L2Entry(b"w", 0, 2, math.inf)


async def test_drop_of_an_expired_value(store: Store) -> None:
    """An expired value counts as absent."""
    await store.put(b"k", b"v", 1, ttl_s=10)
    await store.let_pass(11)
    assert not await store.drop(b"k", 2)


async def test_very_long_life(store: Store) -> None:
    """A life of centuries is stored as a long one."""
    assert await store.put(b"k", b"v", 1, ttl_s=1e12)
    entry = await store.get(b"k")
    assert entry is not None
    assert entry.ttl_s > 86_400 * 365


@pytest.mark.parametrize("position", [0, 1, 2**53 + 1, HIGH])
async def test_position_comes_back(store: Store, position: int) -> None:
    """An entry says at which position of the barriers its write began; a newer write brings its own."""
    await store.l2.write(NS, [L2Write(b"k", b"v", 7, 1, 60.0, position)])
    entry = await store.get(b"k")
    assert entry is not None
    assert (entry.value, entry.flags, entry.position) == (b"v", 7, position)
    await store.put(b"k", b"w", 2)
    entry = await store.get(b"k")
    assert entry is not None
    assert entry.position == 0


def prefix(text: bytes) -> Selector:
    return make_selector(SelectorKind.PREFIX, text)


async def test_no_barriers(store: Store) -> None:
    """A store that was told of none has none."""
    assert await store.l2.barriers() == []
    await store.l2.note_barriers(NS, [])
    assert await store.l2.barriers() == []


async def test_barriers_come_back(store: Store) -> None:
    """Every kind of selector, with any bytes, comes back with its namespace and position."""
    selectors = [
        prefix(b"\0\xff:"),
        make_selector(SelectorKind.GLOB, b"user:[0-9]*"),
        make_selector(SelectorKind.TAG, "größe".encode()),
        make_selector(SelectorKind.NAMESPACE, EVERYTHING),
    ]
    await store.l2.note_barriers(NS, [(HIGH - at, selector) for at, selector in enumerate(selectors)])
    await store.l2.note_barriers("other", [(5, prefix(b"\0\xff:"))])
    expected = [(NS, HIGH - at, selector) for at, selector in enumerate(selectors)]
    found = await store.l2.barriers()
    assert sorted(found, key=repr) == sorted([*expected, ("other", 5, prefix(b"\0\xff:"))], key=repr)


@pytest.mark.parametrize(
    ("older", "newer"),
    [(1, 2), (9, 10), (2**53, 2**53 + 1), (10**10 - 1, 10**10), (2**63 - 1, 2**63), (0, HIGH)],
)
async def test_newer_barrier_wins(store: Store, older: int, newer: int) -> None:
    """A selector has one place, with its highest position; an older one does not lower it, over the whole range."""
    for position in (older, newer, older):
        await store.l2.note_barriers(NS, [(position, prefix(b"k"))])
    assert await store.l2.barriers() == [(NS, newer, prefix(b"k"))]


async def test_barriers_are_no_values(store: Store) -> None:
    """What the store keeps about barriers is found under no key."""
    await store.l2.note_barriers(NS, [(1, prefix(b"k"))])
    assert await store.get(b"barriers") is None
    assert await store.l2.read("barriers", [b"", b"k"]) == [None, None]


async def test_value_is_prolonged(store: Store) -> None:
    """A value lives for so long from then on, with all else as it was; an end never becomes earlier."""
    await store.l2.write(NS, [L2Write(b"k", b"v", 5, 7, 10.0, 3)])
    assert await store.l2.prolong(NS, [(b"k", 7, 60.0)]) == [True]
    assert await store.l2.prolong(NS, [(b"k", 7, 20.0)]) == [False]
    await store.let_pass(30.0)
    entry = await store.get(b"k")
    assert entry is not None
    assert entry[:3] == (b"v", 5, 7)
    assert entry.position == 3
    assert entry.ttl_s == pytest.approx(30.0, abs=2.0)
    await store.let_pass(40.0)
    assert await store.get(b"k") is None


async def test_only_that_version_is_prolonged(store: Store) -> None:
    """Not what was written since or before, what was removed, nor what is not there."""
    await store.put(b"newer", b"v", 9, ttl_s=10.0)
    await store.put(b"gone", b"v", 7, ttl_s=10.0)
    await store.drop(b"gone", 7)
    lives = [(b"newer", 8, 60.0), (b"newer", 10, 60.0), (b"gone", 7, 60.0), (b"absent", 7, 60.0)]
    assert await store.l2.prolong(NS, lives) == [False] * 4
    await store.let_pass(20.0)
    assert await store.get(b"newer") is None
    assert await store.get(b"gone") is None


async def test_life_without_end_is_prolonged_to_and_not_cut(store: Store) -> None:
    """What does not expire stays so, and a value may come not to expire."""
    await store.put(b"for ever", b"v", HIGH)
    await store.put(b"k", b"v", 7, ttl_s=10.0)
    assert await store.l2.prolong(NS, [(b"for ever", HIGH, 10.0), (b"k", 7, math.inf)]) == [False, True]
    await store.let_pass(1_000.0)
    entries = await store.l2.read(NS, [b"for ever", b"k"])
    assert [entry and entry.ttl_s for entry in entries] == [math.inf, math.inf]


async def test_lock_is_held_by_one(store: Store) -> None:
    """While a token has a key's lock another does not get it; given back, it may have it."""
    assert await store.l2.lock(NS, b"k", b"one", 60.0)
    assert not await store.l2.lock(NS, b"k", b"two", 60.0)
    assert await store.l2.unlock(NS, b"k", b"one")
    assert await store.l2.lock(NS, b"k", b"two", 60.0)


async def test_lock_is_given_back_by_its_holder_alone(store: Store) -> None:
    """Another's token, and one that had the lock before, take nothing away."""
    assert not await store.l2.unlock(NS, b"k", b"one")
    await store.l2.lock(NS, b"k", b"one", 60.0)
    assert not await store.l2.unlock(NS, b"k", b"two")
    assert not await store.l2.lock(NS, b"k", b"two", 60.0)
    assert await store.l2.unlock(NS, b"k", b"one")
    assert not await store.l2.unlock(NS, b"k", b"one")


async def test_lock_ends(store: Store) -> None:
    """A lock whose life is over is free, and its former holder cannot take it from the next one."""
    await store.l2.lock(NS, b"k", b"one", 10.0)
    await store.let_pass(9.0)
    assert not await store.l2.lock(NS, b"k", b"two", 10.0)
    await store.let_pass(1.5)
    assert await store.l2.lock(NS, b"k", b"two", 10.0)
    assert not await store.l2.unlock(NS, b"k", b"one")
    assert not await store.l2.lock(NS, b"k", b"one", 10.0)


async def test_lock_is_prolonged_by_its_holder(store: Store) -> None:
    """Taken again by the same token, also if the first answer was lost, a lock lasts from then on."""
    await store.l2.lock(NS, b"k", b"one", 10.0)
    await store.let_pass(8.0)
    assert await store.l2.lock(NS, b"k", b"one", 10.0)
    await store.let_pass(8.0)
    assert not await store.l2.lock(NS, b"k", b"two", 10.0)
    await store.let_pass(3.0)
    assert await store.l2.lock(NS, b"k", b"two", 10.0)


async def test_locks_are_apart(store: Store) -> None:
    """Each key of each namespace has a lock of its own, whatever its bytes; a lock is found under no key as a value."""
    await store.l2.lock("a", b"b:\x00{c}", b"one", 60.0)
    assert await store.l2.lock("a", b"b:", b"two", 60.0)
    assert await store.l2.lock("a.b", b"\x00{c}", b"two", 60.0)
    assert await store.l2.read("a", [b"b:\x00{c}"]) == [None]
    assert await store.l2.write("a", [L2Write(b"b:\x00{c}", b"v", 0, 1, 60.0)]) == [True]
    assert await store.l2.drop("a", [(b"b:\x00{c}", 2)]) == [True]
    assert not await store.l2.lock("a", b"b:\x00{c}", b"two", 60.0)


async def test_ping_and_close_twice(store: Store) -> None:
    """A store that is there answers; closing it again does nothing."""
    await store.l2.ping()
    await store.l2.close()
    await store.l2.close()


async def test_null_takes_everything_and_has_nothing() -> None:
    """The store of a node without L2 accepts writes, finds nothing, removes nothing."""
    null = NullL2()
    assert await null.write(NS, [L2Write(b"k", b"v", 0, 1, 60)] * 2) == [True, True]
    assert await null.read(NS, [b"k", b"l"]) == [None, None]
    assert await null.drop(NS, [(b"k", 2)]) == [False]
    assert await null.lock(NS, b"k", b"one", 60.0)
    assert await null.lock(NS, b"k", b"two", 60.0)
    assert await null.unlock(NS, b"k", b"one")
    assert await null.prolong(NS, [(b"k", 1, 60.0)]) == [False]
    await null.ping()
    await null.close()


async def test_walk_finds_all_keys(store: Store) -> None:
    """Each key of the namespace that has a value is returned, and none of another namespace's."""
    keys = {b"k%d" % number for number in range(1_200)} | {bytes([0, 255]), b"*"}
    await store.l2.write(NS, [L2Write(key, b"v", 0, 1, math.inf) for key in keys])
    await store.l2.write(f"{NS}2", [L2Write(b"other", b"v", 0, 1, math.inf)])
    await store.l2.note_barriers(NS, [(1, prefix(b"k"))])
    await store.l2.lock(NS, b"locked", b"one", 60.0)
    found: set[bytes] = set()
    cursor, steps = 0, 0
    while True:
        some, cursor = await store.l2.keys(NS, cursor)
        found.update(some)
        steps += 1
        if not cursor:
            break
    assert found == keys
    assert steps < 1_000
