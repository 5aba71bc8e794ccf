"""`LocalCluster` as tests and the demonstration use it: its L2, its name, and nodes that come back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cachenode.cli.local_cluster import ClusterError, LocalCluster
from cachenode_client import CacheClient


async def test_clusters_on_one_redis_stay_apart(tmp_path: Path) -> None:
    """Two clusters on the same L2 are not members of each other, and each stops without the other."""
    async with LocalCluster(nodes=1, directory=tmp_path / "a") as one:
        async with LocalCluster(nodes=1, directory=tmp_path / "b", l2_url=one.l2_url) as two:
            async with CacheClient(two.address) as client:
                assert len((await client.view()).members) == 1
            with pytest.raises(ClusterError, match="not started by this cluster"):
                two.stop_l2()
        async with CacheClient(one.address) as client:
            await client.set("k", 1)
            assert await client.get("k") == 1


async def test_a_client_that_only_asked_for_the_view_closes(tmp_path: Path) -> None:
    """Closing right after the first answer ends the client's tasks, the one that looked for a node included."""
    async with LocalCluster(nodes=1, directory=tmp_path / "c") as cluster:
        client = CacheClient(cluster.address)
        await client.view()
        async with asyncio.timeout(5):
            await client.aclose()


async def test_nodes_outlive_their_l2(tmp_path: Path) -> None:
    """Without L2 the nodes go on with what they have; it comes back where it was, and they use it again.

    Scenario 33.
    """
    async with LocalCluster(nodes=2, directory=tmp_path / "c") as cluster, CacheClient(cluster.address) as client:
        await client.set("k", 1)
        url, first = cluster.l2_url, cluster.l2_pid
        cluster.stop_l2()
        cluster.stop_l2()
        assert cluster.l2_pid is None
        assert await client.get("k", timeout_s=5) == 1
        cluster.start_l2()
        assert cluster.l2_url == url
        assert cluster.l2_pid not in {None, first}
        assert await client.get("k", timeout_s=5) == 1


async def test_a_restarted_node_keeps_its_place(tmp_path: Path) -> None:
    """A node comes back under its old name and address as a new process, whether it was killed or runs."""
    async with LocalCluster(nodes=2, directory=tmp_path / "c") as cluster:
        before = {node.id: node for node in cluster.nodes}
        await cluster.kill("node-1")
        await cluster.restart("node-1")
        await cluster.restart("node-0")
        after = {node.id: node for node in cluster.nodes}
        assert {name: node.address for name, node in after.items()} == {n: node.address for n, node in before.items()}
        assert {node.pid for node in after.values()}.isdisjoint({node.pid for node in before.values()})
        listed = json.loads((tmp_path / "c" / "cluster.json").read_text())["nodes"]
        assert [node["pid"] for node in listed] == [node.pid for node in cluster.nodes]
