"""Sessions, their batches, and which calls are sent again, with every answer written by the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from cachenode_api.v1 import common_pb2 as pb
from cachenode_api.v1.session_pb2 import ServerFrame, ServerHello
from cachenode_client import (
    CacheClient,
    CacheError,
    CacheTimeout,
    CacheUnavailable,
    InvalidKey,
    ManyFailed,
    NodeError,
    Overloaded,
    _session,
)
from cachenode_client._batches import DELETE, GET, SET, TOUCH, EachBatch, Group
from cachenode_client._engine import may_retry, parts
from cachenode_client._session import _SPLIT_KEYS, Session
from cachenode_client.errors import from_reason
from tests.support.eventually import eventually
from tests.support.scripted_node import ScriptedNode, record

READ: Group = (GET, "default", 5.0, False, 0, False, b"")


def new_session(address: str = "127.0.0.1:1") -> Session:
    """Return a session that has not been run: its queue is the test's."""
    return Session(
        address,
        client_name="",
        sdk_version="",
        on_frame=lambda *_: None,
        on_end=lambda _: None,
        on_reply=lambda: None,
    )


def waiter() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


# Replies.


async def test_reply_in_several_parts(scripted: ScriptedNode) -> None:
    """Keys of a batch answered in parts and in another order reach those who asked for them, as they come."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        first, second, third = (asyncio.create_task(client.get(key)) for key in "abc")
        batch = await scripted.next_batch()
        await scripted.reply(batch, indices=[2], records=[record(b"3")])
        assert await third == b"3"
        assert not first.done()
        await scripted.reply(batch, indices=[1, 0], records=[record(b"2"), record(b"1")])
        assert [await first, await second] == [b"1", b"2"]


async def test_many_keys_in_several_parts(scripted: ScriptedNode) -> None:
    """A call with many keys waits for the last part and puts each result in its place."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        call = asyncio.create_task(client.get_many(["a", "b", "c"]))
        batch = await scripted.next_batch()
        await scripted.reply(batch, indices=[1], records=[record(b"2")])
        await scripted.reply(batch, indices=[2, 0], records=[b"", record(b"1")])
        assert await call == {"a": b"1", "b": b"2"}


async def test_late_reply_is_ignored(scripted: ScriptedNode) -> None:
    """An answer after the call's time is dropped; the session goes on and mixes nothing up."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        with pytest.raises(CacheTimeout):
            await client.get("late", timeout_s=0.05)
        late = await scripted.next_batch()
        await scripted.reply(late, records=[record(b"late")])
        call = asyncio.create_task(client.get("next"))
        await scripted.answer([b"next"])
        assert await call == b"next"
        assert scripted.sessions == 1


@pytest.mark.parametrize(
    "columns",
    [
        {"records": [record(b"1")]},
        {"records": [record(b"1")] * 3},
        {"indices": [7], "records": [record(b"1")]},
        {"indices": [0, 1], "records": [record(b"1")]},
        {"records": [record(b"1")] * 2, "reasons": [0]},
        {"records": [record(b"1")] * 2, "reasons": [11, 11]},
        {"versions": [1]},
    ],
)
@pytest.mark.parametrize("many", [False, True])
async def test_malformed_reply_fails_the_batch(scripted: ScriptedNode, columns: Any, many: bool) -> None:
    """A reply that does not fit its request is a NodeError for whoever has no result yet, and nothing more."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        call: asyncio.Future[Any]
        if many:
            call = asyncio.gather(client.get_many(["a", "b"]), return_exceptions=True)
        else:
            call = asyncio.gather(client.get("a"), client.get("b"), return_exceptions=True)
        await scripted.reply(await scripted.next_batch(), **columns)
        results = await call
        errors = [error for result in results for error in getattr(result, "errors", {0: result}).values()]
        failed = [error for error in errors if isinstance(error, NodeError)]
        assert {error.reason for error in failed} == {"malformed_reply"}
        assert all(result == b"1" for result in errors if not isinstance(result, NodeError))
        again = asyncio.create_task(client.get("c"))
        await scripted.answer([b"3"])
        assert await again == b"3"
        assert scripted.sessions == 1


async def test_reasons_of_the_node_become_errors(scripted: ScriptedNode) -> None:
    """Keys of one batch fail one by one, each with its reason; the text of the node is kept."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        call = asyncio.gather(*(client.get(key) for key in "abcd"), return_exceptions=True)
        batch = await scripted.next_batch()
        await scripted.reply(
            batch,
            records=[b"", record(b"2"), b"", b""],
            reasons=[pb.REASON_INVALID_KEY, 0, pb.REASON_INTERNAL, 999],
            details=["key: as the node says", "", "", ""],
        )
        first, second, third, fourth = await call
        assert (type(first), str(first)) == (InvalidKey, "key: as the node says")
        assert second == b"2"
        assert (type(third), third.reason) == (NodeError, "internal")
        assert (type(fourth), fourth.reason) == (NodeError, "unknown")


async def test_hello_names_the_client(scripted: ScriptedNode) -> None:
    """The node is told who connects."""
    async with CacheClient(scripted.address, timeout_s=10, client_name="orders") as client:
        await client.view()
        await eventually(lambda: scripted.hellos)
        assert scripted.hellos[0].client_name == "orders"
        assert scripted.hellos[0].sdk_version


# What travels.


async def test_columns_of_a_batch(scripted: ScriptedNode) -> None:
    """Sets of one turn share a batch: values, flags, and a TTL column that begins where the first TTL is given."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        calls = asyncio.gather(
            client.set("a", b"1"), client.set("b", "2"), client.set("c", 3, ttl_s=1.5), client.set("d", None)
        )
        batch = await scripted.next_batch()
        assert (batch.operation, batch.namespace, batch.timeout_ms) == (SET, "default", 10_000)
        assert list(batch.keys) == [b"a", b"b", b"c", b"d"]
        assert list(batch.values) == [b"1", b"2", b"3", b""]
        assert list(batch.flags) == [0, 1, 2, 5]
        assert list(batch.ttls_ms) == [0, 0, 1_500, 0]
        await scripted.reply(batch, versions=[1, 2, 3, 4])
        assert list(await calls) == [1, 2, 3, 4]


async def test_batches_stay_below_the_nodes_frame() -> None:
    """Batches and frames are as small as the smallest node asks, whatever is put in them."""
    session = new_session()
    session._greeted(ServerHello(node_id="node-0", incarnation="1", max_frame_bytes=64 << 10))
    for number in range(200):
        session.join(READ, b"%01000d" % number, waiter())
        session.submit((SET, "default", 5.0, False, 0, False, b""), b"k", waiter(), value=b"x" * 20_000)
    sizes = []
    while session._queue:
        sizes.append(session._compose().ByteSize())
    assert len(sizes) > 60
    assert max(sizes) <= 64 << 10
    session._fail_all()


def test_portions_count_keys_and_values() -> None:
    """Many keys are cut by number and by bytes; none is lost, none comes twice, order stays."""
    raws = [b"k" * 1_000] * 5_000
    for encoded in (None, [(b"v" * 500, 0)] * 5_000):
        portions = parts(list(range(5_000)), raws, encoded, most_keys=4_096, most_bytes=1 << 20)
        assert [index for part in portions for index in part] == list(range(5_000))
        per_key = 1_000 if encoded is None else 1_500
        assert max(len(part) * per_key for part in portions) <= 1 << 20
    short = parts(list(range(10_000)), [b"k"] * 10_000, None, most_keys=4_096, most_bytes=1 << 20)
    assert [len(part) for part in short] == [4_096, 4_096, 1_808]
    alone = parts(
        [0, 1, 2], [b"k"] * 3, [(b"x" * 2_000, 0), (b"", 0), (b"x" * 2_000, 0)], most_keys=4_096, most_bytes=1_000
    )
    assert alone == [[0], [1], [2]]


# The end of a session.


async def test_end_tells_sent_from_unsent() -> None:
    """What was not sent may be sent elsewhere; what was sent is lost, and a write may have happened."""
    session = new_session()
    sent, unsent = waiter(), waiter()
    session.join(READ, b"sent", sent)
    session._compose()
    session.join(READ, b"unsent", unsent)
    assert session.in_flight == 2
    session._fail_all()
    assert session.in_flight == 0
    lost, kept = sent.exception(), unsent.exception()
    assert (type(lost), lost.reason, lost.retryable) == (CacheUnavailable, "connection_lost", False)
    assert (type(kept), kept.reason, kept.retryable) == (CacheUnavailable, "not_sent", True)


async def test_hello_after_the_goodbye_greets_nobody() -> None:
    """A node that stood still answers when its session says goodbye: the session is taken for ready by nobody.

    It would never be replaced, since the router had heard of its end before; the simulation found this.
    """
    told: list[ServerFrame] = []
    session = Session(
        "127.0.0.1:1",
        client_name="",
        sdk_version="",
        on_frame=lambda _session, frame: told.append(frame),
        on_end=lambda _: None,
        on_reply=lambda: None,
    )

    async def late() -> AsyncIterator[ServerFrame]:
        yield ServerFrame(hello=ServerHello(node_id="a", incarnation="1", max_frame_bytes=1 << 20, max_batch_keys=10))

    session._closing = True
    with pytest.raises(CacheUnavailable):
        await session._read(late())  # type: ignore[arg-type]
    assert (session.ready, told) == (False, [])


async def test_join_after_the_end_fails_at_once() -> None:
    """Whoever still holds a session that has ended is told so in the same turn, and may go elsewhere."""
    session = new_session()
    session._closing = True
    late = waiter()
    session.join(READ, b"k", late)
    with pytest.raises(CacheUnavailable) as caught:
        await asyncio.wait_for(late, 1)
    assert caught.value.reason == "not_sent"


async def test_frozen_node_is_noticed(scripted: ScriptedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that keeps its connection and falls silent loses its session, and what was under way with it."""
    monkeypatch.setattr("cachenode_client._session.HEARTBEAT_S", 0.05)
    monkeypatch.setattr("cachenode_client._session.SILENCE_S", 0.2)
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        scripted.beats = False
        with pytest.raises(CacheUnavailable) as caught:
            await client.set("k", 1)
        assert caught.value.reason == "connection_lost"


@pytest.mark.both_loops
async def test_node_that_never_answers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes the connection and says nothing, not even a first word, is given up as one that falls silent."""
    monkeypatch.setattr("cachenode_client._session.HEARTBEAT_S", 0.05)
    monkeypatch.setattr("cachenode_client._session.SILENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        session = new_session(f"127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(CacheUnavailable, match="not been heard from"):
            await asyncio.wait_for(session.run(), 5)


# What is sent again.


RETRIES: list[tuple[CacheError, set[int]]] = [
    (CacheTimeout(), set()),
    (InvalidKey(), set()),
    (NodeError(), set()),
    (Overloaded(), {GET, SET, DELETE, TOUCH}),
    (CacheUnavailable(reason="no_node"), {GET, SET, DELETE, TOUCH}),
    (CacheUnavailable(reason="not_sent"), {GET, SET, DELETE, TOUCH}),
    (CacheUnavailable(reason="connection_lost", retryable=False), {GET, DELETE, TOUCH}),
    (from_reason(pb.REASON_NOT_READY), {GET, SET, DELETE, TOUCH}),
    (from_reason(pb.REASON_NOT_OWNER), {GET, SET, DELETE, TOUCH}),
    (from_reason(pb.REASON_OWNER_UNREACHABLE), {GET, SET, DELETE, TOUCH}),
    (from_reason(pb.REASON_UNCERTAIN), {GET, DELETE, TOUCH}),
    (from_reason(pb.REASON_DEADLINE_EXCEEDED), set()),
    (from_reason(pb.REASON_UNKNOWN_NAMESPACE), set()),
    (from_reason(pb.REASON_INTERNAL), set()),
]


@pytest.mark.parametrize(("error", "operations"), RETRIES, ids=[f"{row[0].reason}" for row in RETRIES])
def test_what_may_be_sent_again(error: CacheError, operations: set[int]) -> None:
    """A set goes again only if it surely was not done; reads, deletes and touches also if their fate is not known."""
    assert {operation for operation in (GET, SET, DELETE, TOUCH) if may_retry(operation, error)} == operations


Call = Callable[[CacheClient], Coroutine[Any, Any, Any]]


@pytest.mark.parametrize(
    ("call", "columns", "result"),
    [
        (lambda c: c.get("k"), {"records": [record(b"v")]}, b"v"),
        (lambda c: c.contains("k"), {"records": [record(b"v")]}, True),
        (lambda c: c.get_many(["k"]), {"records": [record(b"v")]}, {"k": b"v"}),
        (lambda c: c.delete("k"), {"versions": [7]}, True),
        (lambda c: c.touch("k", ttl_s=5), {"versions": [7]}, True),
    ],
)
async def test_lost_call_is_sent_again(scripted: ScriptedNode, call: Call, columns: Any, result: Any) -> None:
    """A read, delete or touch whose session is lost is sent again over the next session, unchanged."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        scripted.drops = 1
        running = asyncio.create_task(call(client))
        batch = await scripted.next_batch()
        await scripted.reply(batch, **columns)
        assert await running == result
        (first,) = scripted.dropped
        assert (first.operation, list(first.keys), list(first.ttls_ms)) == (
            batch.operation,
            list(batch.keys),
            list(batch.ttls_ms),
        )
        assert client.stats()["retries"] == 1


@pytest.mark.parametrize("many", [False, True])
async def test_lost_set_is_not_sent_again(scripted: ScriptedNode, many: bool) -> None:
    """A set whose session is lost raises: it may have happened. The next call goes over a new session."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        scripted.drops = 1
        with pytest.raises(CacheError) as caught:
            await (client.set_many({"k": 1}) if many else client.set("k", 1))
        error = caught.value.errors["k"] if isinstance(caught.value, ManyFailed) else caught.value
        assert (type(error), error.reason, error.retryable) == (CacheUnavailable, "connection_lost", False)
        running = asyncio.create_task(client.get("k"))
        batch = await scripted.answer([b"v"])
        assert batch.operation == GET
        assert await running == b"v"
        assert client.stats()["retries"] == 0


async def test_refused_set_is_sent_again(scripted: ScriptedNode) -> None:
    """A set that the node refused, and so did not do, is sent again with value and TTL."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        running = asyncio.create_task(client.set("k", b"v", ttl_s=5))
        refused = await scripted.next_batch()
        await scripted.reply(refused, versions=[0], reasons=[pb.REASON_NOT_READY], details=[""])
        batch = await scripted.next_batch()
        assert (list(batch.values), list(batch.ttls_ms)) == ([b"v"], [5_000])
        await scripted.reply(batch, versions=[9])
        assert await running == 9


async def test_retries_are_bounded(scripted: ScriptedNode) -> None:
    """A call that fails and fails is tried six times in all, then its last error is raised."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        running = asyncio.create_task(client.get("k"))
        for _ in range(6):
            await scripted.reply(
                await scripted.next_batch(), records=[b""], reasons=[pb.REASON_NOT_READY], details=[""]
            )
        with pytest.raises(CacheUnavailable) as caught:
            await asyncio.wait_for(running, 5)
        assert caught.value.reason == "not_ready"
        assert scripted.batches.empty()
        assert client.stats()["retries"] == 5


# Halves.


def each_batch(count: int, *, ttls: bool = False) -> EachBatch:
    """Return a batch of sets, with the TTL column left out or whole."""
    batch = EachBatch((SET, "default", 5.0, False, 0, False, b""))
    for at in range(count):
        batch.keys.append(b"k%d" % at)
        batch.values.append(b"v%d" % at)
        batch.flags.append(at)
        batch.waiters.append(waiter())
        if ttls:
            batch.ttls_ms.append(1_000 + at)
    return batch


@pytest.mark.parametrize("ttls", [False, True])
async def test_split_keeps_columns_together(ttls: bool) -> None:
    """Both halves hold the keys in their order, each key with its own value, flags, TTL and waiter."""
    batch, whole = each_batch(33, ttls=ttls), each_batch(33, ttls=ttls)
    batch.deadline, waiters = 7.0, list(batch.waiters)
    later = batch.split()
    assert (len(batch.keys), len(later.keys)) == (16, 17)
    assert (batch.deadline, later.deadline, later.group) == (7.0, 7.0, batch.group)
    assert batch.waiters + later.waiters == waiters
    for name in ("keys", "values", "flags", "ttls_ms"):
        assert getattr(batch, name) + getattr(later, name) == getattr(whole, name)
    assert len(later.ttls_ms) == (17 if ttls else 0)


async def test_crowd_leaves_in_halves(scripted: ScriptedNode) -> None:
    """Many calls of one turn go as two frames if nothing is under way, and each caller gets its own answer."""
    keys = [f"key{at}" for at in range(2 * _SPLIT_KEYS)]
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        calls = asyncio.gather(*(client.get(key) for key in keys))
        first, second = await scripted.next_batch(), await scripted.next_batch()
        assert [key.decode() for key in [*first.keys, *second.keys]] == keys
        assert len(first.keys) == len(second.keys)
        assert first.id != second.id
        await scripted.reply(second, records=[record(key) for key in second.keys])
        await scripted.reply(first, records=[record(key) for key in first.keys])
        assert await calls == [key.encode() for key in keys]


async def test_small_or_second_batch_stays_whole(scripted: ScriptedNode) -> None:
    """A few calls go as one frame; so do many while an answer is awaited: the callers are out of step already."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        few = asyncio.gather(*(client.get(f"few{at}") for at in range(_SPLIT_KEYS - 1)))
        under_way = await scripted.next_batch()
        assert len(under_way.keys) == _SPLIT_KEYS - 1
        many = asyncio.gather(*(client.get(f"many{at}") for at in range(2 * _SPLIT_KEYS)))
        whole = await scripted.next_batch()
        assert len(whole.keys) == 2 * _SPLIT_KEYS
        for batch in (under_way, whole):
            await scripted.reply(batch, records=[record(b"")] * len(batch.keys))
        await few
        await many


async def test_both_halves_end_at_the_deadline(scripted: ScriptedNode) -> None:
    """A half without an answer times out as the whole batch would have, and the other keeps its results."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        await client.view()
        keys = [f"key{at}" for at in range(_SPLIT_KEYS)]
        calls = asyncio.gather(*(client.get(key, timeout_s=0.3) for key in keys), return_exceptions=True)
        first = await scripted.next_batch()
        await scripted.reply(first, records=[record(key) for key in first.keys])
        results = await calls
        half = len(keys) // 2
        assert results[:half] == [key.encode() for key in keys[:half]]
        assert {type(result) for result in results[half:]} == {CacheTimeout}


# Small frames.


async def crowd_under_way(scripted: ScriptedNode, client: CacheClient, count: int) -> tuple[Any, asyncio.Future[Any]]:
    """Return a batch of so many callers that the node has and has not answered, and the callers."""
    await client.view()
    calls = asyncio.gather(*(client.get(f"crowd{at}") for at in range(count)))
    batch = await scripted.next_batch()
    assert len(batch.keys) == count
    return batch, calls


async def test_small_frame_waits_for_a_reply(scripted: ScriptedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call beside a crowd's is held; those whom the next reply brings back leave with it in one frame."""
    monkeypatch.setattr(_session, "_HOLD_S", 60)
    async with CacheClient(scripted.address, timeout_s=10) as client:
        batch, calls = await crowd_under_way(scripted, client, 30)
        before = client.stats()["frames_sent"]
        lone = asyncio.create_task(client.get("lone"))
        for _ in range(50):
            await asyncio.sleep(0)
        assert client.stats()["frames_sent"] == before
        others = asyncio.gather(*(client.get(f"again{at}") for at in range(3)))
        await scripted.reply(batch, indices=[29], records=[record(b"")])
        together = await scripted.next_batch()
        assert sorted(together.keys) == [b"again0", b"again1", b"again2", b"lone"]
        await scripted.reply(together, records=[record(b"")] * 4)
        await scripted.reply(batch, indices=range(29), records=[record(b"")] * 29)
        await asyncio.gather(lone, others, calls)


async def test_small_frame_does_not_wait_long(scripted: ScriptedNode) -> None:
    """Without any reply what is held leaves by itself."""
    async with CacheClient(scripted.address, timeout_s=10) as client:
        batch, calls = await crowd_under_way(scripted, client, 30)
        lone = asyncio.create_task(client.get("lone"))
        await scripted.answer([b"found"])
        assert await lone == b"found"
        await scripted.reply(batch, records=[record(b"")] * 30)
        await calls


async def test_frame_beside_few_or_beside_one_callers_many_is_not_held(
    scripted: ScriptedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call waits neither for a handful of others nor for a large batch: no crowd comes back from those."""
    monkeypatch.setattr(_session, "_HOLD_S", 60)
    async with CacheClient(scripted.address, timeout_s=10) as client:
        batch, calls = await crowd_under_way(scripted, client, 8)
        many = asyncio.create_task(client.get_many([f"many{at}" for at in range(100)]))
        large = await scripted.next_batch()
        lone = asyncio.create_task(client.get("lone"))
        await scripted.answer([b"found"])
        assert await lone == b"found"
        await scripted.reply(batch, records=[record(b"")] * 8)
        await scripted.reply(large, records=[record(b"")] * 100)
        await asyncio.gather(calls, many)
