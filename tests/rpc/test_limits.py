"""What is refused because it is too much: the answer names what, the limit and the size, and the node goes on.

Scenarios 56 and 61: oversized values and metadata, and who connects and says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from grpc import aio
from h2.events import PingAckReceived
from pydantic import ValidationError

from cachenode.adapters.peer_links import _OPTIONS
from cachenode.config.limits import LimitsConfig
from cachenode.server import Server
from cachenode_api.reasons import Reason
from cachenode_api.records import TAGGED
from cachenode_api.tags import canonical_tags, pack_tags
from cachenode_api.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    cache_pb2,
    cache_pb2_grpc,
    common_pb2,
    session_pb2,
    session_pb2_grpc,
)
from cachenode_client._channels import CHANNEL_OPTIONS
from tests.rpc.test_session_service import ended, get_batch, replies_of, set_batch
from tests.support.eventually import eventually
from tests.support.raw_http2 import RawConnection

INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
LONG_TEXT = "k" * 33


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """Return how a call was refused, and with which words."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


SMALL = {
    "limits.max_key_bytes": 32,
    "limits.max_value_bytes": 100,
    "limits.max_tags": 2,
    "limits.max_parents": 1,
    "limits.max_selectors": 3,
    "limits.max_pattern_bytes": 20,
    "limits.max_pattern_stars": 2,
    "limits.max_batch_keys": 4,
}
Set, Invalidate = cache_pb2.SetRequest, cache_pb2.InvalidateRequest
PARENTS = [cache_pb2.Parent(key=b"a"), cache_pb2.Parent(key=b"b")]


@pytest.mark.parametrize(
    ("method", "request_", "said"),
    [
        ("Set", Set(key=LONG_TEXT.encode(), value=b"v"), "key: 33 bytes, must be 1 to 32"),
        ("Set", Set(key=b"k", value=bytes(101)), "value: 101 bytes exceed the limit of 100 bytes"),
        ("Set", Set(key=b"k", tags=["a", "b", "c"]), "tags: 3 exceed the limit of 2"),
        ("Set", Set(key=b"k", depends_on=PARENTS), "depends_on: 2 keys exceed the limit of 1"),
        ("Incr", cache_pb2.IncrRequest(key=LONG_TEXT.encode()), "key: 33 bytes, must be 1 to 32"),
        ("Invalidate", Invalidate(prefixes=[b"p"] * 4), "selectors: 4 in one invalidation exceed the limit of 3"),
        ("Invalidate", Invalidate(patterns=[b"p" * 21]), "pattern: 21 bytes exceed the limit of 20 bytes"),
        ("Invalidate", Invalidate(patterns=[b"*a*b*"]), "pattern: 3 * exceed the limit of 2"),
        ("Invalidate", Invalidate(tags=["t" * 129]), "129 bytes"),
        ("GetMany", cache_pb2.GetManyRequest(keys=[b"k"] * 5), "keys: 5 in one call, must be 1 to 4"),
    ],
)
async def test_too_large_in_unary_calls(method: str, request_: Any, said: str, start_server: Any) -> None:
    """Each limit has its words, and what is just within it is taken."""
    server = await start_server(SMALL)
    async with aio.insecure_channel(server.address) as channel:
        cache = cache_pb2_grpc.CacheServiceStub(channel)
        code, text = await refusal(getattr(cache, method)(request_))
        assert code in {INVALID, EXHAUSTED}
        assert said in text
        assert LONG_TEXT not in text
        fits = Set(key=b"k" * 32, value=bytes(80), tags=["a", "b"], depends_on=PARENTS[:1])
        assert (await cache.Set(fits)).version
        await cache.Invalidate(Invalidate(patterns=[b"*a*"], prefixes=[b"p"], tags=["t"]))
        await cache.Delete(cache_pb2.DeleteRequest(key=LONG_TEXT.encode()))  # it may be from before the limit


async def test_too_large_in_sessions(start_server: Any) -> None:
    """The same limits, key by key: what fits in a batch is done."""
    server = await start_server(SMALL)
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = session_pb2_grpc.SessionServiceStub(channel)
        call = stub.Session()
        await call.read()
        batch = set_batch(1, **{LONG_TEXT: b"v", "k": b"v", "t": pack_tags(canonical_tags(["a", "b", "c"]))})
        batch.flags.extend([0, 0, TAGGED])
        await call.write(session_pb2.ClientFrame(batches=[batch]))
        replies = await replies_of(call, 1)
        while sum(len(reply.versions) for reply in replies) < 3:
            replies += await replies_of(call, 1)
        outcomes = {}
        for reply in replies:
            for at, index in enumerate(reply.indices or range(3)):
                outcomes[index] = reply.versions[at] or reply.reasons[at]
        assert outcomes[0] == Reason.INVALID_KEY
        assert outcomes[1] > 1_000, "no version"
        assert outcomes[2] == Reason.INVALID_REQUEST
        call.cancel()


async def test_keys_and_loads_of_one_session(start_server: Any) -> None:
    """A session waits for so many keys and holds so many loads; when they end it may go on."""
    server = await start_server({"limits.max_session_keys": 5, "limits.max_session_leases": 3})
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = session_pb2_grpc.SessionServiceStub(channel)
        call = stub.Session()
        await call.read()

        async def ask(batch: common_pb2.Batch) -> list[common_pb2.Reply]:
            await call.write(session_pb2.ClientFrame(batches=[batch]))
            return await replies_of(call, 1)

        def lease(number: int, *keys: bytes) -> common_pb2.Batch:
            return common_pb2.Batch(id=number, operation=common_pb2.OPERATION_LEASE, keys=keys, lease_ms=60_000)

        [reply] = await ask(get_batch(1, *(b"%d" % number for number in range(6))))
        assert set(reply.reasons) == {Reason.OVERLOADED}
        assert "keys under way: 6 exceed the limit of 5" in reply.details[0]
        [reply] = await ask(lease(2, b"a", b"b", b"c"))
        assert all(reply.tokens)
        tokens = list(reply.tokens)
        [reply] = await ask(lease(3, b"d"))
        assert "loads open: 4 exceed the limit of 3" in reply.details[0]
        assert reply.retry_after_ms
        ending = common_pb2.Batch(id=4, operation=common_pb2.OPERATION_ABANDON, keys=[b"a"], tokens=tokens[:1])
        await ask(ending)
        [reply] = await ask(lease(5, b"d"))
        assert all(reply.tokens)
        call.cancel()


async def test_calls_at_a_time(start_server: Any) -> None:
    """Calls beyond their number are refused and may come again; sessions and health are not among them."""
    server = await start_server({"limits.max_calls": 2, "limits.max_watchers": 1})
    async with aio.insecure_channel(server.address) as channel:
        cache: Any = cache_pb2_grpc.CacheServiceStub(channel)
        leader = await cache.GetOrLease(cache_pb2.GetOrLeaseRequest(key=b"k"))
        waiting = [cache.GetOrLease(cache_pb2.GetOrLeaseRequest(key=b"k")) for _ in range(2)]
        await eventually(lambda: server.node.namespaces.get("default").load_waits == 2)
        assert await refusal(cache.Get(cache_pb2.GetRequest(key=b"k"))) == (
            EXHAUSTED,
            "calls: 3 exceed the limit of 2; slow down",
        )
        session = session_pb2_grpc.SessionServiceStub(channel).Session()
        await session.write(session_pb2.ClientFrame(batches=[get_batch(1, b"other")]))
        await replies_of(session, 1)
        fulfil = common_pb2.Batch(
            id=2, operation=common_pb2.OPERATION_FULFILL, keys=[b"k"], values=[b"v"], tokens=[leader.token]
        )
        await session.write(session_pb2.ClientFrame(batches=[fulfil]))
        assert [(await task).entry.value for task in waiting] == [b"v", b"v"]
        assert (await cache.Get(cache_pb2.GetRequest(key=b"k"))).entry.value == b"v"
        session.cancel()
        first = cache.Watch(cache_pb2.WatchRequest())
        await first.initial_metadata()
        second = cache.Watch(cache_pb2.WatchRequest())
        assert await second.code() is EXHAUSTED
        assert await second.details() == "watchers: 2 exceed the limit of 1; slow down"
        first.cancel()


async def test_large_metadata(start_server: Any) -> None:
    """Headers over the limit are refused, whatever the call; those below it are taken."""
    server: Server = await start_server()
    async with aio.insecure_channel(server.address, options=[("grpc.max_metadata_size", 1 << 20)]) as channel:
        cache: Any = cache_pb2_grpc.CacheServiceStub(channel)
        for size, refused in ((4_000, False), (17_000, True), (4_000, False)):
            call = cache.Get(cache_pb2.GetRequest(key=b"k"), metadata=(("x-large", "x" * size),))
            assert (await call.code() is EXHAUSTED) is refused
        admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
        assert (await admin.GetStats(admin_pb2.GetStatsRequest())).uptime_s


async def test_bomb(start_server: Any) -> None:
    """A message that is small until it is unpacked is refused by its size then. Scenario 57."""
    server: Server = await start_server()
    options = [("grpc.max_send_message_length", -1)]
    async with aio.insecure_channel(server.address, options=options, compression=grpc.Compression.Gzip) as channel:
        cache: Any = cache_pb2_grpc.CacheServiceStub(channel)
        code, text = await refusal(cache.Set(Set(key=b"k", value=bytes(32 << 20))))
        assert code is EXHAUSTED
        assert "larger than max" in text
        assert (await cache.Set(Set(key=b"k", value=bytes(1 << 20)))).version, "compression as such is fine"


async def test_connections_at_a_time(start_server: Any) -> None:
    """Connections over their number are closed at once; as soon as others are gone there is room again."""
    server: Server = await start_server({"limits.max_connections": 8})
    taken = [await RawConnection.open(server.address) for _ in range(12)]
    await eventually(lambda: sum(each.closed for each in taken) == 4)
    for each in taken:
        await each.close()

    async def served() -> bool:
        async with aio.insecure_channel(server.address) as channel:
            cache: Any = cache_pb2_grpc.CacheServiceStub(channel)
            with contextlib.suppress(aio.AioRpcError):
                return bool((await cache.Set(Set(key=b"k", value=b"v"))).version)
        return False

    async with asyncio.timeout(20):
        while not await served():
            pass


async def test_who_says_nothing(start_server: Any) -> None:
    """A connection on which gRPC is not spoken in time is closed, one that is idle later; sessions stay."""
    server: Server = await start_server({"limits.handshake_timeout_s": 0.2, "limits.connection_idle_s": 1.0})
    host, _, port = server.address.rpartition(":")
    async with aio.insecure_channel(server.address) as channel:
        session: Any = session_pb2_grpc.SessionServiceStub(channel).Session()
        await session.read()
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                await reader.read()
        writer.close()
        async with await RawConnection.open(server.address) as idle:
            await eventually(lambda: idle.went_away is not None, within_s=20)
        await session.write(session_pb2.ClientFrame(batches=[get_batch(1, b"k")]))
        await replies_of(session, 1)
        session.cancel()


async def test_pings(start_server: Any) -> None:
    """Who pings more often than allowed loses the connection; one ping is answered."""
    server: Server = await start_server()
    async with await RawConnection.open(server.address) as connection:
        for _ in range(5):
            connection.http2.ping(b"12345678")
        await connection.flush()
        await eventually(lambda: connection.closed, within_s=20)
    async with await RawConnection.open(server.address) as connection:
        connection.http2.ping(b"12345678")
        await connection.flush()
        await eventually(lambda: any(isinstance(event, PingAckReceived) for event in connection.events))
        assert not connection.closed


def test_own_clients_ping_less_often() -> None:
    """The clients' and peers' own pings are no strikes, whatever interval a node is told. Scenario 54."""
    most_s = LimitsConfig.model_validate({"min_ping_interval_s": 5.0}).min_ping_interval_s
    with pytest.raises(ValidationError):
        LimitsConfig.model_validate({"min_ping_interval_s": 5.1})
    for options in (CHANNEL_OPTIONS, _OPTIONS):
        assert dict(options)["grpc.keepalive_time_ms"] >= 2_000 * most_s


async def test_old_connections_end(start_server: Any) -> None:
    """Where connections may only become so old their sessions end, too, and a client comes again."""
    server: Server = await start_server({"limits.connection_age_s": 0.5, "limits.stop_grace_s": 0.2})
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = session_pb2_grpc.SessionServiceStub(channel)
        first = stub.Session()
        assert await ended(first) is grpc.StatusCode.UNAVAILABLE
        second = stub.Session()
        assert (await second.read()).HasField("hello")
        second.cancel()
