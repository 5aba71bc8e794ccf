"""Unary Invalidate, Watch, and tags."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.rpc.status import REASON_KEY
from cachenode.server import Server
from cachenode_api.metadata import INCARNATION_KEY, SEQUENCE_KEY
from cachenode_api.records import TAGGED
from cachenode_api.v1 import cache_pb2 as pb
from cachenode_api.v1 import common_pb2


def reason_of(error: aio.AioRpcError) -> str:
    """Return the stable reason of a failed call."""
    return str(dict(error.trailing_metadata() or ())[REASON_KEY])


async def store(cache: Any, *keys: bytes, tags: tuple[str, ...] = (), namespace: str = "") -> None:
    for key in keys:
        await cache.Set(pb.SetRequest(key=key, value=b"v", tags=tags, namespace=namespace))


async def found(cache: Any, *keys: bytes, namespace: str = "") -> list[bool]:
    answer = await cache.GetMany(pb.GetManyRequest(keys=keys, namespace=namespace))
    return [result.entry.found for result in answer.results]


async def test_invalidate_keys(cache: Any) -> None:
    """Keys are dropped; the answer counts those that had a value."""
    await store(cache, b"a", b"b", b"c")
    answer = await cache.Invalidate(pb.InvalidateRequest(keys=[b"a", b"b", b"absent"]))
    assert (answer.found, answer.header.node_id) == (2, "n0")
    assert await found(cache, b"a", b"b", b"c") == [False, False, True]


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"prefixes": [b"user:"]}, [False, False, True]),
        ({"patterns": [b"*:2"]}, [True, False, True]),
        ({"tags": ["red"]}, [False, True, True]),
        ({"prefixes": [b"user:1"], "tags": ["other"]}, [False, True, True]),
        ({"whole_namespace": True}, [False, False, False]),
        ({"keys": [b"page"], "prefixes": [b"user:1"]}, [False, True, False]),
    ],
)
async def test_invalidate_by_selectors(cache: Any, fields: dict[str, Any], left: list[bool]) -> None:
    """Prefixes, patterns, tags and the namespace are taken together, and with keys; other namespaces stay."""
    await store(cache, b"user:1", tags=("red", "blue"))
    await store(cache, b"user:2", b"page")
    await store(cache, b"user:1", tags=("red",), namespace="other")
    await cache.Invalidate(pb.InvalidateRequest(**fields))
    assert await found(cache, b"user:1", b"user:2", b"page") == left
    assert await found(cache, b"user:1", namespace="other") == [True]


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ({"namespace": "n"}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ({"prefixes": [b""]}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ({"patterns": [b"[a"]}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ({"tags": [""]}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ({"keys": [b""]}, "INVALID_ARGUMENT", "INVALID_KEY"),
        ({"keys": [b"k"], "namespace": "no such!"}, "NOT_FOUND", "UNKNOWN_NAMESPACE"),
        ({"whole_namespace": True, "namespace": "no such!"}, "NOT_FOUND", "UNKNOWN_NAMESPACE"),
    ],
)
async def test_invalidate_refuses_what_it_cannot_do(cache: Any, fields: dict[str, Any], code: str, reason: str) -> None:
    """Nothing named, or something that cannot be used, fails the call with its reason."""
    with pytest.raises(aio.AioRpcError) as failed:
        await cache.Invalidate(pb.InvalidateRequest(**fields))
    assert failed.value.code() is grpc.StatusCode[code]
    assert reason_of(failed.value) == reason


@pytest.mark.parametrize("acknowledgement", [common_pb2.ACKNOWLEDGEMENT_UNSPECIFIED, common_pb2.ACKNOWLEDGEMENT_OWNER])
async def test_how_much_is_waited_for_reaches_the_node(
    server: Server, cache: Any, acknowledgement: Any, monkeypatch: Any
) -> None:
    """Set, Delete and Invalidate hand on whether they wait for the holders of copies."""
    seen = []
    execute = server.node.execute

    def spy(batch: Any, reply: Any, **options: Any) -> Any:
        seen.append(batch.acknowledged)
        return execute(batch, reply, **options)

    monkeypatch.setattr(server.node, "execute", spy)
    await cache.Set(pb.SetRequest(key=b"k", value=b"v", acknowledgement=acknowledgement))
    await cache.Delete(pb.DeleteRequest(key=b"k", acknowledgement=acknowledgement))
    await cache.Invalidate(pb.InvalidateRequest(keys=[b"k"], tags=["t"], acknowledgement=acknowledgement))
    assert seen == [acknowledgement != common_pb2.ACKNOWLEDGEMENT_OWNER] * 4


# Tags.


async def test_value_without_its_tags(server: Server, cache: Any) -> None:
    """Get and GetMany return what was set, flags included: the tags are no part of it."""
    await cache.Set(pb.SetRequest(key=b"k", value=b"v", flags=3, tags=["b", "a", "b"]))
    entry = (await cache.Get(pb.GetRequest(key=b"k"))).entry
    assert (entry.value, entry.flags) == (b"v", 3)
    (result,) = (await cache.GetMany(pb.GetManyRequest(keys=[b"k"]))).results
    assert (result.entry.value, result.entry.flags) == (b"v", 3)
    record, _ = server.node.hit("default", b"k")
    assert int.from_bytes(record[4:8], "little") & TAGGED


async def test_set_without_tags_takes_them_away(cache: Any) -> None:
    """A value has the tags that it was set with, not those of the one before."""
    await store(cache, b"k", tags=("red",))
    await store(cache, b"k")
    await cache.Invalidate(pb.InvalidateRequest(tags=["red"]))
    assert await found(cache, b"k") == [True]


async def test_touch_keeps_the_tags(cache: Any) -> None:
    """A value with a new life is still found by its tags."""
    await store(cache, b"k", tags=("red",))
    await cache.Touch(pb.TouchRequest(key=b"k", ttl_ms=60_000))
    assert (await cache.Get(pb.GetRequest(key=b"k"))).entry.value == b"v"
    await cache.Invalidate(pb.InvalidateRequest(tags=["red"]))
    assert await found(cache, b"k") == [False]


@pytest.mark.parametrize("tags", [[""], ["x" * 129], [f"t{number}" for number in range(33)]])
async def test_wrong_tags_are_refused(cache: Any, tags: list[str]) -> None:
    """A tag that cannot be used fails the set."""
    with pytest.raises(aio.AioRpcError) as failed:
        await cache.Set(pb.SetRequest(key=b"k", value=b"v", tags=tags))
    assert (failed.value.code(), reason_of(failed.value)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_damaged_block_of_tags_is_refused(cache: Any) -> None:
    """A value that claims to begin with tags and does not is not stored."""
    with pytest.raises(aio.AioRpcError) as failed:
        await cache.Set(pb.SetRequest(key=b"k", value=b"\xff\xff", flags=TAGGED))
    assert reason_of(failed.value) == "INVALID_REQUEST"


# Watch.


async def watching(server: Server, cache: Any, **fields: Any) -> Any:
    """Return a watch that the node has taken up."""
    call = cache.Watch(pb.WatchRequest(**fields))
    log, turns = server.node.invalidations.log, 0
    while not log._news and turns < 10_000:
        await asyncio.sleep(0)
        turns += 1
    return call


async def test_watch_tells_of_keys_and_selectors(server: Server, cache: Any) -> None:
    """A watcher hears, in order and with numbers, what is written, dropped and barred from now on."""
    call = await watching(server, cache)
    await store(cache, b"k")
    await cache.Delete(pb.DeleteRequest(key=b"k"))
    await cache.Invalidate(pb.InvalidateRequest(prefixes=[b"user:"], tags=["red"]))
    events = [await asyncio.wait_for(call.read(), 10) for _ in range(3)]
    assert [event.sequence for event in events] == [1, 2, 3]
    assert {event.incarnation for event in events} == {server.node.placement.me.incarnation}
    assert [list(event.invalidation.keys) for event in events] == [[b"k"], [b"k"], []]
    assert (list(events[2].invalidation.selectors), list(events[2].invalidation.kinds)) == ([b"user:", b"red"], [1, 3])
    call.cancel()


async def test_watch_of_one_namespace(server: Server, cache: Any) -> None:
    """Other namespaces' events are left out; their numbers are passed over."""
    call = await watching(server, cache, namespace="mine")
    await store(cache, b"k", namespace="other")
    await store(cache, b"k", namespace="mine")
    event = await asyncio.wait_for(call.read(), 10)
    assert (event.sequence, event.invalidation.namespace) == (2, "mine")
    call.cancel()


async def test_watch_goes_on_where_it_left_off(server: Server, cache: Any) -> None:
    """With the node's incarnation and the last number nothing is missed in between."""
    call = await watching(server, cache)
    await store(cache, b"k")
    first = await asyncio.wait_for(call.read(), 10)
    call.cancel()
    await store(cache, b"l")
    again = cache.Watch(pb.WatchRequest(incarnation=first.incarnation, after=first.sequence))
    event = await asyncio.wait_for(again.read(), 10)
    assert (event.reset, list(event.invalidation.keys)) == (False, [b"l"])
    again.cancel()


async def test_watch_says_from_where_it_begins(server: Server, cache: Any) -> None:
    """The initial metadata comes at once, with incarnation and number: what happens from then on is told."""
    call = cache.Watch(pb.WatchRequest())
    metadata = dict(await asyncio.wait_for(call.initial_metadata(), 10))
    assert (metadata[INCARNATION_KEY], metadata[SEQUENCE_KEY]) == (server.node.placement.me.incarnation, "0")
    await store(cache, b"k")
    event = await asyncio.wait_for(call.read(), 10)
    assert (event.sequence, list(event.invalidation.keys)) == (1, [b"k"])
    call.cancel()


async def test_watch_of_an_unknown_namespace_is_refused(cache: Any) -> None:
    """A namespace that cannot be there has nothing to tell."""
    with pytest.raises(aio.AioRpcError) as failed:
        await cache.Watch(pb.WatchRequest(namespace="no such!")).read()
    assert (failed.value.code(), reason_of(failed.value)) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_NAMESPACE")


async def test_node_that_leaves_ends_the_watch(server: Server, cache: Any) -> None:
    """A node that stops tells all that it has to tell and ends the stream without an error."""
    call = cache.Watch(pb.WatchRequest())
    await call.initial_metadata()
    await store(cache, b"k")
    stopping = asyncio.create_task(server.stop())
    events = [event async for event in call]
    await stopping
    assert [event.sequence for event in events] == [1]
    assert await call.code() is grpc.StatusCode.OK


async def test_defect_in_a_watch_is_hidden(server: Server, cache: Any, monkeypatch: Any) -> None:
    """A defect ends a watch with INTERNAL, without the exception's text."""

    def fail(_after: int) -> None:
        raise ValueError("secret-canary")

    monkeypatch.setattr(server.node.invalidations.log, "follow", fail)
    with pytest.raises(aio.AioRpcError) as failed:
        await cache.Watch(pb.WatchRequest()).read()
    assert (failed.value.code(), reason_of(failed.value)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "canary" not in repr(failed.value)


@pytest.mark.parametrize("fields", [{"incarnation": "another", "after": 7}, {"after": 99}])
async def test_watch_says_when_it_cannot_go_on(server: Server, cache: Any, fields: dict[str, Any]) -> None:
    """After a restart, or a gap, the first event says that some may be missing, and from where it goes on."""
    if "incarnation" not in fields:
        fields = fields | {"incarnation": server.node.placement.me.incarnation}
    call = await watching(server, cache, **fields)
    event = await asyncio.wait_for(call.read(), 10)
    assert (event.reset, event.sequence) == (True, 0)
    await store(cache, b"k")
    event = await asyncio.wait_for(call.read(), 10)
    assert (event.reset, event.sequence) == (False, 1)
    call.cancel()
