"""Clients of a node that has too much to do, against a real one: they wait as long as they are told, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc import aio

from cachenode.core.shedding import Work
from cachenode.server import Server
from cachenode_api.v1 import cache_pb2, cache_pb2_grpc
from cachenode_client import CacheClient, ManyFailed, Overloaded
from cachenode_client import blocking as threads
from tests.support.server import running_server

KEYS = 100


@pytest.fixture
async def busy() -> AsyncIterator[Server]:
    """A node that has so many keys under way that it refuses writes: `rest` ends that."""
    async with running_server(limits__shed_lag_s=0.0, limits__shed_keys=KEYS) as server:
        server.node.shedding.began(KEYS * 3 // 2, 0)
        yield server


def rest(server: Server) -> None:
    """Let what keeps the node busy be done."""
    server.node.shedding.ended(KEYS * 3 // 2, 0)


async def refused_once(server: Server) -> None:
    """Return when the node has refused something."""
    async with asyncio.timeout(10):
        while not any(server.node.shedding.refused.values()):  # noqa: ASYNC110 - a counter, not an event
            await asyncio.sleep(0)


async def test_refused_call_is_done_once_the_node_has_time(busy: Server) -> None:
    """It is sent again after the time that the node has told, not at once."""
    async with CacheClient(busy.address, timeout_s=10) as cache:
        loop = asyncio.get_running_loop()
        began = loop.time()
        call = asyncio.create_task(cache.set("k", 1))
        await refused_once(busy)
        rest(busy)
        assert await call
        assert 0.375 <= loop.time() - began < 5, "1.5 times the limit: 375 ms, and up to half as much again"
        assert busy.node.shedding.refused[Work.WRITE] == 1
        assert cache.stats()["retries"] == 1
        assert await cache.get("k") == 1


async def test_many_keys_wait_together(busy: Server) -> None:
    """The keys of one call that were refused travel together again."""
    async with CacheClient(busy.address, timeout_s=10) as cache:
        call = asyncio.create_task(cache.set_many({f"k{number}": number for number in range(50)}))
        await refused_once(busy)
        rest(busy)
        assert len(await call) == 50
        assert busy.node.shedding.refused[Work.WRITE] == 50


async def test_no_time_to_wait(busy: Server) -> None:
    """A call that would be over by then fails at once, and says how long to wait; reads from memory go on."""
    async with CacheClient(busy.address, timeout_s=0.3) as cache:
        with pytest.raises(Overloaded, match="too much to do; again in 375 ms") as refused:
            await cache.set("k", 1, timeout_s=0.3)
        assert refused.value.retry_after_s == 0.375
        assert refused.value.retryable
        with pytest.raises(ManyFailed):
            await cache.set_many({"a": 1, "b": 2})
        with pytest.raises(Overloaded):
            await cache.get_or_load("k", lambda: 1, timeout_s=0.3)
        assert await cache.get("absent") is None
        assert await cache.delete("k") is False
        assert cache.stats()["retries"] == 0
        rest(busy)
        assert await cache.set("k", 1)


async def test_retries_are_paid_from_the_budget(busy: Server) -> None:
    """A client whose calls are all refused tries few of them again."""
    async with CacheClient(busy.address, timeout_s=1.0) as cache:
        results = await asyncio.gather(*(cache.set(f"k{number}", 1) for number in range(60)), return_exceptions=True)
        assert all(isinstance(each, Overloaded) for each in results)
        assert cache.stats()["retries"] < 30


async def test_threads_wait_too(busy: Server) -> None:
    """The blocking client does the same."""

    def work() -> int:
        with threads.CacheClient(busy.address, timeout_s=10) as cache:
            with pytest.raises(Overloaded):
                cache.set("k", 0, timeout_s=0.3)
            return cache.set("k", 1)

    call = asyncio.create_task(asyncio.to_thread(work))
    await refused_once(busy)
    busy.node.shedding.refused[Work.WRITE] = 0
    await refused_once(busy)
    rest(busy)
    assert await call


async def test_unary_calls_are_told(busy: Server) -> None:
    """The status says that there is too much, and the metadata after how many milliseconds gRPC may try again."""
    async with aio.insecure_channel(busy.address) as channel:
        cache = cache_pb2_grpc.CacheServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as failed:
            await cache.Set(cache_pb2.SetRequest(key=b"k", value=b"v"))
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        metadata = dict(failed.value.trailing_metadata() or ())
        assert (metadata["grpc-retry-pushback-ms"], metadata["cachenode-reason"]) == ("375", "OVERLOADED")
