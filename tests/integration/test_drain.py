"""Nodes are drained by the command while clients go on, as a StatefulSet's preStop hook does, and then stopped."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient
from tests.integration.load import Load, until


async def drain(address: str) -> str:
    """Run the command; return what it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cachenode", "drain", "-a", address, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_drained_nodes_cost_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No failed call and no wrong value; a drained node stays up until it is told to stop, and then ends quickly."""
    monkeypatch.setenv("CACHENODE_L2__TIMEOUT_S", "1.0")  # two busy cores; this is not about a slow L2
    async with (
        LocalCluster(nodes=3, directory=tmp_path, memory="64MiB") as cluster,
        CacheClient(cluster.address, timeout_s=5) as client,
    ):
        load = Load(client, keys=300, callers=4)
        await load.fill()
        async with load:
            for node, comes_back in zip(cluster.nodes[:2], (True, False), strict=True):
                calls = load.calls
                assert f"{node.id} has left in" in await drain(node.address)
                assert cluster._children[node.id].running
                began = time.monotonic()
                await cluster.terminate(node.id)
                assert time.monotonic() - began < 15.0, "nothing was left to do"
                if comes_back:
                    await cluster.restart(node.id)
                await until(lambda calls=calls: load.calls > calls + 200, 30, "the load goes on")
    assert load.errors == []
    assert load.wrong == 0
