"""What clients see while the Redis behind the nodes fails over: real sentinels, a real Cluster, under load.

While a failover lasts, no read fails, 99 of 100 reads are answered within 250 ms, L2 is used again within 10 s, and
nothing is read that an acknowledged invalidation had made untrue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient
from tests.integration.fresh_load import FreshLoad
from tests.integration.load import until
from tests.integration.test_failures import stats_of
from tests.support.redis_topologies import SentinelSet, sentinel_set

P99_S = 0.25
RECOVERY_S = 10.0


async def l2_states(cluster: LocalCluster) -> set[str]:
    """Return the states of L2 on all nodes."""
    return {(await stats_of(node.address)).l2_state for node in cluster.nodes}


@asynccontextmanager
async def loaded_cluster(directory: Path, url: str) -> AsyncIterator[tuple[LocalCluster, FreshLoad]]:
    """Run three nodes on a Redis, with readers and writers who are busy; at the end nothing may have gone wrong."""
    async with LocalCluster(nodes=3, directory=directory, memory="64MiB", l2_url=url) as cluster:

        async def l2_in_use() -> bool:
            return await l2_states(cluster) == {"closed"}

        await until(l2_in_use, 10.0, "L2 in use")
        async with CacheClient(cluster.address, timeout_s=2) as client:
            load = FreshLoad(client)
            async with load:
                await until(lambda: load.acknowledged > 300 and len(load.reads) > 2_000, 20, "load before the fault")
                yield cluster, load
            assert load.stale == []
            assert [repr(error) for _, error in load.failed] == []


async def recovers(cluster: LocalCluster, load: FreshLoad, since: float) -> None:
    """Wait until L2 is used again, and some more; check what the readers felt."""

    async def away() -> bool:
        return "closed" not in await l2_states(cluster)

    async def back() -> bool:
        return await l2_states(cluster) == {"closed"}

    await until(away, RECOVERY_S, "the nodes notice")
    await until(back, RECOVERY_S, "L2 is used again")
    took = time.monotonic() - since
    await asyncio.sleep(1.0)
    p99 = load.p99_s(since)
    print(f"recovery {took:.2f} s, p99 {p99 * 1_000:.1f} ms, {len(load.reads)} reads, {len(load.unsure)} unsure writes")
    assert p99 < P99_S
    assert took < RECOVERY_S


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSet]:
    """Run a master, two replicas and three sentinels."""
    with sentinel_set(tmp_path_factory.mktemp("sentinel")) as running:
        yield running


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_sentinel_failover(tmp_path: Path, sentinels: SentinelSet, fault: str) -> None:
    """The master dies, or freezes and wakes up when another has its place: readers notice neither.

    Scenarios 34 and 36.
    """
    async with loaded_cluster(tmp_path, sentinels.url) as (cluster, load):
        master = sentinels.master()
        since = time.monotonic()
        if fault == "killed":
            master.kill()
        else:
            master.freeze()
        await recovers(cluster, load, since)
        assert sentinels.master() is not master
        if fault == "frozen":
            master.thaw()  # and takes itself for the master until the sentinels find it
            await until(lambda: master.info()["role"] == "slave", 20.0, "it is made a replica")
            assert load.p99_s(since) < P99_S
        assert await l2_states(cluster) == {"closed"}
