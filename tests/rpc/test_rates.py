"""Keys a second of each identity: who asks for more is told when to come again, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from grpc import aio

from cachenode.core.access import hash_of
from cachenode.rpc.status import PUSHBACK_KEY, REASON_KEY
from cachenode.server import Server
from cachenode_api.v1 import cache_pb2, cache_pb2_grpc
from cachenode_client import CacheClient, CacheError, Overloaded
from tests.support.server import running_server

RATE, BURST = 20, 40


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A node with a shop that has a rate of its own, another that has the common one, and one without."""
    rates = {"shop": RATE, "other": 0, "free": 1_000_000, "peer": 0}
    (tmp_path / "tokens.toml").write_text(
        "".join(
            f'[[token]]\nname = "{name}"\nsha256 = "{hash_of(name)}"\nkeys_per_s = {rate}\n'
            f'role = "{"peer" if name == "peer" else "write"}"\n'
            for name, rate in rates.items()
        )
    )
    (tmp_path / "peer").write_text("peer")
    settings: dict[str, Any] = {
        "auth__tokens_file": str(tmp_path / "tokens.toml"),
        "auth__peer_token_file": str(tmp_path / "peer"),
        "limits__client_keys_per_s": RATE,
    }
    async with running_server(**settings) as running:
        yield running


def client_of(server: Server, token: str, **options: Any) -> CacheClient:
    """Return a client that shows a token."""
    return CacheClient(server.address, token=token, near_cache=None, **options)


async def test_unary_calls(server: Server) -> None:
    """A call beyond the rate says when to come again; what ends a load is taken all the same."""
    async with aio.insecure_channel(server.address) as channel:
        cache: Any = cache_pb2_grpc.CacheServiceStub(channel)
        bearing = (("authorization", "Bearer shop"),)
        leader = await cache.GetOrLease(cache_pb2.GetOrLeaseRequest(key=b"k"), metadata=bearing)
        await cache.GetMany(cache_pb2.GetManyRequest(keys=[b"a"] * 100), metadata=bearing)
        with pytest.raises(aio.AioRpcError) as caught:
            await cache.Get(cache_pb2.GetRequest(key=b"k"), metadata=bearing)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "rate: more than 20 keys a second" in str(caught.value.details())
        told = dict(caught.value.trailing_metadata() or ())
        assert told[REASON_KEY] == "OVERLOADED"
        assert 2_000 < int(told[PUSHBACK_KEY]) < 3_200
        fulfil = cache_pb2.FulfillRequest(key=b"k", value=b"v", token=leader.token)
        assert (await cache.Fulfill(fulfil, metadata=bearing)).version
        for token in ("other", "free"):
            assert await cache.Get(cache_pb2.GetRequest(key=b"k"), metadata=(("authorization", f"Bearer {token}"),))
    assert server.stats().refused["rate"] == 1
    async with ClientSession() as http, http.get(f"http://{server.http_address}/metrics") as answer:
        assert 'cachenode_refused_calls_total{why="rate"} 1.0' in await answer.text()


async def test_clients_wait_as_long_as_they_are_told(server: Server) -> None:
    """The SDK comes again after that time, within the call's; without so much time it says how long it would be."""
    async with aio.insecure_channel(server.address) as channel, client_of(server, "shop", timeout_s=20.0) as shop:
        cache: Any = cache_pb2_grpc.CacheServiceStub(channel)
        await shop.set("k1", 1)
        bearing, much = (("authorization", "Bearer shop"),), cache_pb2.GetManyRequest(keys=[b"a"] * 2 * BURST)
        await cache.GetMany(much, metadata=bearing)
        began = asyncio.get_running_loop().time()
        assert await shop.get("k1") == 1
        assert asyncio.get_running_loop().time() - began > 0.2, "two seconds' worth are owed"
        taken = False
        while not taken:  # then much is owed again
            with contextlib.suppress(aio.AioRpcError):
                await cache.GetMany(much, metadata=bearing)
                taken = True
        with pytest.raises(Overloaded) as caught:
            await shop.get("k1", timeout_s=0.1)
        assert caught.value.retry_after_s > 0


async def test_a_flood_is_its_tenants_own(server: Server) -> None:
    """One tenant's flood over many sessions is refused; another's calls are all answered meanwhile. Scenario 68."""
    flooding = [client_of(server, "shop", timeout_s=20.0) for _ in range(3)]
    outcomes = {"taken": 0, "refused": 0}

    async def flood(client: CacheClient) -> None:
        for _ in range(100):
            try:
                await client.get("a", timeout_s=0.05)
                outcomes["taken"] += 1
            except Overloaded:
                outcomes["refused"] += 1
            except CacheError:  # the machine is busy, and the time short
                pass

    async with client_of(server, "free", timeout_s=20.0) as free:
        for client in flooding:
            await client.get("a")
        floods = [asyncio.create_task(flood(client)) for client in flooding]
        for number in range(200):
            await free.set(f"k{number}", number)
            assert await free.get(f"k{number}") == number
        await asyncio.gather(*floods)
    for client in flooding:
        await client.aclose()
    assert outcomes["refused"] > outcomes["taken"] > 0
    assert server.stats().refused["rate"] > 0
