"""The asyncio client against a real node."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from cachenode.server import Server
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER_BYTES
from cachenode_client import (
    CacheClient,
    CacheError,
    CacheTimeout,
    CacheUnavailable,
    ClientClosed,
    DecodeError,
    InvalidArgument,
    InvalidKey,
    InvalidNamespace,
    InvalidTtl,
    Lookup,
    ManyFailed,
    NodeError,
    Unserializable,
    ValueTooLarge,
)
from tests.support.scripted_node import ScriptedNode, record
from tests.support.server import free_port, running_server

SECRET = "hunter2"
"""Stands in keys and values that no error may show."""

SLACK_S = 0.4
"""How late a call may end on a busy machine."""

VALUES = [
    b"",
    b"\x00\xff" * 100,
    "",
    "grüße \N{SNOWMAN}",
    0,
    -(10**30),
    1.5,
    -math.inf,
    True,
    False,
    None,
    [],
    {},
    {"a": [1, 2.5, None, {"b": b"\x00", "$b": "x"}], "c": "ü"},
]


# What comes back.


@pytest.mark.parametrize("value", VALUES, ids=repr)
async def test_values_come_back_as_they_were(cache: CacheClient, value: Any) -> None:
    """A value returns equal and of its own type through each way of reading."""
    await cache.set("k", value)
    seen = [await cache.get("k"), (await cache.lookup("k")).value, (await cache.get_many(["k"]))["k"]]
    assert [(type(one), one) for one in seen] == [(type(value), value)] * 3


async def test_get_tells_none_from_absent(cache: CacheClient) -> None:
    """A stored None is found; an absent key gives the default."""
    await cache.set("none", None)
    assert await cache.get("none", "default") is None
    assert await cache.get("absent", "default") == "default"
    assert await cache.get("absent") is None
    assert (await cache.lookup("none")).found
    assert not (await cache.lookup("absent")).found
    assert await cache.get_many(["none", "absent"]) == {"none": None}


async def test_str_and_bytes_are_one_key(cache: CacheClient) -> None:
    """A string key is its UTF-8 bytes, up to the limit of 1,024."""
    await cache.set("ключ", 1)
    assert await cache.get("ключ".encode()) == 1
    await cache.set("x" * 1024, 2)
    assert await cache.get(b"x" * 1024) == 2


async def test_lookup_tells_all_that_is_known(cache: CacheClient) -> None:
    """A lookup has version, remaining life, layer and flags of the value; of an absent key it has nothing."""
    version = await cache.set("k", "text", ttl_s=100)
    found = await cache.lookup("k")
    assert (found.found, found.value, found.version, found.layer, found.stale) == (True, "text", version, "l1", False)
    assert 90 < (found.ttl_s or 0) <= 100
    assert found.flags == 1
    assert await cache.lookup("absent") == Lookup(found=False)


async def test_versions_rise(cache: CacheClient) -> None:
    """Each write of a key has a higher version than the one before."""
    first = await cache.set("k", 1)
    second = await cache.set("k", 2)
    third = (await cache.set_many({"k": 3}))["k"]
    assert 0 < first < second < third


async def test_delete_says_whether_there_was_one(cache: CacheClient) -> None:
    """A delete removes the value once."""
    await cache.set("k", 1)
    assert await cache.delete("k") is True
    assert await cache.delete("k") is False
    assert await cache.get("k") is None


async def test_contains_says_whether_there_is_one(cache: CacheClient) -> None:
    """A value of any kind counts, also None and the empty bytes."""
    await cache.set_many({"none": None, "empty": b""})
    assert [await cache.contains(key) for key in ("none", "empty", "absent")] == [True, True, False]


async def test_ttl_of_each_kind(cache: CacheClient) -> None:
    """The remaining life is a number, infinite, that of the namespace, or None for an absent key."""
    await cache.set("some", 1, ttl_s=50)
    await cache.set("endless", 1, ttl_s=math.inf)
    await cache.set("usual", 1)
    assert 40 < (await cache.ttl("some") or 0) <= 50
    assert await cache.ttl("endless") == math.inf
    assert 3_500 < (await cache.ttl("usual") or 0) <= 3_600
    assert await cache.ttl("absent") is None
    assert (await cache.lookup("endless")).ttl_s is None


async def test_touch_changes_the_life_only(cache: CacheClient) -> None:
    """A touch gives a new life, that of the namespace if it names none, and leaves the value."""
    await cache.set("k", "v", ttl_s=5)
    assert await cache.touch("k", ttl_s=500) is True
    assert 400 < (await cache.ttl("k") or 0) <= 500
    assert await cache.touch("k") is True
    assert (await cache.ttl("k") or 0) > 3_500
    assert await cache.touch("k", ttl_s=math.inf) is True
    assert await cache.ttl("k") == math.inf
    assert await cache.get("k") == "v"
    assert await cache.touch("absent", ttl_s=5) is False


async def test_many_keys_keep_their_form(cache: CacheClient) -> None:
    """Results of calls with many keys are under the keys as they were given; absent ones are left out."""
    values: dict[Any, Any] = {"a": 1, b"b": [2]}
    versions = await cache.set_many(values, ttl_s=60)
    assert set(versions) == {"a", b"b"}
    keys: list[Any] = [b"a", "b", "absent", "a"]
    assert await cache.get_many(iter(keys)) == {b"a": 1, "b": [2], "a": 1}
    assert 50 < (await cache.ttl("b") or 0) <= 60
    assert await cache.get_many([]) == {}
    assert await cache.set_many({}) == {}


async def test_namespaces_do_not_share_keys(cache: CacheClient, server: Server) -> None:
    """The same key in two namespaces is two entries, whether the client or the call names the namespace."""
    await cache.set("k", "one", namespace="one")
    await cache.set("k", "default")
    async with CacheClient(server.address, namespace="one", timeout_s=10) as other:
        assert await other.get("k") == "one"
        assert await other.get("k", namespace="default") == "default"
        assert await other.get_many(["k"], namespace="two") == {}


async def test_view_and_stats(cache: CacheClient, server: Server) -> None:
    """The view names the node; the counters count what was done."""
    view = await cache.view()
    assert [(member.id, member.address) for member in view.members] == [("node-0", server.address)]
    await cache.set_many({"a": 1, "b": 2})
    await cache.set("c", 3)
    await cache.get_many(["a", "b", "absent"])
    await cache.get("c")
    await cache.get("absent")
    stats = cache.stats()
    assert {name: stats[name] for name in ("hits", "misses", "sets", "errors", "retries", "nodes_connected")} == {
        "hits": 3,
        "misses": 2,
        "sets": 3,
        "errors": 0,
        "retries": 0,
        "nodes_connected": 1,
    }


async def test_stats_and_repr_before_the_first_call() -> None:
    """A client that has not connected counts nothing and says so."""
    client = CacheClient("127.0.0.1:1")
    assert set(client.stats().values()) == {0}
    assert "new" in repr(client)
    await client.aclose()
    assert "closed" in repr(client)


async def test_own_serializer_and_compression(server: Server) -> None:
    """What one client compresses, a client without compression reads; a pickled value it refuses."""
    async with (
        CacheClient(server.address, timeout_s=10, compression="zlib", serializer="pickle") as writer,
        CacheClient(server.address, timeout_s=10) as reader,
    ):
        await writer.set("pickled", (1, {2}))
        assert await writer.get("pickled") == (1, {2})
        with pytest.raises(DecodeError):
            await reader.get("pickled")
    async with (
        CacheClient(server.address, timeout_s=10, compression="zlib") as writer,
        CacheClient(server.address, timeout_s=10) as reader,
    ):
        await writer.set("long", "ab" * 5_000)
        assert await reader.get("long") == "ab" * 5_000


# Wrong arguments.

Call = Callable[[CacheClient], Coroutine[Any, Any, Any]]

WRONG: list[tuple[str, Call, type[CacheError], str]] = [
    ("empty key", lambda c: c.get(""), InvalidKey, "key: must not be empty"),
    ("long key", lambda c: c.get(SECRET * 200), InvalidKey, "key: 1,400 bytes exceed the limit of 1,024 bytes"),
    ("key of wrong type", lambda c: c.get(5), InvalidKey, "key: must be str or bytes, not int"),  # type: ignore[arg-type]
    ("key that is None", lambda c: c.set(None, SECRET), InvalidKey, "key: must be str or bytes"),  # type: ignore[arg-type]
    ("lone surrogate", lambda c: c.delete(SECRET + "\ud800"), InvalidKey, "key: not encodable as UTF-8"),
    ("empty key in lookup", lambda c: c.lookup(b""), InvalidKey, "key: must not be empty"),
    ("empty key in contains", lambda c: c.contains(""), InvalidKey, "key: must not be empty"),
    ("empty key in ttl", lambda c: c.ttl(""), InvalidKey, "key: must not be empty"),
    ("empty key in touch", lambda c: c.touch(""), InvalidKey, "key: must not be empty"),
    ("wrong key of many", lambda c: c.get_many([SECRET, ""]), InvalidKey, "key: must not be empty"),
    ("wrong key of many sets", lambda c: c.set_many({SECRET: 1, "": 2}), InvalidKey, "key: must not be empty"),
    ("TTL zero", lambda c: c.set(SECRET, SECRET, ttl_s=0), InvalidTtl, "ttl_s: must be above 0 and at most"),
    ("TTL negative", lambda c: c.set(SECRET, SECRET, ttl_s=-1), InvalidTtl, "ttl_s: must be above 0 and at most"),
    ("TTL NaN", lambda c: c.touch(SECRET, ttl_s=math.nan), InvalidTtl, "ttl_s: must be above 0 and at most"),
    ("TTL -inf", lambda c: c.touch(SECRET, ttl_s=-math.inf), InvalidTtl, "ttl_s: must be above 0 and at most"),
    ("TTL huge", lambda c: c.set(SECRET, 1, ttl_s=1e18), InvalidTtl, "at most 3,153,600,000 seconds"),
    ("TTL bool", lambda c: c.set(SECRET, 1, ttl_s=True), InvalidTtl, "ttl_s: must be a number of seconds, not bool"),
    ("TTL text", lambda c: c.set_many({SECRET: 1}, ttl_s="5"), InvalidTtl, "of seconds, not str"),  # type: ignore[arg-type]
    ("tuple", lambda c: c.set(SECRET, {"a": (SECRET,)}), Unserializable, "value"),
    ("object", lambda c: c.set(SECRET, object()), Unserializable, "value"),
    ("unserialisable of many", lambda c: c.set_many({SECRET: {SECRET}}), Unserializable, "value"),
    ("timeout zero", lambda c: c.get(SECRET, timeout_s=0), InvalidArgument, "timeout_s: must be above 0 and at most"),
    ("timeout NaN", lambda c: c.get(SECRET, timeout_s=math.nan), InvalidArgument, "timeout_s: must be above 0"),
    ("timeout bool", lambda c: c.set(SECRET, 1, timeout_s=True), InvalidArgument, "timeout_s: must be above 0"),
    ("timeout inf", lambda c: c.get_many([SECRET], timeout_s=math.inf), InvalidArgument, "at most 86,400 seconds"),
    ("namespace", lambda c: c.get(SECRET, namespace=SECRET + "!"), InvalidNamespace, "namespace: must be 1 to 64 of"),
    ("namespace type", lambda c: c.touch(SECRET, namespace=5), InvalidNamespace, "not int"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("on_error", ["raise", "miss"])
@pytest.mark.parametrize(("call", "kind", "text"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
async def test_wrong_arguments_are_named(call: Call, kind: type[CacheError], text: str, on_error: Any) -> None:
    """A wrong argument raises at once, names field and limit and no key or value, whatever `on_error` says."""
    async with CacheClient("127.0.0.1:1", on_error=on_error) as client:
        with pytest.raises(kind) as caught:
            await call(client)
    assert text in str(caught.value)
    assert SECRET not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"timeout_s": 0}, InvalidArgument, "timeout_s: must be above 0 and at most 86,400 seconds"),
        ({"timeout_s": "1"}, InvalidArgument, "timeout_s: must be above 0"),
        ({"namespace": "UPPER"}, InvalidNamespace, "namespace: must be 1 to 64 of"),
        ({"on_error": "ignore"}, InvalidArgument, 'on_error: must be "raise" or "miss"'),
        ({"address": ""}, InvalidArgument, "address: item 1 is empty"),
        ({"max_value_bytes": 0}, InvalidArgument, "max_value_bytes: must be at least 1"),
    ],
)
def test_wrong_options_are_named(options: Any, kind: type[CacheError], text: str) -> None:
    """A client that cannot work is not made."""
    with pytest.raises(kind, match="^" + text.replace("|", r"\|")):
        CacheClient(**options)


async def test_value_over_the_clients_limit() -> None:
    """A value over the client's own limit is refused before anything is sent."""
    async with CacheClient("127.0.0.1:1", max_value_bytes=10) as client:
        with pytest.raises(ValueTooLarge, match=r"^value: 11 bytes exceed the limit of 10 bytes$"):
            await client.set("k", b"x" * 11)


async def test_value_over_the_namespaces_limit() -> None:
    """The node's refusal is a ValueTooLarge, also when errors count as misses."""
    async with running_server(limits__max_value_bytes=1_000) as server:
        async with CacheClient(server.address, timeout_s=10, on_error="miss") as client:
            assert await client.set("k", b"x" * 1_000)
            with pytest.raises(ValueTooLarge, match="value") as caught:
                await client.set("k", SECRET.encode() * 1_000)
            assert SECRET not in str(caught.value)
            assert await client.get("k") == b"x" * 1_000


@pytest.mark.parametrize("many", [False, True])
async def test_value_over_a_frame(cache: CacheClient, many: bool) -> None:
    """A value that fits in no frame of the node is refused by the client: the session and the others live on."""
    value = b"x" * (4 << 20)
    await cache.get("warm")
    with pytest.raises(ValueTooLarge, match=r"^value: 4,194,304 bytes exceed the node's limit of 4,190,208 bytes$"):
        await (cache.set_many({"k": value}) if many else cache.set("k", value))
    assert await cache.get("k") is None
    assert cache.stats()["retries"] == 0


async def test_unknown_namespace_of_strict_nodes() -> None:
    """A node that knows only configured namespaces says so, and the client raises InvalidNamespace."""
    async with running_server(strict_namespaces=True) as server, CacheClient(server.address, timeout_s=10) as client:
        assert await client.set("k", 1)
        with pytest.raises(InvalidNamespace):
            await client.set("k", 1, namespace="other")


# Use at the wrong time or place.


async def test_closed_client_raises(cache: CacheClient) -> None:
    """After close every call raises ClientClosed; closing again does nothing."""
    await cache.set("k", 1)
    await cache.aclose()
    await cache.aclose()
    calls = [
        cache.get("k"),
        cache.lookup("k"),
        cache.contains("k"),
        cache.ttl("k"),
        cache.get_many(["k"]),
        cache.set("k", 1),
        cache.set_many({"k": 1}),
        cache.delete("k"),
        cache.touch("k"),
        cache.view(),
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [ClientClosed] * len(calls)


async def test_context_manager_closes(server: Server) -> None:
    """The end of the block closes the client, and the node's session ends."""
    async with CacheClient(server.address, timeout_s=10, on_error="miss") as client:
        assert await client.set("k", 1)
    with pytest.raises(ClientClosed):
        await client.get("k")


async def test_close_fails_calls_under_way(scripted: ScriptedNode) -> None:
    """A call under way when the client is closed ends with an error, at once."""
    client = CacheClient(scripted.address, timeout_s=30)
    call = asyncio.create_task(client.get("k"))
    await scripted.next_batch()
    await client.aclose()
    with pytest.raises(CacheError):
        await asyncio.wait_for(call, 5)


async def test_other_event_loop(server: Server) -> None:
    """A client belongs to the loop of its first call; another one is told so, whatever `on_error` says."""
    async with CacheClient(server.address, timeout_s=10, on_error="miss") as client:
        await client.set("k", 1)
        for call in (lambda: client.get("k"), lambda: client.set("k", 2), lambda: client.get_many(["k"])):
            with pytest.raises(CacheError, match="event loop") as caught:
                await asyncio.to_thread(asyncio.run, call())
            assert caught.value.reason == "wrong_loop"
        assert await client.get("k") == 1


# Batches.


async def test_calls_of_one_turn_leave_in_one_frame(cache: CacheClient) -> None:
    """64 gets at the same moment cost one frame, not 64; a heartbeat may come between."""
    await cache.set_many({f"k{number}": number for number in range(64)})
    before = cache.stats()["frames_sent"]
    values = await asyncio.gather(*(cache.get(f"k{number}") for number in range(64)))
    assert values == list(range(64))
    assert 1 <= cache.stats()["frames_sent"] - before <= 2


async def test_calls_that_differ_do_not_mix(cache: CacheClient) -> None:
    """Calls of one turn with other operations, namespaces and timeouts get each their own result."""
    await cache.set("k", "old", namespace="a")
    results = await asyncio.gather(
        cache.get("k", namespace="a"),
        cache.get("k", namespace="b"),
        cache.set("k", 1, ttl_s=5),
        cache.set("m", 2),
        cache.set("n", 3, ttl_s=50),
        cache.delete("k", namespace="b"),
        cache.lookup("k", namespace="a", timeout_s=5),
        cache.touch("k", namespace="a", ttl_s=7),
    )
    assert list(results[:2]) == ["old", None]
    assert results[5:8:2] == [False, True]
    assert results[6].value == "old"
    lives = [await cache.ttl(key) or 0 for key in ("k", "m", "n")]
    assert 0 < lives[0] <= 5
    assert 40 < lives[2] <= 50
    assert lives[1] > 3_500


@pytest.mark.parametrize("most", [100, 4_096])
async def test_many_keys_are_split(most: int) -> None:
    """10,000 keys of one call reach a node that takes fewer at a time."""
    async with running_server(limits__max_batch_keys=most) as server:
        async with CacheClient(server.address, timeout_s=20) as client:
            values = {f"k{number}": number for number in range(10_000)}
            assert len(await client.set_many(values)) == 10_000
            assert await client.get_many(list(values)) == values


async def test_values_of_many_frames_are_split(cache: CacheClient) -> None:
    """Values that together exceed a frame several times are stored and read in one call each."""
    values = {f"k{number}": bytes([number]) * 900_000 for number in range(12)}
    assert len(await cache.set_many(values)) == 12
    assert await cache.get_many(values) == values


async def test_long_keys_are_split(cache: CacheClient) -> None:
    """Keys count towards a frame too: 5,000 of full length fit in no frame of 4 MiB."""
    keys = [f"{number:01024d}" for number in range(5_000)]
    assert await cache.get_many(keys) == {}
    assert len(await cache.set_many(dict.fromkeys(keys, b"x"))) == 5_000
    assert cache.stats()["nodes_connected"] == 1


async def test_large_values_of_one_turn_do_not_share_a_frame(cache: CacheClient) -> None:
    """Sets that fit in a frame each, but not together, succeed or fail each on its own."""
    await cache.get("warm")
    values = [b"x" * 1_000_000, b"y" * 4_000_000, b"z"]
    first, second, third = await asyncio.gather(
        *(cache.set(f"k{at}", value) for at, value in enumerate(values)), return_exceptions=True
    )
    assert isinstance(second, ValueTooLarge)  # the namespace's limit is 1 MiB
    assert isinstance(first, int)
    assert isinstance(third, int)


async def test_long_keys_of_one_turn_do_not_share_a_frame(cache: CacheClient) -> None:
    """5,000 gets of one turn with keys of full length exceed a frame; each is answered."""
    await cache.get("warm")
    found = await asyncio.gather(*(cache.get(f"{number:01024d}", "absent") for number in range(5_000)))
    assert set(found) == {"absent"}


async def test_node_with_small_frames() -> None:
    """The client keeps to the frame that the node asks for, in calls of one turn and in calls with many keys."""
    small = {"limits.max_frame_bytes": 64 << 10, "limits.max_value_bytes": 32 << 10}
    async with running_server(**small) as server, CacheClient(server.address, timeout_s=20) as client:
        values = {f"{number:0200d}": b"x" * (number * 100) for number in range(300)}
        assert len(await client.set_many(values)) == 300
        found = await asyncio.gather(*(client.get(key) for key in values))
        assert dict(zip(values, found, strict=True)) == values
        assert all(await asyncio.gather(*(client.set(key, value) for key, value in values.items())))
        assert await client.get_many(list(values)) == values
        assert client.stats()["retries"] == 0


# Failures of some keys.


async def test_set_many_fails_in_part() -> None:
    """ManyFailed holds the versions of what was stored and the error of each other key."""
    async with running_server(limits__max_value_bytes=1_000) as server:
        async with CacheClient(server.address, timeout_s=10) as client:
            with pytest.raises(ManyFailed, match=r"^1 of 3 keys failed") as caught:
                await client.set_many({"a": 1, SECRET: SECRET * 1_000, "c": 3})
            assert set(caught.value.results) == {"a", "c"}
            assert {key: type(error) for key, error in caught.value.errors.items()} == {SECRET: ValueTooLarge}
            assert SECRET not in str(caught.value)
            assert await client.get_many(["a", SECRET, "c"]) == {"a": 1, "c": 3}
            assert client.stats()["errors"] == 1


@pytest.mark.parametrize("on_error", ["raise", "miss"])
async def test_get_many_fails_in_part(scripted: ScriptedNode, on_error: Any) -> None:
    """Some keys failed: what was read is in ManyFailed, or is the result where errors count as misses."""
    async with CacheClient(scripted.address, timeout_s=10, on_error=on_error) as client:
        call = asyncio.create_task(client.get_many(["a", "b", "c"]))
        batch = await scripted.next_batch()
        await scripted.reply(batch, records=[record(b"1"), b"", b""], reasons=[0, 11, 0], details=["", "", ""])
        if on_error == "miss":
            assert await call == {"a": b"1"}
        else:
            with pytest.raises(ManyFailed) as caught:
                await call
            assert caught.value.results == {"a": b"1"}
            assert {key: type(error) for key, error in caught.value.errors.items()} == {"b": NodeError}
        assert client.stats() | {"errors": 1, "hits": 1, "misses": 1} == client.stats()


# Time.


@pytest.mark.parametrize("call", [lambda c: c.get("k"), lambda c: c.set("k", 1), lambda c: c.view()])
async def test_silent_address_costs_no_more_than_the_timeout(call: Call) -> None:
    """Something that accepts and never speaks gRPC: the call ends in its time and says that no node was reached."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts, nobody reads
        client = CacheClient(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.3)
        began = time.monotonic()
        with pytest.raises(CacheUnavailable, match="No node can be reached") as caught:
            await call(client)
        assert time.monotonic() - began < 0.3 + SLACK_S
        assert caught.value.reason == "no_node"
        await client.aclose()


async def test_silent_address_fails_many_keys_each(scripted: ScriptedNode) -> None:
    """Every key of a call with many has its own error when no node can be reached."""
    async with CacheClient(f"127.0.0.1:{free_port()}", timeout_s=0.2) as client:
        with pytest.raises(ManyFailed, match=r"^2 of 2 keys failed") as caught:
            await client.get_many(["a", "b"])
        assert {type(error) for error in caught.value.errors.values()} == {CacheUnavailable}


@pytest.mark.parametrize(
    "call", [lambda c: c.get("k"), lambda c: c.set("k", 1), lambda c: c.lookup("k"), lambda c: c.delete("k")]
)
async def test_node_that_never_answers_is_a_timeout(scripted: ScriptedNode, call: Call) -> None:
    """A node that takes a call and never answers: CacheTimeout in time, sent once, and the session lives."""
    async with CacheClient(scripted.address, timeout_s=0.2) as client:
        await client.view()
        began = time.monotonic()
        with pytest.raises(CacheTimeout) as caught:
            await call(client)
        assert 0.19 < time.monotonic() - began < 0.2 + SLACK_S
        assert isinstance(caught.value, TimeoutError)
        batch = await scripted.next_batch()
        assert batch.timeout_ms == 200
        assert scripted.batches.empty()
        assert scripted.sessions == 1


async def test_timeout_of_many_keys_keeps_what_came(scripted: ScriptedNode) -> None:
    """Keys answered before the time was over have their values; the others have CacheTimeout."""
    async with CacheClient(scripted.address, timeout_s=0.3) as client:
        await client.view()
        call = asyncio.create_task(client.get_many(["a", "b"]))
        await scripted.reply(await scripted.next_batch(), indices=[1], records=[record(b"2")])
        with pytest.raises(ManyFailed) as caught:
            await call
        assert caught.value.results == {"b": b"2"}
        assert {key: type(error) for key, error in caught.value.errors.items()} == {"a": CacheTimeout}


@pytest.mark.parametrize("call", [lambda c: c.get("k"), lambda c: c.lookup("k"), lambda c: c.get_many(["k"])])
async def test_retries_count_towards_the_timeout(scripted: ScriptedNode, call: Call) -> None:
    """A session lost late in a call leaves the next try only what is left of the call's time."""
    async with CacheClient(scripted.address, timeout_s=0.8) as client:
        await client.view()
        began = time.monotonic()
        running = asyncio.create_task(call(client))
        await scripted.next_batch()
        asyncio.get_running_loop().call_later(0.5, scripted.hang_up)
        with pytest.raises(CacheError):
            await running
        assert time.monotonic() - began < 0.8 + SLACK_S


@pytest.mark.parametrize("call", [lambda c: c.get("k"), lambda c: c.set("k", 1), lambda c: c.get_many(["a", "b"])])
async def test_connecting_counts_towards_the_timeout(scripted: ScriptedNode, call: Call) -> None:
    """The time that a call waits for a session is not given to it again."""
    scripted.greets.clear()
    async with CacheClient(scripted.address, timeout_s=0.8) as client:
        asyncio.get_running_loop().call_later(0.6, scripted.greets.set)
        began = time.monotonic()
        with pytest.raises(CacheError):
            await call(client)
        assert time.monotonic() - began < 0.8 + SLACK_S
        assert scripted.batches.qsize() == 1


# Callers that go away.


async def test_cancelled_caller_leaves_the_others(scripted: ScriptedNode) -> None:
    """One of three callers of a batch is cancelled; the others get their values, and the session goes on."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        first, second, third = (asyncio.create_task(client.get(key)) for key in "abc")
        batch = await scripted.next_batch()
        assert list(batch.keys) == [b"a", b"b", b"c"]
        second.cancel()
        await asyncio.wait([second])
        await scripted.reply(batch, records=[record(b"1"), record(b"2"), record(b"3")])
        assert list(await asyncio.gather(first, third)) == [b"1", b"3"]
        assert second.cancelled()
        again = asyncio.create_task(client.get("d"))
        await scripted.answer([b"4"])
        assert await again == b"4"


# A node that cannot be reached.


async def test_dead_server_raises() -> None:
    """By default a cluster that cannot be reached is an error that may be retried."""
    async with CacheClient(f"127.0.0.1:{free_port()}", timeout_s=0.2) as client:
        calls: list[Coroutine[Any, Any, Any]] = [client.get("k"), client.lookup("k"), client.contains("k")]
        calls += [client.ttl("k")]
        calls += [client.set("k", 1), client.delete("k"), client.touch("k"), client.view()]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {CacheUnavailable}
        assert all(result.retryable and result.reason == "no_node" for result in results)
        assert client.stats()["errors"] == 7


async def test_dead_server_is_a_miss_if_asked() -> None:
    """With on_error="miss" reads miss and writes are not done; the errors are counted."""
    async with CacheClient(f"127.0.0.1:{free_port()}", timeout_s=0.2, on_error="miss") as client:
        results = await asyncio.gather(
            client.get("k", "default"),
            client.lookup("k"),
            client.contains("k"),
            client.ttl("k"),
            client.get_many(["k"]),
            client.set("k", 1),
            client.set_many({"k": 1}),
            client.delete("k"),
            client.touch("k"),
        )
        assert list(results) == ["default", Lookup(found=False), False, None, {}, 0, {}, False, False]
        assert client.stats()["errors"] == 9


async def test_records_are_not_mistaken_for_absent(scripted: ScriptedNode) -> None:
    """A record without a value is the empty bytes; an empty record is an absent key."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        call = asyncio.gather(client.get("a", 1), client.get("b", 2))
        batch = await scripted.next_batch()
        assert len(record(b"")) == HEADER_BYTES
        await scripted.reply(batch, records=[record(b""), b""])
        assert list(await call) == [b"", 2]


@pytest.mark.parametrize("first", [Reason.UNCERTAIN, Reason.NOT_READY])
async def test_refusal_after_a_try_that_may_be_done(scripted: ScriptedNode, first: Reason) -> None:
    """The last try has changed nothing; that holds for the call only if no earlier one may have."""
    async with CacheClient(scripted.address, timeout_s=10) as cache:
        removing = asyncio.create_task(cache.delete("k"))
        for reason in (first, Reason.SINK_FAILED):
            await scripted.reply(await scripted.next_batch(), versions=[0], reasons=[reason], details=["text"])
        with pytest.raises(CacheError) as caught:
            await removing
        assert caught.value.reason == ("uncertain" if first is Reason.UNCERTAIN else "sink_failed")
