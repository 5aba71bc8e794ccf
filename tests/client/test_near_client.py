"""Clients with near caches: what they serve without asking, and that it is never older than what has been written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from cachenode.server import Server
from cachenode_api.records import HEADER, HEADER_BYTES
from cachenode_api.ring import Ring
from cachenode_api.selectors import SelectorKind
from cachenode_api.v1 import common_pb2 as pb
from cachenode_api.view import Member, View
from cachenode_client import CacheClient, InvalidArgument, InvalidTtl, _client, _core, _session, blocking
from cachenode_client._near import NearCache, boot_clock
from tests.support.clock import ManualClock
from tests.support.eventually import eventually
from tests.support.scripted_node import ScriptedNode, record, scripted_node, view_message

LEASE_MS = 60_000


class Threaded:
    """A blocking client, its calls made in threads, so that one test serves both clients."""

    def __init__(self, inner: blocking.CacheClient) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(getattr(self.inner, name), *args, **kwargs)

        return call


def machinery(client: Any) -> Any:
    return client.inner if isinstance(client, Threaded) else client


def stats(client: Any) -> dict[str, int]:
    counters: dict[str, int] = machinery(client).stats()
    return counters


async def leased(client: Any) -> Any:
    """Return the client once it has a lease at each node that it is connected to."""
    await client.view()
    router = machinery(client)._started().router
    await eventually(
        lambda: (
            router._ready and all(boot_clock() < session.shelf.lease.until for session in list(router._ready.values()))
        )
    )
    return client


Open = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["asyncio", "threads"])
async def open_client(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Open]:
    """Opens clients of a real node, of either kind, that have their leases; closed after the test."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Any:
            options = {"timeout_s": 10} | options
            if request.param == "asyncio":
                client: Any = await stack.enter_async_context(CacheClient(server.address, **options))
            else:
                inner = blocking.CacheClient(server.address, **options)
                stack.push_async_callback(asyncio.to_thread, inner.close)
                client = Threaded(inner)
            return client if options.get("near_cache", 1) is None else await leased(client)

        yield start


def asked(server: Server, namespace: str = "default") -> int:
    """Return how many reads the node has answered."""
    found = server.node.namespaces.get(namespace)
    assert found is not None
    return found.l1_hits + found.misses


# With a real node.


async def test_near_hit_asks_nobody(server: Server, open_client: Open) -> None:
    """The second read of a key is served from the client's memory, by str or bytes, in whatever form it is asked."""
    client = await open_client()
    await client.set("k", {"a": 1}, ttl_s=600)
    assert await client.get("k") == {"a": 1}
    before = asked(server)
    assert await client.get("k") == await client.get(b"k") == {"a": 1}
    assert await client.get("k", namespace="default") == {"a": 1}
    assert await client.contains("k")
    assert 590 < await client.ttl("k") <= 600
    found = await client.lookup("k")
    assert (found.found, found.value, found.layer, found.version > 0, found.stale) == (
        True,
        {"a": 1},
        "near",
        True,
        False,
    )
    assert 590 < found.ttl_s <= 600
    assert await client.get_many(["k", b"k"]) == {"k": {"a": 1}, b"k": {"a": 1}}
    assert await client.get_or_load("k", lambda: 1 / 0) == {"a": 1}
    assert await client.get_or_load_many(["k"], lambda _keys: 1 / 0) == {"k": {"a": 1}}
    assert asked(server) == before
    counters = stats(client)
    assert (counters["near_hits"], counters["near_entries"]) == (8, 1), "contains and ttl are no hits"
    assert counters["hits"] == 1 + 8
    assert counters["near_bytes"] > 0


async def test_near_hit_takes_the_short_way(open_client: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A get with a live copy looks at nothing but the copy and the clock; one without goes the long way."""
    client = await open_client()
    await client.set("k", b"v")
    await client.get("k")
    looked: list[str] = []
    monkeypatch.setattr(_core.ClientCore, "_near_entry", lambda _self, key, _namespace: looked.append(key))
    assert await client.get("k") == b"v"
    assert looked == []
    await client.get("other")
    assert looked == ["other"]


async def test_read_that_slides_asks_the_owner(open_client: Open) -> None:
    """A copy does not answer it: the owner would not know of the read."""
    client, other = await open_client(), await open_client()
    await client.set("k", 1, ttl_s=5)
    assert [await client.get("k"), await client.get("k")] == [1, 1]
    assert stats(client)["near_hits"] == 1
    assert await client.get_and_touch("k", ttl_s=60) == 1
    assert stats(client)["near_hits"] == 1
    assert 50 < (await other.ttl("k") or 0) <= 60


async def test_get_many_asks_for_the_rest(server: Server, open_client: Open) -> None:
    """Of several keys only those without copies travel; loaders get only what nobody has."""
    client = await open_client()
    await client.set_many({"a": 1, "b": 2})
    await client.get("a")
    before = asked(server)
    assert await client.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
    assert asked(server) == before + 2
    got: list[list[str]] = []

    def load(keys: list[str]) -> dict[str, int]:
        got.append(keys)
        return dict.fromkeys(keys, 9)

    assert await client.get_or_load_many(["a", "b", "c"], load) == {"a": 1, "b": 2, "c": 9}
    assert got == [["c"]]


async def test_cached_function_is_near(open_client: Open) -> None:
    """A decorated function's result is served from near once it was read, until it is forgotten."""
    client = await open_client()
    runs: list[int] = []
    if isinstance(client, Threaded):

        @client.inner.cached("f:{x}")
        def function(x: int) -> int:
            runs.append(x)
            return x + len(runs)

        call: Any = lambda x: asyncio.to_thread(function, x)  # noqa: E731
        forget: Any = lambda x: asyncio.to_thread(function.forget, x)  # noqa: E731
    else:

        @client.cached("f:{x}")
        async def coroutine(x: int) -> int:
            runs.append(x)
            return x + len(runs)

        call, forget = coroutine, coroutine.forget
    assert [await call(1), await client.get("f:1"), await call(1)] == [2, 2, 2]
    assert stats(client)["near_hits"] == 1
    await forget(1)
    assert await call(1) == 3


WAYS: dict[str, Callable[[Any, str], Awaitable[Any]]] = {
    "set": lambda client, key: client.set(key, "new"),
    "set_many": lambda client, key: client.set_many({key: "new"}),
    "replace": lambda client, key: client.replace(key, "new"),
    "delete": lambda client, key: client.delete(key),
    "key": lambda client, key: client.invalidate(key),
    "prefix": lambda client, key: client.invalidate(prefix=key[:3]),
    "pattern": lambda client, key: client.invalidate(pattern="*" + key[3:]),
    "tags": lambda client, key: client.invalidate(tags=["absent", f"tag-{key}"]),
    "namespace": lambda client, key: client.invalidate(namespace="default"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_another_client_changes_is_seen_at_once(open_client: Open, way: str) -> None:
    """When a write or invalidation has returned, no read that starts then, at any client, finds the older value."""
    reader, writer = await open_client(), await open_client()
    for number in range(20):
        key = f"key{number}"
        await writer.set(key, "old", tags=[f"tag-{key}"])
        assert await reader.get(key) == "old"
        before = stats(reader)["near_hits"]
        assert await reader.get(key) == "old"
        assert stats(reader)["near_hits"] == before + 1, "it is a copy that must go"
        await WAYS[way](writer, key)
        assert await reader.get(key) == ("new" if way in {"set", "set_many", "replace"} else None)
    if way in {"set", "delete", "key"}:
        assert stats(reader)["near_invalidations"] == 20


async def test_counter_is_seen_at_once(open_client: Open) -> None:
    """An increment makes copies untrue as a set does."""
    reader, writer = await open_client(), await open_client()
    for number in range(1, 21):
        assert await writer.incr("n") == number
        assert [await reader.get("n"), await reader.get("n")] == [number, number]


async def test_own_writes_are_read(open_client: Open) -> None:
    """A client reads what it has written, and not its own copy from before."""
    client = await open_client()
    for number in range(50):
        await client.set("k", number)
        assert [await client.get("k"), await client.get("k")] == [number, number]
    await client.delete("k")
    assert await client.get("k") is None
    await client.set("k", 1, tags=["t"])
    assert [await client.get("k"), await client.get("k")] == [1, 1]
    await client.invalidate(tags=["t"])
    assert await client.get("k") is None


async def test_write_that_waits_for_the_owner_alone(open_client: Open) -> None:
    """With ack="owner" a client still reads its own writes at once, and others soon."""
    reader, writer = await open_client(), await open_client()
    await writer.set("k", "old")
    assert await reader.get("k") == await writer.get("k") == "old"
    await writer.set("k", "new", ack="owner")
    assert await writer.get("k") == "new"
    await eventually(lambda: "k" not in machinery(reader)._copies)
    assert await reader.get("k") == "new"
    await writer.delete("k", ack="owner")
    await writer.invalidate("k", prefix="k", ack="owner")
    assert await writer.get("k") is None


async def test_many_clients_read_and_write_one_key(open_client: Open) -> None:
    """Every read that starts after a write has returned finds that write, or a later one."""
    clients = [await open_client() for _ in range(4)]
    done = 0

    async def write(client: Any) -> None:
        nonlocal done
        for number in range(1, 40):
            await client.set("k", number)
            done = number

    async def read(client: Any) -> None:
        while done < 39:
            least = done
            found = await client.get("k")
            assert (found or 0) >= least
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(write(clients[0]))
        for client in clients:
            group.create_task(read(client))


async def test_closed_client_holds_nobody_up(open_client: Open) -> None:
    """A client that is closed says goodbye: a writer of what it held need not wait for its lease."""
    reader, writer = await open_client(), await open_client()
    await writer.set("k", "old")
    await reader.get("k")
    await (reader.close() if isinstance(reader, Threaded) else reader.aclose())
    await asyncio.wait_for(writer.set("k", "new"), 1.0)  # less than a lease


async def test_without_a_near_cache(server: Server, open_client: Open) -> None:
    """With near_cache=None every read asks the node, and writers wait for nobody."""
    client = await open_client(near_cache=None)
    await client.set("k", 1)
    before = asked(server)
    assert [await client.get("k"), await client.get("k")] == [1, 1]
    assert asked(server) == before + 2
    counters = stats(client)
    assert [counters[f"near_{what}"] for what in ("hits", "entries", "bytes", "evictions", "invalidations")] == [0] * 5
    assert len(server.node.invalidations) == 0


async def test_readers_do_not_share_what_they_can_change(open_client: Open) -> None:
    """Each reader gets an object of its own, as from a node."""
    client = await open_client()
    await client.set("k", {"list": [1]})
    for _ in range(3):
        found = await client.get("k")
        assert found == {"list": [1]}
        found["list"].append(2)
    (await client.get_many(["k"]))["k"].clear()
    (await client.lookup("k")).value.clear()
    assert await client.get("k") == {"list": [1]}


async def test_readers_share_on_request(open_client: Open) -> None:
    """With near_share=True a copy is decoded once, and every reader gets the same object."""
    client = await open_client(near_share=True)
    await client.set("k", {"list": [1]})
    await client.get("k")
    first, second = await client.get("k"), await client.get("k")
    assert first is second
    assert (await client.lookup("k")).value is first


async def test_budget_of_the_near_cache(open_client: Open) -> None:
    """Copies beyond the budget push others out; a value that would take much of it is not kept."""
    client = await open_client(near_cache=64 << 10)
    values = {f"k{number}": "v" * 2_000 for number in range(50)}
    await client.set_many(values)
    await client.set("large", "v" * 30_000)
    assert await client.get_many([*values, "large"]) == values | {"large": "v" * 30_000}
    counters = stats(client)
    assert counters["near_evictions"] > 0
    assert 0 < counters["near_bytes"] <= 64 << 10
    assert "large" not in machinery(client)._copies


async def test_tags(open_client: Open) -> None:
    """Values are found by any of their tags; a set without tags takes them away; loads have theirs."""
    client = await open_client()
    await client.set_many({"a": 1, "b": 2}, tags={"red"})
    await client.set("c", 3, tags=["red", "blue", "red"])
    await client.get_or_load("d", lambda: 4, tags=("blue",))
    await client.get_or_load_many(["e"], lambda keys: dict.fromkeys(keys, 5), tags=("green",))
    await client.set("a", 1)
    await client.get_many(list("abcde"))
    await client.invalidate(tags=["red"])
    assert await client.get_many(list("abcde")) == {"a": 1, "d": 4, "e": 5}
    await client.invalidate(tags=["blue", "green"])
    assert await client.get_many(list("abcde")) == {"a": 1}


async def test_invalidate_counts_keys(open_client: Open) -> None:
    """The result is how many of the keys had a value; what else is named is not counted."""
    client = await open_client()
    await client.set_many({"a": 1, "b": 2, "x1": 3})
    assert await client.invalidate(["a", "b", "b", "absent"], prefix="x") == 2
    assert await client.get_many(["a", "b", "x1"]) == {}
    assert await client.invalidate(b"a") == 0
    assert await client.invalidate([], prefix="x") == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"keys": []},
        {"keys": [], "namespace": "default"},
        {"tags": []},
        {"tags": [], "namespace": "default"},
        {"tags": "red"},
        {"tags": [1]},
        {"tags": [""]},
        {"prefix": ""},
        {"prefix": "x" * 1_025},
        {"pattern": ""},
        {"pattern": "[a"},
        {"pattern": "x" * 257},
        {"keys": "k", "ack": "nobody"},
        {"prefix": "k", "ack": True},
        {"prefix": "k", "namespace": "No Such"},
        {"prefix": "k", "timeout_s": 0},
        {"keys": ""},
        {"keys": [""]},
    ],
)
async def test_wrong_arguments_of_invalidate(open_client: Open, arguments: dict[str, Any]) -> None:
    """What cannot be used is refused before anything is dropped; an empty list of tags does not mean everything."""
    client = await open_client()
    await client.set("k", 1)
    with pytest.raises(InvalidArgument):
        await client.invalidate(**arguments)
    assert await client.get("k") == 1


async def test_wrong_arguments_of_writes(open_client: Open) -> None:
    """A wrong ack, tag or life is refused by the call that brings it."""
    client = await open_client()
    for arguments in ({"ack": "some"}, {"tags": "red"}, {"tags": ["x" * 129]}, {"tags": [str(n) for n in range(33)]}):
        with pytest.raises(InvalidArgument):
            await client.set("k", 1, **arguments)
    with pytest.raises(InvalidArgument):
        await client.delete("k", ack=None)
    with pytest.raises(InvalidTtl):
        await client.set("k", 1, ttl_s=0)
    assert await client.get("k") is None


@pytest.mark.parametrize("kind", [CacheClient, blocking.CacheClient])
@pytest.mark.parametrize("near_cache", [0, -1, 65_535, True, 1e6, "32MB"])
def test_wrong_near_cache(kind: Any, near_cache: Any) -> None:
    """A budget is a whole number of bytes, not too small to be of use, or None."""
    with pytest.raises(InvalidArgument, match="near_cache"):
        kind("127.0.0.1:1", near_cache=near_cache)


async def test_copy_of_another_namespace(open_client: Open) -> None:
    """Copies of the same key in two namespaces are two."""
    client = await open_client()
    await client.set("k", 1)
    await client.set("k", 2, namespace="other")
    for _ in range(2):
        assert (await client.get("k"), await client.get("k", namespace="other")) == (1, 2)
    await client.invalidate(namespace="other")
    assert (await client.get("k"), await client.get("k", namespace="other")) == (1, None)


# With a node that does as the test says.


@pytest.fixture
async def near(scripted: ScriptedNode) -> AsyncIterator[CacheClient]:
    """A client with a lease of a minute from the scripted node."""
    scripted.lease_ms = LEASE_MS
    async with CacheClient(scripted.address, timeout_s=10) as client:
        yield await leased(client)


async def read(scripted: ScriptedNode, client: CacheClient, *keys: str, **fields: Any) -> None:
    """Let a client read keys, each of which has its name as the value; by default it may keep them."""
    asking = asyncio.create_task(client.get_many(keys))
    await scripted.answer([key.encode() for key in keys], near=True, **fields)
    assert await asking == {key: key.encode() for key in keys}


def copies(client: CacheClient, keys: str) -> str:
    """Return which of the keys would be served from near."""
    return "".join(key for key in keys if client._near_entry(key, None) is not None)


def dropping(*keys: bytes, prefix: bytes = b"", kind: int = SelectorKind.PREFIX) -> pb.Invalidation:
    selectors, kinds = ([prefix], [int(kind)]) if prefix else ([], [])
    return pb.Invalidation(namespace="default", keys=keys, selectors=selectors, kinds=kinds)


async def test_only_what_may_be_kept_is_kept(scripted: ScriptedNode, near: CacheClient) -> None:
    """The node decides which records are copied; a record that is not takes an older copy away."""
    await read(scripted, near, "a", "b")
    assert copies(near, "ab") == "ab"
    asking = asyncio.create_task(near.lookup("c"))
    await scripted.answer([b"c"], now_s=1.0)
    assert (await asking).found
    assert copies(near, "c") == ""
    batch_of_old = asyncio.create_task(near._started().many(near._group(1, None, None), [b"a"]))
    await scripted.answer([b"newer"])
    await batch_of_old
    assert copies(near, "ab") == "b"


async def test_dropped_keys_are_acknowledged(scripted: ScriptedNode, near: CacheClient) -> None:
    """A client drops what it is told and says up to which number it has."""
    await read(scripted, near, "a", "b", "c")
    await scripted.send(invalidations=[dropping(b"a")], sequence=1)
    await eventually(lambda: scripted.acknowledged == [1])
    assert copies(near, "abc") == "bc"
    await scripted.send(invalidations=[dropping(b"x"), dropping(prefix=b"b")], sequence=3)
    await eventually(lambda: scripted.acknowledged == [1, 3])
    assert copies(near, "abc") == "c"


async def test_gap_in_the_sequence_drops_everything(scripted: ScriptedNode, near: CacheClient) -> None:
    """A number that does not follow means that a word was lost: nothing of that node is served any more. Scenario 9."""
    await read(scripted, near, "a", "b")
    await scripted.send(invalidations=[dropping(b"x")], sequence=2)
    await eventually(lambda: scripted.acknowledged == [2])
    assert copies(near, "ab") == ""
    await read(scripted, near, "a", "b")
    assert copies(near, "ab") == "ab"
    await scripted.send(sequence=3)
    await eventually(lambda: scripted.acknowledged == [2, 3])
    assert copies(near, "ab") == ""


async def test_records_beside_a_gap_are_not_kept(scripted: ScriptedNode, near: CacheClient) -> None:
    """Nothing of a frame is kept that shows that something was lost before it."""
    asking = asyncio.create_task(near.get("a"))
    batch = await scripted.next_batch()
    await scripted.send(replies=[pb.Reply(id=batch.id, records=[record(b"a")], near=True)], sequence=9)
    assert await asking == b"a"
    assert copies(near, "a") == ""


@pytest.mark.parametrize(
    ("invalidation", "kept"),
    [
        (dropping(b"a"), "b"),
        (dropping(b"x"), "ab"),
        (dropping(prefix=b"x"), ""),
        (dropping(prefix=b"a", kind=99), ""),
    ],
)
async def test_records_beside_their_invalidation_are_not_kept(
    scripted: ScriptedNode, near: CacheClient, invalidation: pb.Invalidation, kept: str
) -> None:
    """The frame does not tell which came first, so what it drops is not kept; with selectors nothing of it is.

    Scenario 6.
    """
    asking = asyncio.create_task(near.get_many(["a", "b"]))
    batch = await scripted.next_batch()
    reply = pb.Reply(id=batch.id, records=[record(b"a"), record(b"b")], near=True)
    await scripted.send(replies=[reply], invalidations=[invalidation], sequence=1)
    assert await asking == {"a": b"a", "b": b"b"}
    assert copies(near, "ab") == kept


async def test_unknown_selector_covers_the_namespace(scripted: ScriptedNode, near: CacheClient) -> None:
    """A barrier of a kind that this client does not know yet covers all copies of its namespace."""
    await read(scripted, near, "a", "b")
    await scripted.send(invalidations=[dropping(prefix=b"zzz", kind=99)], sequence=1)
    await eventually(lambda: scripted.acknowledged == [1])
    assert copies(near, "ab") == ""


async def test_lost_session_drops_its_copies(scripted: ScriptedNode, near: CacheClient) -> None:
    """What came over a stream that has ended is not served, nor after the next one has begun. Scenario 10."""
    await read(scripted, near, "a")
    scripted.hang_up()
    await eventually(lambda: copies(near, "a") == "")
    asking = asyncio.create_task(near.get("a"))
    await scripted.answer([b"new"], near=True)
    assert await asking == b"new"


async def test_failed_drop_ends_the_session(
    scripted: ScriptedNode, near: CacheClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that fails to drop what it is told drops all of that node, and acknowledges nothing. Scenario 17.

    It says what has failed, and opens its session to the node again, whichever of its tasks held the former one.
    """
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    drop_many = NearCache.drop_many

    def fail(self: NearCache, namespace: str, keys: Any) -> None:
        if b"x" in keys:
            raise ValueError("a defect")
        drop_many(self, namespace, keys)

    monkeypatch.setattr(NearCache, "drop_many", fail)
    router = near._started().router

    async def fail_once() -> None:
        await eventually(lambda: router.ready_count == 2)
        await leased(near)
        session, sessions = router._ready[scripted.name], scripted.sessions
        asking = asyncio.create_task(near._started().many(near._group(1, None, None), [b"b"]))
        await scripted.answer([b"v"], near=True)
        await asking
        assert copies(near, "b") == "b"
        await scripted.send(invalidations=[dropping(b"x", b"b")], sequence=1)
        await eventually(lambda: router._ready.get(scripted.name) is not session)
        assert copies(near, "b") == ""
        await eventually(lambda: scripted.sessions > sessions)

    async with scripted_node("node-1") as other:  # with another node at hand nobody looks for nodes anew
        scripted.view = other.view = view_message(2, (scripted.name, scripted.address), (other.name, other.address))
        other.lease_ms = LEASE_MS
        await scripted.send(view=scripted.view)
        for _ in range(3):
            await fail_once()
    assert scripted.acknowledged == []
    assert [type(context["exception"]) for context in failures] == [ValueError] * 3


async def test_copies_of_before_the_own_write_are_gone(scripted: ScriptedNode, near: CacheClient) -> None:
    """A client's own copy is gone from the moment it sends a write, before the node says anything."""
    for write in (near.set("a", 1), near.delete("a"), near.touch("a"), near.incr("a"), near.invalidate("a")):
        await read(scripted, near, "a")
        writing = asyncio.create_task(write)
        await scripted.next_batch()
        assert copies(near, "a") == ""
        writing.cancel()
        await asyncio.wait([writing])


async def test_goodbye_is_said_with_copies_alone(scripted: ScriptedNode) -> None:
    """Who may hold a lease takes leave of the node, also while the answer that brings it is on its way."""
    for near_cache, lease_ms, goodbyes in ((8 << 20, LEASE_MS, 1), (8 << 20, 0, 2), (None, 0, 2)):
        scripted.lease_ms = lease_ms
        async with CacheClient(scripted.address, timeout_s=10, near_cache=near_cache) as client:
            await (leased(client) if lease_ms else client.view())
            if near_cache:
                await eventually(lambda: scripted.nonces)
        assert scripted.goodbyes == goodbyes


async def test_node_that_is_silent_does_not_hold_up_the_close(
    scripted: ScriptedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A goodbye that nobody takes is not waited for for long; calls under way end with the close."""
    monkeypatch.setattr(_session, "_GOODBYE_S", 0.01)
    scripted.lease_ms = LEASE_MS
    client = CacheClient(scripted.address, timeout_s=30)
    await leased(client)
    asking = asyncio.create_task(client.get("a"))
    await scripted.next_batch()
    async with scripted._writing:
        await asyncio.wait_for(client.aclose(), 10)
    await asyncio.wait([asking], timeout=10)
    assert asking.exception() is not None


# Time.


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock of leases and copies."""
    clock = ManualClock()
    for module in (_session, _core, _client):
        monkeypatch.setattr(module, "boot_clock", clock.now)
    defaults = NearCache.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "clock", clock.now)
    return clock


async def test_lease_counts_from_the_question(scripted: ScriptedNode, boot: ManualClock) -> None:
    """However late the answer comes: the lease is over when its time since the question is. Scenario 7."""
    scripted.beats = False
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        await eventually(lambda: scripted.nonces)
        (session,) = client._started().router._sessions
        boot.advance(1.5)
        await scripted.send(heartbeat=pb.Heartbeat(nonce=scripted.nonces[0], answer=True, lease_ms=1_800))
        await eventually(lambda: session.shelf.lease.until == pytest.approx(boot.now() + 0.3))
        await read(scripted, client, "a")
        assert copies(client, "a") == "a"
        boot.advance(0.29)
        assert await client.get("a") == b"a"
        boot.advance(0.02)
        assert copies(client, "a") == ""


async def test_answer_to_no_question_brings_no_lease(scripted: ScriptedNode, boot: ManualClock) -> None:
    """An answer that was given before, or that was not asked for, changes nothing."""
    scripted.beats = False
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        await eventually(lambda: scripted.nonces)
        (session,) = client._started().router._sessions
        for nonce, lease_ms in ((77, 9_000), (0, 1_000), (0, 9_000)):
            await scripted.send(heartbeat=pb.Heartbeat(nonce=nonce, answer=True, lease_ms=lease_ms))
        await read(scripted, client, "a")  # behind the answers
        assert session.shelf.lease.until == pytest.approx(1_001.0)


async def test_life_of_a_copy_counts_from_the_question(scripted: ScriptedNode, boot: ManualClock) -> None:
    """A value that had so long to live when the node answered lives no longer here, whatever the answer's way took."""
    scripted.lease_ms = 3_600_000
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        (session,) = client._started().router._sessions
        await eventually(lambda: boot.now() < session.shelf.lease.until)
        asking = asyncio.create_task(client.get("a"))
        batch = await scripted.next_batch()
        await scripted.reply(batch, records=[HEADER.pack(0, 0, 7, 510.0) + b"a"], now_s=500.0, near=True)
        assert await asking == b"a"
        ttl_s = await client.ttl("a")
        assert ttl_s is not None
        assert 9 < ttl_s <= 10.0
        found = await client.lookup("a")
        assert (found.version, found.layer) == (7, "near")
        boot.advance(10.0)
        assert copies(client, "a") == ""


async def test_no_copy_is_used_for_ever(scripted: ScriptedNode, boot: ManualClock) -> None:
    """A copy of what does not expire is asked for again after a minute: soon after, the node forgets who has it."""
    scripted.lease_ms = 3_600_000
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        (session,) = client._started().router._sessions
        await eventually(lambda: boot.now() < session.shelf.lease.until)
        await read(scripted, client, "a")
        boot.advance(59.0)
        assert copies(client, "a") == "a"
        boot.advance(1.0)
        assert copies(client, "a") == ""


# Views.


def view_of(epoch: int, *nodes: ScriptedNode) -> tuple[pb.View, Ring]:
    message = view_message(epoch, *((node.name, node.address) for node in nodes))
    members = tuple(Member(member.id, member.incarnation, member.address) for member in message.members)
    return message, Ring(View(epoch, message.ring_seed, members))


async def test_view_drops_what_moved(scripted: ScriptedNode, near: CacheClient) -> None:
    """Keys that have another owner from now on are not served any more; the others are."""
    keys = [f"{number}" for number in range(10)]
    await read(scripted, near, *keys)
    async with scripted_node("node-1") as other:
        other.lease_ms = LEASE_MS
        message, ring = view_of(2, scripted, other)
        other.view = message
        kept = "".join(key for key in keys if ring.owner(key.encode()) == "node-0")
        assert 0 < len(kept) < len(keys)
        await scripted.send(view=message)
        await eventually(lambda: near._started().router.ready_count == 2)
        assert copies(near, "0123456789") == kept


async def test_node_that_is_late_to_hear_of_a_view(scripted: ScriptedNode, near: CacheClient) -> None:
    """What a node said by right after others had told the view is dropped when it tells that view itself."""
    async with scripted_node("node-1") as other:
        other.lease_ms = LEASE_MS
        message, ring = view_of(2, scripted, other)
        other.view = message
        other.greets.clear()  # its session is not ready: its keys go to the first node meanwhile
        await scripted.send(view=message)
        await eventually(lambda: near._started().router.view is not None and near._started().router.view.epoch == 2)
        moved = next(key for key in "0123456789" if ring.owner(key.encode()) == "node-1")
        await read(scripted, near, moved)
        assert copies(near, moved) == moved
        await scripted.send(view=message)
        await eventually(lambda: copies(near, moved) == "")
        other.greets.set()


def test_headers_are_as_long_as_they_say() -> None:
    """The records that these tests write are as the nodes' are."""
    assert len(record(b"")) == HEADER_BYTES
