"""Conditional sets and counters of both clients, against a real node in this loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cachenode.server import Server
from cachenode_client import CacheClient, CacheUnavailable, InvalidArgument, NodeError
from cachenode_client import blocking as threads
from cachenode_client._batches import INCR
from cachenode_client._engine import may_retry
from tests.support.server import free_port


async def test_add_and_replace(cache: CacheClient) -> None:
    """Add stores where nothing is, replace where something is; 0 says that nothing was done."""
    assert await cache.replace("k", 1) == 0
    first = await cache.add("k", {"a": 1}, ttl_s=50)
    assert first > 0
    assert await cache.add("k", 2) == 0
    assert await cache.get("k") == {"a": 1}
    assert 40 < (await cache.ttl("k") or 0) <= 50
    assert await cache.replace("k", None) > first
    assert await cache.add("k", 3) == 0, "None is a value"
    assert cache.stats()["sets"] == 2
    assert cache.stats()["errors"] == 0


async def test_set_if_version(cache: CacheClient) -> None:
    """A read-modify-write is safe with the version that was read."""
    version = await cache.set("k", [1])
    found = await cache.lookup("k")
    assert found.version == version
    newer = await cache.set("k", [*found.value, 2], if_version=found.version)
    assert newer > version
    assert await cache.set("k", ["lost"], if_version=found.version) == 0
    assert await cache.get("k") == [1, 2]


async def test_one_of_many_wins(server: Server) -> None:
    """Of many clients that add a key one does."""
    clients = [CacheClient(server.address, timeout_s=10) for _ in range(5)]
    results = await asyncio.gather(*(client.add("k", at) for at, client in enumerate(clients) for _ in range(4)))
    assert sum(version > 0 for version in results) == 1
    for client in clients:
        await client.aclose()


async def test_counters(server: Server, cache: CacheClient) -> None:
    """Calls at the same time all count, over clients; a counter is a whole number as any other value."""
    async with CacheClient(server.address, timeout_s=10) as other:
        results = await asyncio.gather(*(client.incr("n") for client in (cache, other) for _ in range(50)))
        assert sorted(results) == list(range(1, 101))
        assert await other.decr("n", 90) == 10
        assert await other.get("n") == 10
        assert await cache.set("n", -5)
        assert await cache.incr("n", 2**40) == 2**40 - 5
        assert await cache.incr("new", 3, ttl_s=50) == 3
        assert 40 < (await cache.ttl("new") or 0) <= 50


async def test_no_counter(cache: CacheClient) -> None:
    """A value of another kind is an error with a reason, and stays."""
    for value in ("5", 5.0, True, None, [5], 2**63):
        await cache.set("k", value)
        with pytest.raises(NodeError) as failed:
            await cache.incr("k")
        assert (failed.value.reason, failed.value.retryable) == ("not_a_counter", False)
        assert await cache.get("k") == value


@pytest.mark.parametrize("delta", [1.0, True, "1", 2**63, None])
async def test_wrong_arguments(cache: CacheClient, delta: Any) -> None:
    """What cannot be added, and what is no version, is refused before anything is sent."""
    for add in (cache.incr, cache.decr):
        with pytest.raises(InvalidArgument, match="delta: must be a whole number of at most 64 bits"):
            await add("n", delta)
    versions: list[Any] = [0, -1, 2**64 - 2, True, "1"]
    for version in versions:
        with pytest.raises(InvalidArgument, match="if_version: must be the version of a value"):
            await cache.set("k", 1, if_version=version)
    assert await cache.get("n") is None


async def test_without_a_cluster() -> None:
    """Under "miss" a conditional set is not done; a counter raises, since no number could stand for it."""
    async with CacheClient(f"127.0.0.1:{free_port()}", timeout_s=0.2, on_error="miss") as client:
        assert await client.add("k", 1) == 0
        assert await client.set("k", 1, if_version=5) == 0
        with pytest.raises(CacheUnavailable):
            await client.incr("n")


def test_an_increment_is_not_sent_twice() -> None:
    """After its node was lost an increment may have been done; before it was sent it surely was not."""
    assert not may_retry(INCR, CacheUnavailable(reason="connection_lost", retryable=False))
    assert may_retry(INCR, CacheUnavailable(reason="not_sent"))


async def test_threads(server: Server) -> None:
    """The blocking client's methods do what those of the asyncio client do."""

    def work() -> None:
        with threads.CacheClient(server.address, timeout_s=10) as client:
            assert client.replace("k", 1) == 0
            version = client.add("k", 1)
            assert client.add("k", 2) == 0
            assert client.set("k", 3, if_version=version + 1) == 0
            assert client.set("k", 4, if_version=version) > version
            assert [client.incr("k"), client.incr("k", 5, ttl_s=60), client.decr("k", 9)] == [5, 10, 1]
            with pytest.raises(InvalidArgument):
                client.decr("k", "1")  # type: ignore[arg-type]

    await asyncio.wait_for(asyncio.to_thread(work), 30)
