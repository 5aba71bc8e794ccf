"""Two regions on one machine, with a Valkey each, and links that are cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from grpc import aio

from cachenode.cli.local_cluster import LocalCluster
from cachenode_api.v1 import admin_pb2, admin_pb2_grpc
from cachenode_client import CacheClient
from tests.support.eventually import eventually
from tests.support.proxy import Proxy

CONFIG = """
[namespaces.users]
regions = true

[regions]
lease_s = 2.0
"""
KEYS = [f"user:{number}" for number in range(200)]
CATCH_UP_S = 20.0


class Region:
    """A cluster that is a region, with a client, and the way that leads to it."""

    def __init__(self, cluster: LocalCluster, client: CacheClient, way: Proxy) -> None:
        self.cluster = cluster
        self.client = client
        self.way = way
        """Of what the other region sends here: to the first node."""

    async def fill(self, keys: Sequence[str] = KEYS) -> None:
        await self.client.set_many(dict.fromkeys(keys, "old"))

    async def cached(self, keys: Sequence[str] = KEYS) -> set[str]:
        return set(await self.client.get_many(keys))

    async def stats(self) -> list[admin_pb2.GetStatsResponse]:
        """Return the counters of each node that answers."""
        found = []
        for node in self.cluster.nodes:
            async with aio.insecure_channel(node.address) as channel:
                try:
                    stub = admin_pb2_grpc.AdminServiceStub(channel)
                    found.append(await stub.GetStats(admin_pb2.GetStatsRequest(), timeout=2))
                except aio.AioRpcError:
                    continue
        return found

    async def sender(self) -> str:
        """Return the node that sends, "" while there is none."""
        for stats in await self.stats():
            if any(region.sending for region in stats.regions):
                return stats.header.node_id
        return ""

    async def waiting(self) -> int:
        """Return how many entries the other region does not have; -1 while that is not known."""
        lags = [region.lag_entries for stats in await self.stats() for region in stats.regions if region.sending]
        return lags[0] if lags else -1

    async def applied(self) -> int:
        """Return how many of the other region's entries the nodes that run now have acted on."""
        return sum(region.applied for stats in await self.stats() for region in stats.origin_regions)

    async def gaps(self) -> int:
        return sum(region.gaps for stats in await self.stats() for region in stats.origin_regions)


@pytest.fixture
async def regions(tmp_path: Path) -> AsyncIterator[tuple[Region, Region]]:
    """East and west, two nodes each, introduced to each other."""
    async with two_regions(tmp_path) as both:
        yield both


@asynccontextmanager
async def two_regions(directory: Path) -> AsyncIterator[tuple[Region, Region]]:
    config = directory / "node.toml"
    config.write_text(CONFIG, encoding="utf-8")
    async with AsyncExitStack() as stack:
        ways = {name: await stack.enter_async_context(Proxy()) for name in ("east", "west")}
        found = []
        for name, other in (("east", "west"), ("west", "east")):
            cluster = LocalCluster(
                nodes=2,
                directory=directory / name,
                memory="64MiB",
                arguments=["--config", str(config)],
                region=name,
                peers=f"{other}={ways[other].address}",
            )
            await stack.enter_async_context(cluster)
            ways[name].target = cluster.nodes[0].address
            client = await stack.enter_async_context(CacheClient(cluster.address, namespace="users", timeout_s=20.0))
            found.append(Region(cluster, client, ways[name]))
        east, west = found
        for region in found:  # the first word of each is a gap: nothing shared is believed until then
            await eventually(region.gaps, within_s=CATCH_UP_S)
        yield east, west


async def test_region_that_is_cut_off_serves_on_and_catches_up(regions: tuple[Region, Region]) -> None:
    """The link is cut and restored: the lag is told, every invalidation arrives, none is acted on twice.

    Then the sending node is killed with a backlog: another one sends what waits, from where the region is.
    """
    east, west = regions
    await west.fill()
    await east.client.invalidate(KEYS[0])
    await eventually(lambda: _is(west.applied, 1), within_s=CATCH_UP_S)
    assert await west.cached() == set(KEYS[1:])

    west.way.cut()
    for key in KEYS[1:50]:  # one after the other, or they would be one entry
        await east.client.invalidate(key)
    await east.client.set(KEYS[50], "new")
    await east.client.invalidate(prefix="user:15")
    assert await west.cached() == set(KEYS[1:])
    await west.client.set(KEYS[0], "served on")
    await eventually(lambda: _is(east.waiting, 51), within_s=CATCH_UP_S)
    assert any(region.state == "cut" and region.lag_s > 0 for stats in await east.stats() for region in stats.regions)

    west.way.restore()
    await eventually(lambda: _is(east.waiting, 0), within_s=CATCH_UP_S)
    gone = {*KEYS[1:51], *(key for key in KEYS if key.startswith("user:15"))}
    assert await west.cached() == set(KEYS) - gone
    assert (await west.applied(), await west.gaps()) == (52, 1)
    assert await east.client.get(KEYS[50]) == "new"
    assert await east.applied() <= 3  # what west has written itself, its first fill once for each owner; no echo

    west.way.cut()
    for key in KEYS[51:80]:
        await east.client.invalidate(key)
    await eventually(lambda: _is(east.waiting, 29), within_s=CATCH_UP_S)
    await east.cluster.kill(await east.sender())
    west.way.restore()
    await eventually(lambda: _is(east.waiting, 0), within_s=CATCH_UP_S)
    assert await west.cached() == set(KEYS) - gone - set(KEYS[51:80])
    assert (await west.applied(), await west.gaps()) == (81, 1)


async def test_lost_receiver_and_lost_outbox(regions: tuple[Region, Region]) -> None:
    """What a killed node had not acknowledged comes again, to the next one.

    Then east's Valkey begins anew, empty: what it kept may concern anything, so west believes nothing that it had.
    """
    east, west = regions
    await west.fill()
    await east.client.invalidate(KEYS[0])
    await eventually(lambda: _is(west.applied, 1), within_s=CATCH_UP_S)
    await west.cluster.kill(west.cluster.nodes[0].id)
    west.way.cut()
    west.way.target = west.cluster.nodes[1].address
    west.way.restore()
    for key in KEYS[1:50]:
        await east.client.invalidate(key)
    await eventually(lambda: _is(east.waiting, 0), within_s=CATCH_UP_S)
    assert await west.cached() == set(KEYS[50:])
    assert await west.gaps() == 0  # the one that it began with came to the other node

    west.way.cut()
    await east.client.invalidate(KEYS[50])
    await east.cluster.kill(await east.sender())
    east.cluster.stop_l2()
    east.cluster.start_l2()
    west.way.restore()
    await eventually(lambda: _is(west.gaps, 1), within_s=CATCH_UP_S)
    assert await west.cached() == set()


async def _is(ask: Callable[[], Awaitable[int]], value: int) -> bool:
    return await ask() == value
