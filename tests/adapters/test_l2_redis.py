"""What `RedisL2` does beyond the contract: shared round trips, and servers that fail in every way that one can."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from cachenode.adapters import l2_redis
from cachenode.adapters.epochs_redis import RedisEpochs
from cachenode.adapters.l2_redis import RedisL2
from cachenode.adapters.redis_client import connect
from cachenode.adapters.registry_redis import RedisRegistry
from cachenode.core import envelope
from cachenode.core.entries import L2Write
from cachenode.errors import ConfigError, L2Unavailable
from cachenode_api.selectors import EVERYTHING, Selector, SelectorKind, make_selector
from cachenode_api.view import Member
from tests.support.redis_server import OWN_LEGS, RedisServer, server

NS = "users"


@pytest.fixture(scope="module", params=OWN_LEGS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test harms."""
    with server(tmp_path_factory.mktemp("shared"), request.param) as running:
        yield running


@pytest.fixture(params=OWN_LEGS)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test, to freeze, kill, fill and restart."""
    with server(tmp_path, request.param, maxmemory_bytes=16 << 20) as running:
        yield running


def store_at(url: str, *, timeout_s: float = 5.0, cluster: str = "") -> RedisL2:
    client = connect(url, timeout_s=timeout_s, connect_timeout_s=timeout_s)
    return RedisL2(client, cluster or f"t{secrets.token_hex(6)}", timeout_s=timeout_s)


@pytest.fixture
async def store(shared: RedisServer) -> AsyncIterator[RedisL2]:
    l2 = store_at(shared.url, cluster="c")
    await l2._client.flushdb()
    yield l2
    await l2.close()


async def calls(client: Redis, *names: str) -> list[int]:
    """How often the server has executed each command."""
    stats = await client.info("commandstats")
    return [stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names]


def put(key: bytes, value: bytes, version: int, ttl_s: float = 60) -> L2Write:
    return L2Write(key, value, 0, version, ttl_s)


async def count_round_trips(store: RedisL2) -> list[int]:
    """Return a list that grows by the number of commands of each round trip."""
    sizes: list[int] = []
    pipeline: Any = store._pipeline
    original = pipeline.round_trip

    async def counting(commands: list[tuple[object, ...]]) -> list[object]:
        sizes.append(len(commands))
        return list(await original(commands))

    pipeline.round_trip = counting
    return sizes


async def test_readers_of_a_turn_share_one_mget(store: RedisL2) -> None:
    """64 readers of two namespaces cost the server one TIME and one MGET."""
    await store.write(NS, [put(b"k%d" % number, b"%d" % number, 1) for number in range(64)])
    await store.write("other", [put(b"k1", b"x", 1)])
    before = await calls(store._client, "time", "mget")
    results = await asyncio.gather(
        *(store.read(NS, [b"k%d" % number, b"absent"]) for number in range(64)), store.read("other", [b"k1"])
    )
    assert [entries[0] and entries[0].value for entries in results] == [*(b"%d" % n for n in range(64)), b"x"]
    assert all(entries[1] is None for entries in results[:64])
    after = await calls(store._client, "time", "mget")
    assert [new - old for old, new in zip(before, after, strict=True)] == [1, 1]


async def test_writers_of_a_turn_share_a_round_trip(store: RedisL2) -> None:
    """Writes and drops of one turn leave together, in order."""
    await store.write(NS, [put(b"warm", b"", 1)])
    sizes = await count_round_trips(store)
    written, dropped, again = await asyncio.gather(
        store.write(NS, [put(b"a", b"1", 5)]), store.drop(NS, [(b"a", 6)]), store.write(NS, [put(b"a", b"2", 7)])
    )
    assert (written, dropped, again) == ([True], [True], [True])
    assert sizes == [3]


async def test_a_big_call_is_split(store: RedisL2) -> None:
    """More keys than fit one pipeline, and more bytes, travel in several."""
    keys = [b"%d" % number for number in range(2_500)]
    assert all(await store.write(NS, [put(key, key, 1) for key in keys]))
    assert [entry and entry.value for entry in await store.read(NS, keys)] == keys
    sizes = await count_round_trips(store)
    assert await store.write(NS, [put(b"big%d" % number, bytes(1 << 20), 1) for number in range(6)]) == [True] * 6
    assert sizes == [3, 3]


async def test_cancelled_callers_leave_the_others_right(store: RedisL2) -> None:
    """Cancelling callers in the middle of round trips never gives anybody another's reply. Scenario 43."""
    await store.write(NS, [put(b"%d" % number, b"%d" % number, 1) for number in range(50)])
    for attempt in range(40):
        tasks = [asyncio.create_task(store.read(NS, [b"%d" % number])) for number in range(50)]
        for _ in range(attempt % 8):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for number, result in enumerate(results):
            if number % 2:
                assert isinstance(result, list)
                assert result[0] is not None
                assert result[0].value == b"%d" % number


async def test_round_trips_that_are_cancelled_leave_no_reply_to_others(own: RedisServer) -> None:
    """10,000 reads of a server that stalls now and then, so that round trips are cancelled: no reply is another's.

    Scenario 43. A connection on which a reply is still due is not used again.
    """
    asyncio.get_running_loop().set_debug(False)
    l2, other = store_at(own.url, timeout_s=0.02, cluster="c"), connect(own.url, timeout_s=5.0, connect_timeout_s=5.0)
    patient = store_at(own.url, cluster="c")
    await patient.write(NS, [put(b"%d" % number, b"%d" % number, 1) for number in range(1_000)])
    late = wrong = 0
    for burst in range(200):
        if burst % 4 == 0:
            await other.client_pause(30)
        numbers = range(burst % 20 * 50, burst % 20 * 50 + 50)
        results = await asyncio.gather(*(l2.read(NS, [b"%d" % number]) for number in numbers), return_exceptions=True)
        for number, result in zip(numbers, results, strict=True):
            if isinstance(result, list):
                wrong += result[0] is None or result[0].value != b"%d" % number
            else:
                assert isinstance(result, L2Unavailable), result
                late += 1
    assert wrong == 0
    assert late > 500, "else hardly any was cancelled"
    for each in (l2, patient):
        await each.close()
    await other.aclose()


async def test_stored_form(store: RedisL2) -> None:
    """Key and bytes are as documented, and the server drops the key by itself."""
    await store.write(NS, [L2Write(b"k:\xff", b"value", 7, 9, 30.0), L2Write(b"ever", b"", 0, 1, math.inf)])
    raw = await store._client.get(b"cn:c:users:k:\xff")
    assert isinstance(raw, bytes)
    seconds, micros = await store._client.time()
    entry = envelope.decode(raw, seconds * 1_000 + micros // 1_000)
    assert entry is not None
    assert entry[:3] == (b"value", 7, 9)
    assert 29_000 < await store._client.pttl(b"cn:c:users:k:\xff") <= 30_000
    assert await store._client.pttl(b"cn:c:users:ever") == -1
    assert await store._client.get(b"cn:c:users:ever") == envelope.encode(1, 0, 0, b"")
    await store.drop(NS, [(b"k:\xff", 10)])
    assert await store._client.get(b"cn:c:users:k:\xff") == envelope.head(10, kind=envelope.TOMBSTONE)
    assert 59_000 < await store._client.pttl(b"cn:c:users:k:\xff") <= 60_000


async def test_a_real_life_ends(store: RedisL2) -> None:
    """A value with a short life is gone after it, without anybody touching the key."""
    await store.write(NS, [put(b"k", b"v", 1, ttl_s=0.15)])
    deadline = time.monotonic() + 10
    while (await store.read(NS, [b"k"]))[0] is not None:
        assert time.monotonic() < deadline
    while await store._client.exists(b"cn:c:users:k"):
        assert time.monotonic() < deadline


@pytest.mark.parametrize("kind", ["list", "hash", "text", "empty", "flipped", "short"])
async def test_foreign_and_damaged_values_are_absent(store: RedisL2, kind: str) -> None:
    """What is not a whole envelope reads as absent beside good values, and can be overwritten and dropped."""
    await store.write(NS, [put(b"good", b"v", 1), put(b"k", b"v", 1)])
    name = "cn:c:users:k"
    raw = await store._client.get(name)
    assert isinstance(raw, bytes)
    values = {"text": b"hello", "empty": b"", "flipped": raw[:-1] + b"w", "short": raw[:5]}
    await store._client.delete(name)
    if kind == "list":
        await store._client.lpush(name, "x")
    elif kind == "hash":
        await store._client.hset(name, "x", "y")
    else:
        await store._client.set(name, values[kind])
    entries = await store.read(NS, [b"k", b"good"])
    assert entries[0] is None
    assert entries[1] is not None
    if kind == "list":
        assert await store.drop(NS, [(b"k", 1)]) == [False]
    assert await store.write(NS, [put(b"k", b"w", 2)]) == [True]
    assert (await store.read(NS, [b"k"]))[0] is not None


async def test_lost_scripts_are_loaded_again(store: RedisL2) -> None:
    """A server that forgot its scripts gets them within the same call, for every command of the batch."""
    await store.write(NS, [put(b"a", b"1", 1)])
    await store._client.script_flush()
    assert await store.write(NS, [put(b"a", b"0", 1), put(b"a", b"2", 2), put(b"b", b"3", 1)]) == [False, True, True]
    await store._client.script_flush()
    assert await store.drop(NS, [(b"a", 3), (b"x", 1)]) == [True, False]


async def test_full_server_forgets_instead_of_failing(own: RedisServer) -> None:
    """A server without room takes a write as a drop: it holds nothing older than what was acknowledged. Scenario 40."""
    l2 = store_at(own.url)
    await l2.write(NS, [put(b"k", b"old", 1, ttl_s=math.inf)])
    await l2._client.config_set("maxmemory-policy", "noeviction")
    await l2._client.config_set("maxmemory", 1)
    assert await l2.write(NS, [put(b"k", b"new", 2, ttl_s=math.inf)]) == [True]
    assert await l2.read(NS, [b"k"]) == [None]
    assert await l2.drop(NS, [(b"k", 3)]) == [False]
    assert await l2.lock(NS, b"k", b"one", 60.0)
    await l2._client.config_set("maxmemory", 0)
    assert await l2.write(NS, [put(b"k", b"late", 2), put(b"k", b"newest", 4)]) == [False, True]
    await l2.close()


async def test_lock_survives_what_others_do(store: RedisL2) -> None:
    """A server that has lost its scripts gets them again; a key of another type at a lock's place is another's lock."""
    await store._client.script_flush()
    assert await store.lock(NS, b"k", b"one", 60.0)
    await store._client.script_flush()
    assert await store.unlock(NS, b"k", b"one")
    await store._client.rpush("cn:c:.lock:users:k", "not ours")
    assert not await store.lock(NS, b"k", b"one", 60.0)
    assert not await store.unlock(NS, b"k", b"one")


async def test_short_memory_costs_values_and_nothing_else(own: RedisServer) -> None:
    """A server that evicts keeps members, epochs and barriers, and answers with the newest value or none. Scenario 40.

    What it evicts are values and tombstones, which expire: that is why `volatile-lru` is asked for.
    """
    asyncio.get_running_loop().set_debug(False)
    l2 = store_at(own.url, cluster="c")
    clients = [connect(own.url, timeout_s=5.0, connect_timeout_s=5.0) for _ in range(2)]
    registry, epochs = RedisRegistry(clients[0], "c", lease_s=600.0, timeout_s=5.0), RedisEpochs(clients[1], "c")
    members = [Member(name, "1", f"{name}:7401") for name in ("a", "b")]
    view = (await registry.renew(members[0], None)).view
    view = (await registry.renew(members[1], view)).view
    before = await epochs.after(41)
    await l2.note_barriers(NS, [(number, tag(number)) for number in range(1, 101)])
    noted = await l2.barriers()
    newest: dict[bytes, bytes | None] = {}
    rng = Random(40)
    for version in range(1, 151):
        keys = [b"%d" % number for number in rng.sample(range(10_000), 200)]
        values = [b"%s %d " % (key, version) + bytes(2_000) for key in keys]
        await l2.write(NS, [put(key, value, version) for key, value in zip(keys, values, strict=True)])
        newest.update(zip(keys, values, strict=True))
        removed = rng.sample(sorted(newest), 20)
        await l2.drop(NS, [(key, version) for key in removed])
        newest.update(dict.fromkeys(removed))
        asked = rng.sample(sorted(newest), min(len(newest), 100))
        found = await l2.read(NS, asked)
        stale = [key for key, entry in zip(asked, found, strict=True) if entry and entry.value != newest[key]]
        assert stale == []
    assert (await l2._client.info("stats"))["evicted_keys"] > 1_000
    assert sorted(await l2.barriers()) == sorted(noted)
    assert (await registry.renew(members[0], view)).view == view
    assert (before, await epochs.after(0)) == ((42, True), (43, True))
    await asyncio.gather(l2.close(), registry.close(), epochs.close())


async def test_frozen_server_costs_the_limit(own: RedisServer) -> None:
    """All calls to a frozen server end with `L2Unavailable` at about the limit, and work again when it thaws.

    Scenario 39.
    """
    l2 = store_at(own.url, timeout_s=0.2)
    await until_it_works(l2)
    own.freeze()
    began = time.monotonic()
    work = [l2.read(NS, [b"%d" % number]) for number in range(100)]
    results = await asyncio.gather(*work, l2.write(NS, [put(b"k", b"v", 1)]), l2.ping(), return_exceptions=True)
    assert {type(result) for result in results} == {L2Unavailable}
    assert 0.15 < time.monotonic() - began < 1.5
    for _ in range(3):  # with new connections, which a frozen server accepts and does not greet
        began = time.monotonic()
        with pytest.raises(L2Unavailable, match="no answer within 200 ms"):
            await l2.read(NS, [b"k"])
        assert time.monotonic() - began < 1.5
    own.thaw()
    await until_it_works(l2)
    await l2.close()


async def test_late_write_of_a_frozen_server_does_not_undo_a_drop(own: RedisServer) -> None:
    """A write that timed out and is executed after all meets the tombstone of the replay."""
    l2 = store_at(own.url, timeout_s=0.2)
    await until_it_works(l2)
    own.freeze()
    with pytest.raises(L2Unavailable):
        await l2.write(NS, [put(b"k", b"late", 5)])
    own.thaw()
    await until_it_works(l2)
    await l2.drop(NS, [(b"k", 5)])
    assert await l2.write(NS, [put(b"k", b"late", 5)]) == [False]
    assert await l2.read(NS, [b"k"]) == [None]
    await l2.close()


async def test_killed_server_and_its_successor(own: RedisServer) -> None:
    """A killed server is `L2Unavailable` at once; the first call after its restart works, scripts included."""
    l2 = store_at(own.url)
    await asyncio.gather(*(until_it_works(l2) for _ in range(8)))
    own.kill()
    began = time.monotonic()
    for call in (l2.read(NS, [b"k"]), l2.write(NS, [put(b"k", b"v", 1)]), l2.drop(NS, [(b"k", 1)]), l2.ping()):
        with pytest.raises(L2Unavailable):
            await call
    assert time.monotonic() - began < 2.0
    own.restart()
    assert await l2.read(NS, [b"k"]) == [None]
    assert await l2.write(NS, [put(b"k", b"v", 1)]) == [True]
    await l2.close()


async def test_restart_between_calls_goes_unnoticed(own: RedisServer) -> None:
    """Idle connections that died with the server are replaced before they are used."""
    l2 = store_at(own.url)
    await asyncio.gather(*(l2.write(NS, [put(b"%d" % number, bytes(1 << 20), 1)]) for number in range(16)))
    own.restart()
    for _ in range(8):
        assert await l2.write(NS, [put(b"k", b"v", 1)]) in ([True], [False])
    await l2.close()


async def test_server_that_refuses_is_unavailable_without_details(own: RedisServer) -> None:
    """A complaint of the server (here: a read-only replica) is `L2Unavailable` and quotes neither key nor value."""
    l2 = store_at(own.url)
    await l2.ping()
    await l2._client.replicaof("127.0.0.1", "1")
    with pytest.raises(L2Unavailable, match=r"unavailable: \w+$"):
        await l2.write(NS, [put(b"secret-key", b"secret-value", 1)])
    await l2.close()


async def test_closed_store(shared: RedisServer) -> None:
    """After `close` every call is `L2Unavailable`; calls under way are ended."""
    l2 = store_at(shared.url)
    under_way = asyncio.create_task(l2.read(NS, [b"k"]))
    await asyncio.sleep(0)
    await l2.close()
    with pytest.raises(L2Unavailable, match="closed"):
        await under_way
    with pytest.raises(L2Unavailable, match="closed"):
        await l2.ping()


async def test_cluster_name_is_checked() -> None:
    """A name with a meaning in keys is refused."""
    with pytest.raises(ConfigError, match="cluster"):
        store_at("unix:///run/s", cluster="a:b")


async def until_it_works(l2: RedisL2) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            return await l2.ping()
        except L2Unavailable:
            assert time.monotonic() < deadline


# Barriers.

WHOLE = make_selector(SelectorKind.NAMESPACE, EVERYTHING)


def tag(number: int) -> Selector:
    return make_selector(SelectorKind.TAG, b"t%d" % number)


async def test_barriers_are_folded(store: RedisL2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many become one around the whole namespace each: all that they cover stays covered, the newer stay apart."""
    monkeypatch.setattr(l2_redis, "_MOST_BARRIERS", 10)
    for number in range(1, 11):
        await store.note_barriers(NS if number % 2 else "other", [(number, tag(number))])
    assert len(await store.barriers()) == 10
    await store.note_barriers(NS, [(11, tag(11))])
    found = sorted(await store.barriers(), key=lambda barrier: barrier[1])
    apart = [(NS if number % 2 else "other", number, tag(number)) for number in range(6, 12)]
    assert found == [("other", 4, WHOLE), (NS, 5, WHOLE), *apart]


async def test_folding_never_lowers_a_floor(store: RedisL2, monkeypatch: pytest.MonkeyPatch) -> None:
    """A barrier around the namespace that is newer than what is folded stays as it is."""
    monkeypatch.setattr(l2_redis, "_MOST_BARRIERS", 4)
    await store.note_barriers(NS, [(50, WHOLE)])
    await store.note_barriers(NS, [(number, tag(number)) for number in range(1, 5)])
    found = await store.barriers()
    assert (NS, 50, WHOLE) in found
    assert len(found) < 5


async def test_barriers_around_namespaces_alone_are_not_folded(store: RedisL2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nothing left to put together everything stays."""
    monkeypatch.setattr(l2_redis, "_MOST_BARRIERS", 2)
    for number in range(1, 7):
        await store.note_barriers(f"n{number}", [(number, WHOLE)])
    assert len(await store.barriers()) == 6


async def test_barrier_noted_during_the_folding_stays(store: RedisL2, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was noted anew after the folding has read it keeps its place: it covers more than the fold does."""
    await store.note_barriers(NS, [(number, tag(number)) for number in range(1, 9)])
    read = store.barriers

    async def read_and_note() -> list[tuple[str, int, Selector]]:
        found = await read()
        await store.note_barriers(NS, [(20, tag(1))])
        return found

    monkeypatch.setattr(store, "barriers", read_and_note)
    await store._fold_barriers()
    found = await read()
    assert (NS, 20, tag(1)) in found
    assert sorted(position for _, position, _ in found) == [4, 5, 6, 7, 8, 20]


async def test_folding_on_a_server_that_goes_away(own: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold that cannot be ended fails as every call does."""
    monkeypatch.setattr(l2_redis, "_MOST_BARRIERS", 2)
    store = store_at(own.url, timeout_s=0.2)
    await store.note_barriers(NS, [(1, tag(1)), (2, tag(2))])
    read = store.barriers

    async def read_and_kill() -> list[tuple[str, int, Selector]]:
        found = await read()
        own.kill()
        return found

    monkeypatch.setattr(store, "barriers", read_and_kill)
    with pytest.raises(L2Unavailable):
        await store.note_barriers(NS, [(3, tag(3))])
    await store.close()
