"""Nodes are drained by the command while clients go on, as a StatefulSet's preStop hook does, and then stopped."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient
from tests.integration.load import Load, until
from tests.integration.write_behind.site import NAMESPACE, Site, Writer, out_of_order, site


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


async def run_drain(here: Site, node: str, flush: str) -> tuple[list[dict[str, Any]], str]:
    """Drain a node with the command; return the steps that it tells, and the sentence that another call ends with."""
    words = (sys.executable, "-m", "cachenode", "drain", "-a", here.cluster.address, "--node", node)
    process = await asyncio.create_subprocess_exec(
        *words, "--flush", flush, "-o", "json", stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    again = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    said, _ = await again.communicate()
    assert again.returncode == 0
    return [json.loads(line) for line in told.decode().splitlines()], said.decode()


async def test_backlog_of_a_node_that_leaves(tmp_path: Path) -> None:
    """While the origin is slow the node waits until what it has to write is there; when it is down the others write it.

    What waits is told while it lasts, and at the end; the command ends well, for nothing is lost: the queue has it.
    """
    async with (
        site(tmp_path, nodes=3) as here,
        CacheClient(here.cluster.address, namespace=NAMESPACE, timeout_s=20) as client,
    ):
        writer = Writer(client, [f"k{number}" for number in range(200)])
        here.say("down")
        await writer.write_many(200)
        here.say("slow")
        here.say("down", said=False)
        steps, said = await run_drain(here, "node-0", "60s")
        flushing = [step["unwritten"] for step in steps if step["stage"] == "flushing"]
        assert flushing[0] > 0, "there was something to wait for"
        assert (steps[-1]["stage"], steps[-1]["unwritten"], steps[-1]["unfinished"]) == ("done", 0, [])
        assert "queued writes" not in said
        await here.cluster.terminate("node-0")

        here.say("down")
        await writer.write_many(200)
        waiting = await here.waiting()
        steps, said = await run_drain(here, "node-1", "1s")
        assert steps[-1]["stage"] == "done"
        assert 0 < steps[-1]["unwritten"] <= waiting
        assert "queued writes stay in the queue, for the other nodes" in said
        await here.cluster.terminate("node-1")
        assert await here.waiting() == waiting

        here.say("down", said=False)
        here.say("slow", said=False)
        await here.drained(60.0)
        assert writer.lost(here.rows()) == []
        assert out_of_order(here.done()) == 0
