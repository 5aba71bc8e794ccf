"""What clients see while the Redis behind the nodes fails over: real sentinels, a real Cluster, under load.

While a failover lasts, no read fails, 99 of 100 reads are answered within 250 ms, L2 is used again within 10 s, and
nothing is read that an acknowledged invalidation had made untrue.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.crc import key_slot

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient
from tests.integration.fresh_load import FreshLoad
from tests.integration.load import until
from tests.integration.test_failures import stats_of
from tests.support.eventually import assert_within
from tests.support.redis_topologies import ClusterSet, Process, SentinelSet, cluster, sentinel_set

P99_S = 0.25
RECOVERY_S = 10.0
MOVED_SLOTS = 20


async def l2_states(nodes: LocalCluster) -> set[str]:
    """Return the states of L2 on all nodes."""
    return {(await stats_of(node.address)).l2_state for node in nodes.nodes}


@asynccontextmanager
async def loaded_cluster(directory: Path, url: str) -> AsyncIterator[tuple[LocalCluster, FreshLoad]]:
    """Run three nodes on a Redis, with readers and writers who are busy; at the end nothing may have gone wrong."""
    async with LocalCluster(nodes=3, directory=directory, memory="64MiB", l2_url=url) as nodes:

        async def l2_in_use() -> bool:
            return await l2_states(nodes) == {"closed"}

        await until(l2_in_use, 10.0, "L2 in use")
        async with CacheClient(nodes.address, timeout_s=2) as client:
            load = FreshLoad(client)
            async with load:
                await until(lambda: load.acknowledged > 100 and len(load.reads) > 1_000, 30, "load before the fault")
                yield nodes, load
            assert load.stale == []
            assert [repr(error) for _, error in load.failed] == []


async def notices(nodes: LocalCluster) -> None:
    """Wait until no node uses L2."""

    async def away() -> bool:
        return "closed" not in await l2_states(nodes)

    await until(away, RECOVERY_S, "the nodes notice")


async def recovers(nodes: LocalCluster, load: FreshLoad, since: float) -> None:
    """Wait until L2 is used again, and some more; check what the readers felt."""

    async def back() -> bool:
        return await l2_states(nodes) == {"closed"}

    await until(back, RECOVERY_S, "L2 is used again")
    took = time.monotonic() - since
    await asyncio.sleep(1.0)
    p99 = load.p99_s(since)
    print(
        f"recovery {took:.2f} s, p99 {p99 * 1_000:.1f} ms, longest {load.longest_s(since):.2f} s, "
        f"{len(load.reads)} reads, {len(load.unsure)} unsure writes"
    )
    assert_within(p99, P99_S, "99 of 100 reads")
    assert_within(took, RECOVERY_S, "L2 is used again")


async def wakes(master: Process, load: FreshLoad) -> None:
    """Let a former master run again, which takes itself for the master until it is told."""
    since, before = time.monotonic(), len(load.reads)
    master.thaw()
    await until(lambda: asyncio.to_thread(_is, master, "slave"), 20.0, "it is made a replica")
    print(f"a replica after {time.monotonic() - since:.2f} s")
    await until(lambda: len(load.reads) > before + 200, 20.0, "reads")


def _is(server: Process, role: str) -> bool:
    return bool(server.info()["role"] == role)


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
    async with loaded_cluster(tmp_path, sentinels.url) as (nodes, load):
        master = sentinels.master()
        since = time.monotonic()
        if fault == "killed":
            master.kill()
        else:
            master.freeze()
        await notices(nodes)
        await recovers(nodes, load, since)
        assert sentinels.master() is not master
        if fault == "frozen":
            await wakes(master, load)  # the sentinels have to find it
        assert await l2_states(nodes) == {"closed"}


@pytest.fixture(scope="module")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSet]:
    """Run a Cluster of three masters with a replica each."""
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


async def test_slots_that_move_are_felt_by_nobody(
    tmp_path: Path, redis_cluster: ClusterSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the keys moves to another master while they are read and written: L2 is used all the time.

    Scenario 37.
    """
    monkeypatch.setenv("CACHENODE_L2__TIMEOUT_S", "1.0")  # two busy cores are late by themselves
    async with loaded_cluster(tmp_path, redis_cluster.url) as (nodes, load):
        since, before = time.monotonic(), len(load.reads)
        first, second = redis_cluster.nodes[:2]
        names = [f"cn:{nodes.name}:default:k{number}".encode() for number in range(load.keys)]
        slots = {key_slot(name) for name in names} & await asyncio.to_thread(redis_cluster.slots_of, first)
        for slot in sorted(slots)[:MOVED_SLOTS]:
            await asyncio.to_thread(redis_cluster.move_slot, slot, second)
        await until(lambda: len(load.reads) > before + 1_000, 30.0, "reads")
        stats = [await stats_of(node.address) for node in nodes.nodes]
        assert {each.l2_state for each in stats} == {"closed"}
        assert [each.l2_errors for each in stats] == [0, 0, 0]
        assert_within(load.p99_s(since), P99_S, "99 of 100 reads")


async def test_cluster_failover(tmp_path: Path, redis_cluster: ClusterSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The master that keeps the membership freezes, and wakes when its replica has its place; then that one dies.

    Readers notice neither, nobody believes the one that wakes, and it takes its place back with all that it missed.
    Scenarios 36 and 37. `FAILOVERS` is how often a master freezes: every other time it wakes only when L2 is used
    again.
    """
    monkeypatch.setenv("CACHENODE_CLUSTER__LEASE_S", "8")  # as the page says for the servers' cluster-node-timeout
    async with loaded_cluster(tmp_path, redis_cluster.url) as (nodes, load):
        for number in range(int(os.environ.get("FAILOVERS", "1"))):
            master, replica = await asyncio.to_thread(membership_of, redis_cluster, nodes)
            since = time.monotonic()
            master.freeze()
            await notices(nodes)
            await until(lambda replica=replica: asyncio.to_thread(_is, replica, "master"), 10.0, "a new master")
            if number % 2 == 0:
                await wakes(master, load)
            await recovers(nodes, load, since)
            if number % 2:
                await wakes(master, load)
            assert await l2_states(nodes) == {"closed"}
        master, _ = await asyncio.to_thread(membership_of, redis_cluster, nodes)
        since = time.monotonic()
        master.kill()
        await notices(nodes)
        await recovers(nodes, load, since)


def membership_of(redis_cluster: ClusterSet, nodes: LocalCluster) -> tuple[Process, Process]:
    """Return the master that keeps the membership, and its replica."""
    master = redis_cluster.owner(f"cn:{{{nodes.name}}}:registry".encode())
    return master, redis_cluster.replica_of(master)
