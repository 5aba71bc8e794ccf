"""One load in the whole cluster, with real nodes and real client processes, some of which die."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from cachenode.cli.local_cluster import LocalCluster
from cachenode_api.ring import Ring
from cachenode_client import CacheClient
from tests.integration.load import until
from tests.support.loading_clients import answers, go, loads, processes


async def test_a_thousand_callers_load_once(tmp_path: Path) -> None:
    """1,000 concurrent callers in 4 processes over 3 nodes cause exactly one load, and all get its value.

    Scenario 2.
    """
    log = tmp_path / "loads"
    async with LocalCluster(nodes=3, directory=tmp_path / "c") as cluster:
        addresses = ",".join(node.address for node in cluster.nodes)
        async with processes(4, addresses, "one", 250, 0.5, log) as callers:
            for process in callers:
                go(process)
            found = [result for process in callers for result in await answers(process)]
    assert found == loads(log) * 1_000
    assert len(found) == 1_000


async def test_a_killed_loader_is_replaced_at_once(tmp_path: Path) -> None:
    """The process that loads is killed: another loads long before the lease ends, and nobody fails. Scenario 3."""
    log = tmp_path / "loads"
    async with LocalCluster(nodes=3, directory=tmp_path / "c") as cluster:
        async with processes(3, cluster.address, "two", 20, 1.0, log) as callers:
            go(callers[0])
            await until(lambda: loads(log), 10, "the first load")
            for process in callers[1:]:
                go(process)
            async with CacheClient(cluster.address) as client:
                await client.view()
            os.kill(callers[0].pid, signal.SIGKILL)
            found = [result for process in callers[1:] for result in await asyncio.wait_for(answers(process), 15)]
    first, second = loads(log)
    assert first == callers[0].pid
    assert found == [second] * 40


async def test_a_killed_owner_fails_nobody(tmp_path: Path) -> None:
    """The node that owns the key is killed during the load: callers go on with its successor, and all get a value.

    Scenario 3.
    """
    log = tmp_path / "loads"
    async with LocalCluster(nodes=3, directory=tmp_path / "c") as cluster:
        async with CacheClient(cluster.address) as client:
            owner = Ring(await client.view()).owner(b"three")
            assert owner is not None
        addresses = ",".join(node.address for node in cluster.nodes)
        async with processes(3, addresses, "three", 20, 3.0, log) as callers:
            for process in callers:
                go(process)
            await until(lambda: loads(log), 10, "the first load")
            await cluster.kill(owner)
            found = [result for process in callers for result in await asyncio.wait_for(answers(process), 25)]
    assert len(found) == 60
    assert set(found) <= set(loads(log))
    assert len(loads(log)) <= 4, "the owner's, its stand-in's, its successor's, and one for who was late there"
