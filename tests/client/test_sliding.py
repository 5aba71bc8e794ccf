"""Reads of both clients that renew a value's life, against a real node in this loop."""

from __future__ import annotations

import asyncio
import math

import pytest

from cachenode.server import Server
from cachenode_client import CacheClient, CacheUnavailable, InvalidTtl, NodeError
from cachenode_client import blocking as threads
from tests.support.server import free_port, running_server


async def test_value_that_is_asked_for_lives_on(server: Server) -> None:
    """For the life that the call names, or the namespace's; a plain `get` changes nothing, nor does the version."""
    async with CacheClient(server.address, timeout_s=10, near_cache=None) as cache:
        version = await cache.set("k", {"a": 1}, ttl_s=5)
        assert await cache.get("k") == {"a": 1}
        assert (await cache.ttl("k") or 0) <= 5
        assert await cache.get_and_touch("k", ttl_s=60) == {"a": 1}
        assert 50 < (await cache.ttl("k") or 0) <= 60
        assert await cache.get_and_touch("k") == {"a": 1}
        assert 3_500 < (await cache.ttl("k") or 0) <= 3_600
        assert await cache.get_and_touch("k", ttl_s=math.inf) == {"a": 1}
        found = await cache.lookup("k")
        assert (found.ttl_s, found.version) == (None, version)
        assert await cache.get_and_touch("absent", "nothing") == "nothing"
        with pytest.raises(InvalidTtl):
            await cache.get_and_touch("k", ttl_s=0)


async def test_threads(server: Server) -> None:
    """The blocking client does the same."""

    def work() -> None:
        with threads.CacheClient(server.address, timeout_s=10, near_cache=None) as cache:
            cache.set("k", 1, ttl_s=5)
            assert cache.get_and_touch("k", ttl_s=60) == 1
            assert 50 < (cache.ttl("k") or 0) <= 60
            assert cache.get_and_touch("absent", 2) == 2

    await asyncio.to_thread(work)


async def test_what_goes_wrong() -> None:
    """A namespace whose values are loaded anew refuses; a cluster that is away is a miss for whoever wants that."""
    async with running_server(namespaces__default__stale_s=5.0) as server:
        async with CacheClient(server.address, timeout_s=10) as cache:
            with pytest.raises(NodeError, match="loaded anew"):
                await cache.get_and_touch("k")
    away = f"127.0.0.1:{free_port()}"
    async with CacheClient(away, timeout_s=0.2) as cache:
        with pytest.raises(CacheUnavailable):
            await cache.get_and_touch("k")
    async with CacheClient(away, timeout_s=0.2, on_error="miss") as cache:
        assert await cache.get_and_touch("k", "nothing") == "nothing"

    def blocking() -> None:
        with threads.CacheClient(away, timeout_s=0.2, on_error="miss") as cache:
            assert cache.get_and_touch("k", "nothing") == "nothing"

    await asyncio.to_thread(blocking)
