from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.core.entries import BatchResult, Failure
from cachenode.rpc.cache import fill_entry, joined
from cachenode.rpc.status import REASON_KEY
from cachenode.server import Server
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, NO_TTL_MS, STALE
from cachenode_api.v1 import cache_pb2 as pb
from cachenode_api.v1 import common_pb2
from cachenode_api.version import ABSENT_VERSION, ANY_VERSION
from tests.support.eventually import eventually


def reason_of(error: aio.AioRpcError) -> str:
    """Return the stable reason of a failed call."""
    return str(dict(error.trailing_metadata() or ())[REASON_KEY])


async def test_one_key_through_its_life(server: Server, cache: Any) -> None:
    """Set, Get, Touch and Delete act on one entry, and each reply says who answered under which view."""
    absent = await cache.Get(pb.GetRequest(key=b"k"))
    assert not absent.entry.found
    stored = await cache.Set(pb.SetRequest(key=b"k", value=b"v", flags=7, ttl_ms=60_000))
    assert stored.version > 0
    assert (stored.header.node_id, stored.header.view_epoch) == ("n0", server.node.placement.epoch)

    entry = (await cache.Get(pb.GetRequest(key=b"k"))).entry
    assert (entry.found, entry.value, entry.flags, entry.version) == (True, b"v", 7, stored.version)
    assert 0 < entry.ttl_ms <= 60_000
    assert (entry.layer, entry.stale) == (common_pb2.LAYER_L1, False)

    assert (await cache.Touch(pb.TouchRequest(key=b"k", ttl_ms=NO_TTL_MS))).found
    assert not (await cache.Get(pb.GetRequest(key=b"k"))).entry.HasField("ttl_ms")
    assert (await cache.Delete(pb.DeleteRequest(key=b"k"))).found
    assert not (await cache.Delete(pb.DeleteRequest(key=b"k"))).found
    assert not (await cache.Touch(pb.TouchRequest(key=b"k", ttl_ms=1_000))).found


async def test_empty_namespace_is_the_default(cache: Any) -> None:
    """A caller who names no namespace shares the one called default, and no other."""
    await cache.Set(pb.SetRequest(key=b"k", value=b"v"))
    assert (await cache.Get(pb.GetRequest(namespace="default", key=b"k"))).entry.found
    assert not (await cache.Get(pb.GetRequest(namespace="other", key=b"k"))).entry.found


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (pb.SetRequest(key=b"", value=b"v"), "INVALID_ARGUMENT", "INVALID_KEY"),
        (pb.SetRequest(key=b"k" * 1_025, value=b"v"), "INVALID_ARGUMENT", "INVALID_KEY"),
        (pb.SetRequest(key=b"k", value=b"v" * 1_048_577), "INVALID_ARGUMENT", "VALUE_TOO_LARGE"),
        (pb.SetRequest(key=b"k", value=b"v", namespace="no such!"), "NOT_FOUND", "UNKNOWN_NAMESPACE"),
    ],
)
async def test_failure_of_the_only_key_is_the_calls(
    cache: Any, request_: pb.SetRequest, code: str, reason: str
) -> None:
    """A unary call of one key fails with the reason's status, and carries the stable reason."""
    with pytest.raises(aio.AioRpcError) as failed:
        await cache.Set(request_)
    assert failed.value.code() is grpc.StatusCode[code]
    assert reason_of(failed.value) == reason


async def test_get_many_keys_fail_one_by_one(cache: Any) -> None:
    """A bad key among many fails alone: the others are answered in the order of the request."""
    await cache.Set(pb.SetRequest(key=b"a", value=b"1"))
    answer = await cache.GetMany(pb.GetManyRequest(keys=[b"", b"a", b"x" * 1_025, b"absent"]))
    assert [result.error.reason for result in answer.results] == [1, 0, 1, 0]
    assert [result.HasField("error") for result in answer.results] == [True, False, True, False]
    assert [result.entry.found for result in answer.results] == [False, True, False, False]
    assert answer.results[1].entry.value == b"1"
    assert "1,024" in answer.results[0].error.detail


async def test_set_many_keys_fail_one_by_one(cache: Any) -> None:
    """A bad key or value among many fails alone: the others are stored."""
    items = [
        pb.SetManyRequest.Item(key=b"", value=b"v"),
        pb.SetManyRequest.Item(key=b"big", value=b"v" * 1_048_577),
        pb.SetManyRequest.Item(key=b"good", value=b"v", flags=3, ttl_ms=NO_TTL_MS),
    ]
    answer = await cache.SetMany(pb.SetManyRequest(items=items))
    reasons = [result.error.reason for result in answer.results]
    assert reasons == [Reason.INVALID_KEY, Reason.VALUE_TOO_LARGE, Reason.OK]
    assert [result.version > 0 for result in answer.results] == [False, False, True]
    found = await cache.GetMany(pb.GetManyRequest(keys=[b"good", b"big"]))
    assert [result.entry.found for result in found.results] == [True, False]
    assert found.results[0].entry.flags == 3


async def test_unknown_namespace_fails_each_key_of_many(cache: Any) -> None:
    """In calls of many keys even a namespace that does not exist is said per key."""
    answer = await cache.GetMany(pb.GetManyRequest(namespace="no such!", keys=[b"a", b"b"]))
    assert [result.error.reason for result in answer.results] == [Reason.UNKNOWN_NAMESPACE] * 2


async def test_number_of_keys_is_limited(start_server: Any) -> None:
    """None, or more keys than allowed, is a malformed call whose text names the limit."""
    server = await start_server({"limits.max_batch_keys": 3})
    async with aio.insecure_channel(server.address) as channel:
        from cachenode_api.v1 import cache_pb2_grpc

        cache: Any = cache_pb2_grpc.CacheServiceStub(channel)
        for keys in ([], [b"k"] * 4):
            with pytest.raises(aio.AioRpcError, match="must be 1 to 3") as failed:
                await cache.GetMany(pb.GetManyRequest(keys=keys))
            assert reason_of(failed.value) == "INVALID_REQUEST"
        assert len((await cache.GetMany(pb.GetManyRequest(keys=[b"k"] * 3))).results) == 3


async def test_node_without_a_view_is_not_ready(start_server: Any) -> None:
    """Before the node has a place in the cluster, calls fail with UNAVAILABLE so that callers go elsewhere."""
    options = {"cluster.discovery": "static", "cluster.seeds": "127.0.0.1:1", "cluster.bootstrap_wait_s": 600}
    server = await start_server(options, joined=False)
    async with aio.insecure_channel(server.address) as channel:
        from cachenode_api.v1 import cache_pb2_grpc

        cache: Any = cache_pb2_grpc.CacheServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as failed:
            await cache.Get(pb.GetRequest(key=b"k"))
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(failed.value) == "NOT_READY"
        many = await cache.GetMany(pb.GetManyRequest(keys=[b"k"]))
        assert many.results[0].error.reason == Reason.NOT_READY


async def test_callers_deadline_reaches_the_node(server: Server, cache: Any, monkeypatch: Any) -> None:
    """The node gets the time that the caller has left, and none from a caller without a deadline."""
    seen: list[float] = []
    execute = server.node.execute

    def spy(batch: Any, reply: Any) -> Any:
        seen.append(batch.timeout_s)
        return execute(batch, reply)

    monkeypatch.setattr(server.node, "execute", spy)
    await cache.Get(pb.GetRequest(key=b"k"), timeout=30)
    await cache.Get(pb.GetRequest(key=b"k"))
    assert 20 < seen[0] < 31
    assert seen[1] == 0


def test_parts_are_joined_in_the_order_of_the_keys() -> None:
    """Whatever order the parts of a batch arrive in, each result and failure lands at its key."""
    late = Failure(Reason.DEADLINE_EXCEEDED)
    first = BatchResult(indices=[2], records=[b"r2"], layers=[2], now_s=5.0)
    second = BatchResult(indices=[1, 0], records=[b"", b"r0"], failures={0: late})
    whole = joined([first, second], 3, is_get=True)
    assert (whole.records, whole.layers, whole.failures) == ([b"r0", b"", b"r2"], [1, 1, 2], {1: late})
    assert whole.now_s == 5.0
    writes = joined([BatchResult(indices=[1], versions=[9]), BatchResult(indices=[0], versions=[8])], 2, is_get=False)
    assert writes.versions == [8, 9]


def test_stale_record_is_marked_and_its_flags_are_the_writers() -> None:
    """The mark of staleness is told as such and not as part of the caller's flags; a life that is over is 0."""
    record = HEADER.pack(1, 5 | STALE, 77, 10.0) + b"v"
    entry = pb.Entry()
    fill_entry(entry, record, 11.0, 1)
    assert (entry.stale, entry.flags, entry.ttl_ms, entry.value) == (True, 5, 0, b"v")


# Changes by what is there.


async def test_set_with_a_condition(cache: Any) -> None:
    """A set asks for a version, for any, or for none; if that is not there the call fails and nothing is done."""
    first = (await cache.Set(pb.SetRequest(key=b"k", value=b"1", if_version=ABSENT_VERSION))).version
    for wrong in (ABSENT_VERSION, first + 1):
        with pytest.raises(aio.AioRpcError) as failed:
            await cache.Set(pb.SetRequest(key=b"k", value=b"x", if_version=wrong))
        assert (failed.value.code(), reason_of(failed.value)) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "CONDITION_FAILED",
        )
    second = (await cache.Set(pb.SetRequest(key=b"k", value=b"2", if_version=first))).version
    assert (await cache.Set(pb.SetRequest(key=b"k", value=b"3", if_version=ANY_VERSION))).version > second > first
    assert (await cache.Get(pb.GetRequest(key=b"k"))).entry.value == b"3"


async def test_counter(cache: Any) -> None:
    """Calls at the same time all count; what is not a number is refused."""
    answers = await asyncio.gather(*(_response(cache.Incr(pb.IncrRequest(key=b"n", delta=3))) for _ in range(10)))
    assert sorted(answer.value for answer in answers) == list(range(3, 33, 3))
    assert (await cache.Incr(pb.IncrRequest(key=b"n", delta=-40, ttl_ms=60_000))).value == -10
    await cache.Set(pb.SetRequest(key=b"n", value=b"text"))
    with pytest.raises(aio.AioRpcError) as failed:
        await cache.Incr(pb.IncrRequest(key=b"n", delta=1))
    assert reason_of(failed.value) == "NOT_A_COUNTER"


# Loads.


async def test_one_caller_loads_and_the_others_wait(server: Server, cache: Any) -> None:
    """GetOrLease gives one token per absent key; Fulfill stores and answers those who wait, and later callers hit."""
    lease = await cache.GetOrLease(pb.GetOrLeaseRequest(key=b"k"))
    assert (lease.token > 0, lease.entry.found) == (True, False)
    waiting = cache.GetOrLease(pb.GetOrLeaseRequest(key=b"k"), timeout=10)
    namespace = server.node.namespaces.get("default")
    asked = asyncio.ensure_future(_response(waiting))
    await eventually(lambda: namespace.load_waits == 1)
    stored = await cache.Fulfill(pb.FulfillRequest(key=b"k", token=lease.token, value=b"v", flags=7, ttl_ms=60_000))
    assert stored.version > lease.token
    entry = (await asked).entry
    assert (entry.value, entry.flags, entry.version, (await asked).token) == (b"v", 7, stored.version, 0)
    found = await cache.GetOrLease(pb.GetOrLeaseRequest(key=b"k"))
    assert (found.entry.value, found.token) == (b"v", 0)
    late = await cache.Fulfill(pb.FulfillRequest(key=b"k", token=lease.token, value=b"late"))
    assert late.version == 0


async def test_lease_given_back(server: Server, cache: Any) -> None:
    """Abandon lets another load, or tells those who wait of a failure, or that there is no value."""
    namespace = server.node.namespaces.get("default")
    for number, (failure, absent) in enumerate((("", True), ("", False), ("OSError", False))):
        key = b"k%d" % number
        token = (await cache.GetOrLease(pb.GetOrLeaseRequest(key=key, lease_ms=9_000))).token
        before = namespace.load_waits
        asked = asyncio.ensure_future(_response(cache.GetOrLease(pb.GetOrLeaseRequest(key=key), timeout=10)))
        await eventually(lambda: namespace.load_waits > before)  # noqa: B023 - called in this round only
        await cache.Abandon(pb.AbandonRequest(key=key, token=token, failure=failure, absent=absent))
        if failure:
            with pytest.raises(aio.AioRpcError) as failed:
                await asked
            assert (failed.value.code(), reason_of(failed.value)) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "LOAD_FAILED",
            )
            assert failed.value.details() == "the load failed: OSError"
        else:
            answer = await asked
            assert (answer.entry.found, answer.token > token) == (False, not absent)


async def test_text_of_a_failure_is_limited(cache: Any) -> None:
    """A long text is refused with the limit; the lease goes on."""
    token = (await cache.GetOrLease(pb.GetOrLeaseRequest(key=b"k"))).token
    with pytest.raises(aio.AioRpcError, match="failure: 201 characters exceed the limit of 200"):
        await cache.Abandon(pb.AbandonRequest(key=b"k", token=token, failure="x" * 201))
    assert (await cache.Fulfill(pb.FulfillRequest(key=b"k", token=token, value=b"v"))).version


async def _response(call: Any) -> Any:
    return await call
