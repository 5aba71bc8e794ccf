"""Expiring through both clients and the unary service: a value is served marked while it is loaded anew."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from grpc import aio

from cachenode.core.stats import NamespaceCounters
from cachenode.server import Server
from cachenode_api.v1 import cache_pb2 as pb
from cachenode_api.v1 import cache_pb2_grpc, common_pb2
from cachenode_client import CacheClient, InvalidArgument
from cachenode_client.blocking import CacheClient as BlockingClient
from tests.support.eventually import eventually
from tests.support.server import running_server

WAYS: list[dict[str, Any]] = [
    {"keys": "k"},
    {"keys": ["k", "j"]},
    {"prefix": "k"},
    {"pattern": "?"},
    {"tags": ["red"]},
    {},
]


def counters(server: Server) -> NamespaceCounters:
    """Return what the node has counted of the namespace."""
    return next(each for each in server.stats().namespaces if each.name == "n")


@pytest.mark.parametrize("way", WAYS)
async def test_expired_values_are_marked_until_they_are_loaded(way: dict[str, Any]) -> None:
    """The copy of a near cache goes, the value comes marked, and one load replaces it."""
    async with running_server(namespaces__n__stale_s=60.0) as server:
        async with CacheClient(server.address, namespace="n", timeout_s=10) as cache:
            await cache.set("k", "old", tags=["red"])
            assert await cache.get("k") == "old"
            assert (await cache.lookup("k")).layer == "near"
            await cache.invalidate(**way, namespace="n", mode="expire")
            entry = await cache.lookup("k")
            assert (entry.value, entry.stale, entry.layer) == ("old", True, "l1")
            stored = counters(server).sets
            assert await cache.get_or_load("k", lambda: "new") == "old"

            await eventually(lambda: counters(server).sets > stored)
            entry = await cache.lookup("k")
            assert (entry.value, entry.stale, counters(server).expired) == ("new", False, 1)


async def test_blocking_client_and_unary_call_expire() -> None:
    """Both have the mode; one that does not exist is refused before anything is sent."""
    async with running_server(namespaces__n__stale_s=60.0) as server:

        def use() -> None:
            with BlockingClient(server.address, namespace="n", timeout_s=10) as cache:
                for key in ("a", "b", "c"):
                    cache.set(key, key)
                assert cache.invalidate("a", mode="expire") == 1
                with cache.after_commit() as later:
                    later.invalidate("b", mode="expire")
                assert [cache.lookup(key).stale for key in ("a", "b", "c")] == [True, True, False]
                with pytest.raises(InvalidArgument, match="mode"):
                    cache.invalidate("a", mode="forget")  # type: ignore[arg-type]

        await asyncio.to_thread(use)
        async with aio.insecure_channel(server.address) as channel:
            stub: Any = cache_pb2_grpc.CacheServiceStub(channel)
            expire = common_pb2.INVALIDATION_MODE_EXPIRE
            await stub.Invalidate(pb.InvalidateRequest(namespace="n", prefixes=[b"c"], mode=expire))
            entry = (await stub.Get(pb.GetRequest(namespace="n", key=b"c"))).entry
            assert (entry.found, entry.stale) == (True, True)
            await stub.Invalidate(pb.InvalidateRequest(namespace="n", keys=[b"c"]))
            assert not (await stub.Get(pb.GetRequest(namespace="n", key=b"c"))).entry.found
