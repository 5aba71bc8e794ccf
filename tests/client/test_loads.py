"""`get_or_load`, `get_or_load_many` and `cached` of both clients, against real nodes in this loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from cachenode.server import Server
from cachenode_api.records import HEADER
from cachenode_api.v1 import common_pb2 as pb
from cachenode_client import (
    ABSENT,
    CacheClient,
    CacheTimeout,
    CacheUnavailable,
    InvalidArgument,
    LoadFailed,
    ManyFailed,
    Unserializable,
)
from cachenode_client import blocking as threads
from tests.support.eventually import eventually
from tests.support.scripted_node import ScriptedNode, record
from tests.support.server import free_port, running_server


class Origin:
    """Something slow to load from; the test says when it answers."""

    def __init__(self, value: Any = "v") -> None:
        self.value = value
        self.calls = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> Any:
        self.calls += 1
        await self.go.wait()
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def waits(server: Server) -> int:
    """Return how many keys have waited for a load."""
    return server.node.namespaces.get("default").load_waits


async def test_absent_key_is_loaded_once_and_kept(cache: CacheClient) -> None:
    """The first call loads, later ones do not; value and TTL are those of the load."""
    origin = Origin({"name": "Ada", "none": None})
    assert await cache.get_or_load("k", origin, ttl_s=50) == {"name": "Ada", "none": None}
    assert await cache.get_or_load("k", origin) == {"name": "Ada", "none": None}
    assert origin.calls == 1
    assert 40 < (await cache.ttl("k") or 0) <= 50
    stats = cache.stats()
    assert (stats["loads"], stats["load_failures"], stats["hits"]) == (1, 0, 1)


async def test_none_is_a_value_and_absent_is_absent(cache: CacheClient) -> None:
    """A loaded None is kept; ABSENT is not, and gives the default."""
    nothing, none = Origin(ABSENT), Origin(None)
    assert await cache.get_or_load("none", none, default=7) is None
    assert await cache.get_or_load("none", none, default=7) is None
    assert await cache.get_or_load("nothing", nothing, default=7) == 7
    assert await cache.get_or_load("nothing", nothing) is None
    assert (none.calls, nothing.calls) == (1, 2)


async def test_a_crowd_loads_once(server: Server) -> None:
    """A hundred callers of ten clients cause one load, and all get its value."""
    origin = Origin()
    origin.go.clear()
    clients = [CacheClient(server.address, timeout_s=10) for _ in range(10)]
    calls = asyncio.gather(*(client.get_or_load("k", origin) for client in clients for _ in range(10)))
    await eventually(lambda: waits(server) == 99)
    origin.go.set()
    assert await calls == ["v"] * 100
    assert origin.calls == 1
    for client in clients:
        await client.aclose()


async def test_absent_reaches_those_who_wait(server: Server, cache: CacheClient) -> None:
    """If the load finds nothing, nobody who waited loads again."""
    origin = Origin(ABSENT)
    origin.go.clear()
    calls = asyncio.gather(*(cache.get_or_load("k", origin, default="none") for _ in range(5)))
    await eventually(lambda: waits(server) == 4)
    origin.go.set()
    assert await calls == ["none"] * 5
    assert origin.calls == 1


async def test_failure_is_raised_by_the_loader_and_told_to_the_others(server: Server, cache: CacheClient) -> None:
    """The caller whose loader raised gets its exception; the others get LoadFailed with its type and not its text."""
    origin = Origin(ValueError("secret"))
    origin.go.clear()
    calls = asyncio.gather(*(cache.get_or_load("k", origin) for _ in range(3)), return_exceptions=True)
    await eventually(lambda: waits(server) == 2)
    origin.go.set()
    results = await calls
    assert sorted(type(result).__name__ for result in results) == ["LoadFailed", "LoadFailed", "ValueError"]
    failed = [str(result) for result in results if isinstance(result, LoadFailed)]
    assert failed == ["the load failed: ValueError"] * 2
    with pytest.raises(LoadFailed, match="the next may begin in"):
        await cache.get_or_load("k", origin)
    assert origin.calls == 1
    assert cache.stats()["load_failures"] == 1
    origin.value = "better"
    server.node.namespaces.get("default").load_backoff.succeeded(b"k")  # as if the pause were over
    assert await cache.get_or_load("k", origin) == "better"


async def test_cancelled_leader_does_not_stop_the_load(server: Server, cache: CacheClient) -> None:
    """The caller that leads is cancelled: its load goes on, and those who wait get the value."""
    origin = Origin()
    origin.go.clear()
    leader = asyncio.create_task(cache.get_or_load("k", origin))
    await eventually(lambda: origin.calls)
    waiter = asyncio.create_task(cache.get_or_load("k", origin))
    await eventually(lambda: waits(server) == 1)
    leader.cancel()
    await asyncio.wait([leader])
    origin.go.set()
    assert await waiter == "v"
    assert origin.calls == 1


async def test_cancelled_waiter_is_not_made_leader(server: Server) -> None:
    """A lease that falls to a caller who no longer waits is given back at once, and another caller loads."""
    origin = Origin()
    origin.go.clear()
    first, second, third = (CacheClient(server.address, timeout_s=10) for _ in range(3))
    leader = asyncio.create_task(first.get_or_load("k", origin))
    await eventually(lambda: origin.calls == 1)
    gone = asyncio.create_task(second.get_or_load("k", origin))
    await eventually(lambda: waits(server) == 1)
    patient = asyncio.create_task(third.get_or_load("k", origin))
    await eventually(lambda: waits(server) == 2)
    gone.cancel()
    await asyncio.wait([gone])
    leader.cancel()
    await first.aclose()
    await eventually(lambda: origin.calls == 2)
    origin.go.set()
    assert await asyncio.wait_for(patient, 5) == "v"
    await second.aclose()
    await third.aclose()


async def test_client_that_dies_is_replaced(server: Server) -> None:
    """The leader's client ends without a word: another's caller loads at once."""
    stuck, origin = Origin(), Origin("second")
    stuck.go.clear()
    first, second = CacheClient(server.address, timeout_s=10), CacheClient(server.address, timeout_s=10)
    leader = asyncio.create_task(first.get_or_load("k", stuck, lease_s=60, timeout_s=60))
    await eventually(lambda: stuck.calls)
    waiter = asyncio.create_task(second.get_or_load("k", origin))
    await eventually(lambda: waits(server) == 1)
    await first.aclose()
    assert await asyncio.wait_for(waiter, 5) == "second"
    leader.cancel()
    await second.aclose()


async def test_slow_leader_is_replaced_at_the_leases_end(server: Server, cache: CacheClient) -> None:
    """A load that outlives its lease is not waited for, and what it brings then is not stored. Scenario 4."""
    slow, quick = Origin("old"), Origin("new")
    slow.go.clear()
    leader = asyncio.create_task(cache.get_or_load("k", slow, lease_s=0.05))
    await eventually(lambda: slow.calls)
    assert await cache.get_or_load("k", quick) == "new"
    slow.go.set()
    assert await leader == "old"
    assert await cache.get("k") == "new"


async def test_time_is_over(server: Server, cache: CacheClient) -> None:
    """Leader and waiter get a timeout in their time; nobody loads again because of it, and the load is kept."""
    origin = Origin()
    origin.go.clear()
    calls = [cache.get_or_load("k", origin, timeout_s=0.2, lease_s=30) for _ in range(3)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {CacheTimeout}
    assert origin.calls == 1
    origin.go.set()
    await eventually(lambda: len(server.node.namespaces.get("default").store))
    assert await cache.get("k") == "v"


async def test_loaders_own_timeout_is_the_callers(cache: CacheClient) -> None:
    """A TimeoutError of the loader comes through as it is."""
    with pytest.raises(TimeoutError, match="the origin's") as raised:
        await cache.get_or_load("k", Origin(TimeoutError("the origin's")))
    assert not isinstance(raised.value, CacheTimeout)


async def test_write_during_a_load_wins(cache: CacheClient) -> None:
    """The loader's caller gets what it loaded; the value written meanwhile stays."""
    origin = Origin("old")
    origin.go.clear()
    loading = asyncio.create_task(cache.get_or_load("k", origin))
    await eventually(lambda: origin.calls)
    await cache.set("k", "new")
    origin.go.set()
    assert await loading == "old"
    assert await cache.get("k") == "new"


async def test_sync_loader_runs_in_a_thread(cache: CacheClient) -> None:
    """A loader that is no async function may block; a lambda may return an awaitable."""
    here = threading.get_ident()
    assert await cache.get_or_load("ident", threading.get_ident) != here
    awaitable = Origin("awaited")()
    assert await cache.get_or_load("lambda", lambda: awaitable) == "awaited"


async def test_value_that_cannot_be_kept(server: Server, cache: CacheClient) -> None:
    """A loaded value that cannot be encoded is the caller's error, and the key can be loaded again."""
    with pytest.raises(Unserializable):
        await cache.get_or_load("k", Origin(object()))
    server.node.namespaces.get("default").load_backoff.succeeded(b"k")  # as if the pause were over
    assert await cache.get_or_load("k", Origin("v")) == "v"


async def test_wrong_arguments(cache: CacheClient) -> None:
    """Arguments are checked before anything is sent."""
    origin = Origin()
    with pytest.raises(InvalidArgument, match="lease_s: must be above 0"):
        await cache.get_or_load("k", origin, lease_s=0)
    with pytest.raises(InvalidArgument, match="ttl_s"):
        await cache.get_or_load("k", origin, ttl_s=-1)
    with pytest.raises(InvalidArgument, match="batch_loader: must return a mapping of keys to values, not list"):
        await cache.get_or_load_many(["k"], lambda _: [])  # type: ignore[arg-type]
    assert origin.calls == 0


@pytest.mark.parametrize("on_error", ["raise", "miss"])
async def test_without_a_cluster(on_error: Any) -> None:
    """Under "miss" a caller loads for itself when no node can be reached, else it gets the error."""
    origin = Origin()
    async with CacheClient(f"127.0.0.1:{free_port()}", timeout_s=0.2, on_error=on_error) as client:
        if on_error == "miss":
            assert await client.get_or_load("k", origin, timeout_s=5) == "v"
            assert await client.get_or_load_many(["a"], lambda keys: dict.fromkeys(keys, 1), timeout_s=5) == {"a": 1}
        else:
            with pytest.raises((CacheUnavailable, CacheTimeout)):
                await client.get_or_load("k", origin, timeout_s=1)
            assert origin.calls == 0


# Many.


async def test_many_load_their_misses_only(cache: CacheClient) -> None:
    """One call of the batch loader for all that is absent; what it leaves out is left out; keys come back as given."""
    await cache.set("there", 1)
    calls: list[list[Any]] = []

    async def load(keys: list[Any]) -> Mapping[Any, Any]:
        calls.append(keys)
        return {key: f"loaded {key!r}" for key in keys if key != "nowhere"}

    keys: list[str | bytes] = ["there", "a", b"b", "nowhere", "a"]
    assert await cache.get_or_load_many(keys, load, ttl_s=50) == {"there": 1, "a": "loaded 'a'", b"b": "loaded b'b'"}
    assert calls == [["a", b"b", "nowhere"]]
    assert await cache.get_many(["a", "b", "nowhere"]) == {"a": "loaded 'a'", "b": "loaded b'b'"}


async def test_many_share_what_others_load(server: Server, cache: CacheClient) -> None:
    """Two batches that overlap load each key once, whoever comes first, and neither waits for ever."""
    go, loaded = asyncio.Event(), list[list[str]]()

    async def load(keys: list[str]) -> Mapping[str, Any]:
        loaded.append(keys)
        await go.wait()
        return {key: key.upper() for key in keys}

    async with CacheClient(server.address, timeout_s=10) as other:
        first = asyncio.create_task(cache.get_or_load_many(["a", "b"], load))
        await eventually(lambda: len(loaded) == 1)
        second = asyncio.create_task(other.get_or_load_many(["b", "c"], load))
        await eventually(lambda: len(loaded) == 2)
        go.set()
        assert await first == {"a": "A", "b": "B"}
        assert await second == {"b": "B", "c": "C"}
    assert loaded == [["a", "b"], ["c"]]


async def test_many_with_a_failure_elsewhere(server: Server, cache: CacheClient) -> None:
    """A key whose load fails at another caller fails alone; the others are there."""
    origin = Origin(ValueError())
    origin.go.clear()
    leader = asyncio.create_task(cache.get_or_load("bad", origin))
    await eventually(lambda: origin.calls)
    many = asyncio.create_task(cache.get_or_load_many(["bad", "good"], lambda keys: dict.fromkeys(keys, 1)))
    await eventually(lambda: waits(server) == 1)
    origin.go.set()
    with pytest.raises(ManyFailed) as raised:
        await many
    assert raised.value.results == {"good": 1}
    assert isinstance(raised.value.errors["bad"], LoadFailed)
    with pytest.raises(ValueError):
        await leader


async def test_batch_loader_that_raises(cache: CacheClient) -> None:
    """Its exception is raised as it is."""

    def load(keys: list[str]) -> Mapping[str, Any]:
        raise LookupError(len(keys))

    with pytest.raises(LookupError, match="2"):
        await cache.get_or_load_many(["a", "b"], load)


# The decorator.


async def test_cached_functions(cache: CacheClient) -> None:
    """Arguments make the key, defaults included; `key` tells it and `forget` removes the value."""
    calls: list[Any] = []

    @cache.cached("sum:{a}:{b}", ttl_s=50)
    async def add(a: int, b: int = 2) -> int:
        """Add."""
        calls.append((a, b))
        return a + b

    assert [await add(1), await add(1, 2), await add(a=1), await add(1, b=3)] == [3, 3, 3, 4]
    assert calls == [(1, 2), (1, 3)]
    assert (add.key(1), add.__name__, add.__doc__) == ("sum:1:2", "add", "Add.")
    assert await cache.get("sum:1:2") == 3
    assert await add.forget(1) is True
    assert await add(1) == 3
    assert len(calls) == 3


async def test_cached_methods_and_sync_functions(cache: CacheClient) -> None:
    """A method sees its object; a function that is not async runs in a thread and is awaited."""

    class Users:
        def __init__(self, name: str) -> None:
            self.name = name

        @cache.cached("user:{self.name}:{number}")
        def load(self, number: int) -> str:
            return f"{self.name}{number}"

    assert await Users("a").load(1) == "a1"
    assert await Users("b").load(number=1) == "b1"
    assert Users("b").load.key(1) == "user:b:1"
    assert await Users("b").load.forget(1) is True


@pytest.mark.parametrize("key", ["user:{name}", "user:{}", "user:{"])
async def test_cached_key_that_cannot_be(cache: CacheClient, key: str) -> None:
    """A key that names what is not a parameter is refused when the function is defined."""
    with pytest.raises(InvalidArgument, match="key: "):

        @cache.cached(key)
        def load(number: int) -> int:
            return number


# Threads.


async def test_threads_load_once(server: Server) -> None:
    """Threads of one client wait for the one that loads; its loader runs in its own thread."""
    loaded_in: list[str] = []
    go = threading.Event()

    def load() -> str:
        loaded_in.append(threading.current_thread().name)
        go.wait(10)
        return "v"

    def work() -> None:
        with threads.CacheClient(server.address, timeout_s=10) as client:
            results: list[Any] = []
            workers = [
                threading.Thread(target=lambda: results.append(client.get_or_load("k", load)), name=f"caller-{number}")
                for number in range(8)
            ]
            for worker in workers:
                worker.start()
            while client.stats()["loads"] == 0 or waits(server) < 7:
                threading.Event().wait(0.005)
            assert client.set("other", 1) > 0, "a load under way holds up nobody else"
            go.set()
            for worker in workers:
                worker.join(10)
            assert results == ["v"] * 8
            assert client.stats()["loads"] == 1

    await asyncio.wait_for(asyncio.to_thread(work), 30)
    assert len(loaded_in) == 1
    assert loaded_in[0].startswith("caller-")


async def test_threads_every_way_of_loading(server: Server) -> None:
    """The blocking client's methods do what those of the asyncio client do."""

    def fail() -> None:
        raise ValueError("secret")

    def work() -> None:
        with threads.CacheClient(server.address, timeout_s=10) as client:
            client.set("there", 1)
            assert client.get_or_load("none", lambda: None, default=3) is None
            assert client.get_or_load("nothing", lambda: ABSENT, default=3) == 3
            keys = ["there", "a", "nowhere"]
            assert client.get_or_load_many(keys, lambda keys: {key: key for key in keys if key == "a"}) == {
                "there": 1,
                "a": "a",
            }
            with pytest.raises(ValueError, match="secret"):
                client.get_or_load("bad", fail)
            with pytest.raises(LoadFailed):
                client.get_or_load("bad", fail)

            @client.cached("double:{number}")
            def double(number: int) -> int:
                return 2 * number

            assert [double(4), double(4)] == [8, 8]
            assert double.forget(4) is True
            with pytest.raises((CacheTimeout, ManyFailed)):  # of the call, or of its one key
                client.get_or_load_many(["held"], lambda _: {}, timeout_s=0.2)

    held = Origin()
    held.go.clear()
    async with CacheClient(server.address, timeout_s=10) as other:
        leader = asyncio.create_task(other.get_or_load("held", held))
        await eventually(lambda: held.calls)
        await asyncio.wait_for(asyncio.to_thread(work), 30)
        held.go.set()
        await leader


# What goes over the wire.


async def test_waiting_for_a_load_holds_nobody_up(scripted: ScriptedNode) -> None:
    """While a LEASE waits, other calls leave at once, alone or in halves, as if it were not there."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        loads = asyncio.gather(*(client.get_or_load(f"load{at}", Origin()) for at in range(40)))
        leases = [await scripted.next_batch() for _ in range(2)]
        assert [(lease.operation, len(lease.keys), lease.lease_ms) for lease in leases] == [
            (pb.OPERATION_LEASE, 20, 10_000)
        ] * 2
        lone = asyncio.create_task(client.get("lone"))
        await scripted.answer([b"found"])
        assert await lone == b"found"
        crowd = asyncio.gather(*(client.get(f"key{at}") for at in range(40)))
        for _ in range(2):
            half = await scripted.next_batch()
            assert len(half.keys) == 20
            await scripted.reply(half, records=[record(b"x")] * 20)
        await crowd
        more = asyncio.gather(*(client.get_or_load(f"more{at}", Origin()) for at in range(40)))
        leases.append(await scripted.next_batch())
        assert len(leases[2].keys) == 40, "others wait for loads already"
        for lease in leases:
            await scripted.reply(lease, records=[record(b"x")] * len(lease.keys))
        assert await more == [b"x"] * 40
        assert await loads == [b"x"] * 40


# Values that are loaded anew before they end.


@pytest.fixture
async def renewing() -> AsyncIterator[Server]:
    """A node whose loaded values are due after the first part of their lives."""
    async with running_server(namespaces__default__refresh_ahead=0.9) as server:
        yield server


async def due(server: Server, key: bytes = b"k") -> None:
    """Wait until a value is due."""
    namespace = server.node.namespaces.get("default")
    record = namespace.store.peek(key, server.node.clock.now())
    assert record is not None
    due_at, _ = namespace.renewals.ends(key, HEADER.unpack_from(record)[2])
    await eventually(lambda: server.node.clock.now() > due_at)


@pytest.mark.parametrize("many", [False, True])
async def test_value_is_loaded_anew_in_the_background(renewing: Server, many: bool) -> None:
    """The caller is given what is there at once, though the origin does not answer yet; later callers get the new."""
    origin = Origin("old")
    async with CacheClient(renewing.address, timeout_s=10) as cache:

        async def load_all(keys: list[str]) -> dict[str, Any]:
            return dict.fromkeys(keys, await origin())

        async def read() -> Any:
            if many:
                return (await cache.get_or_load_many(["k"], load_all, ttl_s=1))["k"]
            return await cache.get_or_load("k", origin, ttl_s=1)

        assert await read() == "old"
        await due(renewing)
        origin.value = "new"
        origin.go.clear()
        assert [await read() for _ in range(3)] == ["old"] * 3
        await eventually(lambda: origin.calls == 2)
        origin.go.set()
        await eventually(lambda: renewing.node.namespaces.get("default").sets == 2)
        assert await read() == "new"
        assert cache.stats()["loads"] == 2
    assert renewing.stats().namespaces[0].renewals == 1


async def test_failed_renewal_is_counted(renewing: Server) -> None:
    """Nobody gets the exception of a loader that ran in the background; the owner knows, and the value is served on."""
    origin = Origin("old")
    async with CacheClient(renewing.address, timeout_s=10) as cache:
        assert await cache.get_or_load("k", origin, ttl_s=10) == "old"
        await due(renewing)
        origin.value = OSError("no")
        assert await cache.get_or_load("k", origin) == "old"
        await eventually(lambda: renewing.node.namespaces.get("default").load_failures == 1)
        assert cache.stats()["load_failures"] == 1
        assert await cache.get_or_load("k", origin) == "old"


@pytest.mark.parametrize("many", [False, True])
async def test_blocking_client_renews_in_a_thread(renewing: Server, many: bool) -> None:
    """The loader runs in a thread of its own while the caller goes on; a crowd of renewals is left to others."""
    go, where = threading.Event(), []

    def load() -> str:
        where.append(threading.current_thread().name)
        if len(where) > 1:
            go.wait(10)
        return f"v{len(where)}"

    def read(cache: threads.CacheClient) -> Any:
        if many:
            return cache.get_or_load_many(["k"], lambda keys: dict.fromkeys(keys, load()), ttl_s=1)["k"]
        return cache.get_or_load("k", load, ttl_s=1)

    with threads.CacheClient(renewing.address, timeout_s=10) as cache:
        assert await asyncio.to_thread(read, cache) == "v1"
        await due(renewing)
        permits = [cache._started().renewing.acquire(blocking=False) for _ in range(8)]
        assert all(permits)
        assert await asyncio.to_thread(read, cache) == "v1"
        assert len(where) == 1
        cache._started().renewing.release()
        assert await asyncio.to_thread(read, cache) == "v1"
        go.set()
        await eventually(lambda: renewing.node.namespaces.get("default").sets == 2)
        assert await asyncio.to_thread(read, cache) == "v2"
        assert where[1:] == ["cachenode-renewal"]


@pytest.mark.parametrize("loader", ["text", 5, None])
async def test_loader_that_is_no_function(cache: CacheClient, loader: Any) -> None:
    """What was called already, or is something else, is named before anything is asked for."""
    with pytest.raises(InvalidArgument, match=r"loader: must be a function, not .*; pass the function itself"):
        await cache.get_or_load("k", loader)
    with pytest.raises(InvalidArgument, match="batch_loader: must be a function"):
        await cache.get_or_load_many(["k"], loader)
    assert await cache.get_or_load("k", lambda: 1) == 1  # nobody has a lease that nobody fulfils


async def test_async_loader_of_a_blocking_client(server: Server) -> None:
    """It has no loop to run it in, and says so, instead of naming a coroutine as the value that cannot be stored."""

    async def load() -> int:
        return 1

    with threads.CacheClient(server.address, timeout_s=10) as client:
        with pytest.raises(InvalidArgument, match="loader: must not be async here"):
            await asyncio.to_thread(client.get_or_load, "k", load)
        assert await asyncio.to_thread(client.get_or_load, "k", lambda: 2) == 2


async def test_one_text_in_place_of_several_keys(cache: CacheClient) -> None:
    """It would be taken for keys of one character each, of which none is found."""
    for keys in ("abc", b"abc"):
        with pytest.raises(InvalidArgument, match="keys: must be several keys, as in a list, not one"):
            await cache.get_many(keys)  # type: ignore[type-var]
        with pytest.raises(InvalidArgument, match="keys: must be several keys"):
            await cache.get_or_load_many(keys, lambda _: {})  # type: ignore[type-var]
