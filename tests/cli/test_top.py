"""``cachenode top``: rates out of two looks, and the command against a real node."""

from __future__ import annotations

import asyncio
import json

import pytest

from cachenode.findings.rates import rates
from cachenode.server import Server
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_client import CacheClient
from tests.cli.conftest import Invoke


def node(incarnation: str = "1", **namespaces: pb.NamespaceStats) -> pb.GetStatsResponse:
    for name, space in namespaces.items():
        space.name = name
    return pb.GetStatsResponse(incarnation=incarnation, used_bytes=9, namespaces=list(namespaces.values()))


def test_rates_are_those_since_the_last_look() -> None:
    """Counters are divided by the time between; namespaces are summed over nodes, nodes over namespaces."""
    before = {"a": node(n=pb.NamespaceStats(l1_hits=100, misses=50)), "b": node(n=pb.NamespaceStats(l1_hits=10))}
    after = {
        "a": node(n=pb.NamespaceStats(l1_hits=140, misses=60, entries=3), m=pb.NamespaceStats(sets=20, entries=1)),
        "b": node(n=pb.NamespaceStats(l1_hits=12, entries=4)),
    }
    nodes, spaces = rates(before, after, 2.0)
    assert (nodes["a"].reads, nodes["a"].hits, nodes["a"].writes, nodes["a"].entries) == (25, 20, 10, 4)
    assert (spaces["n"].reads, spaces["n"].entries) == (26, 7)
    assert spaces["m"].writes == 10


def test_nodes_without_a_rate() -> None:
    """Who does not answer, or has restarted, has none: its counters began anew."""
    before = {"a": node(n=pb.NamespaceStats(l1_hits=100)), "b": None, "c": node()}
    after = {"a": node("2", n=pb.NamespaceStats(l1_hits=1)), "b": node(), "c": None}
    assert rates(before, after, 1.0) == ({}, {})


@pytest.mark.parametrize("form", ["table", "json"])
async def test_looks_at_a_real_node(server: Server, invoke: Invoke, form: str) -> None:
    """Each look is a picture, or a line of JSON, with what happened since the one before."""
    async with CacheClient(server.address, near_cache=None) as client:
        await client.set("k", 1)
        words = ["top", "--every", "0.2", "--count", "3", "-a", server.address, "-o", form]
        looking = asyncio.create_task(asyncio.to_thread(invoke, *words))
        while not looking.done():
            await client.get("k")
        result = await looking
    assert result.exit_code == 0, result.output
    if form == "table":
        assert result.output.count("reads/s  100.0% hits") == 3
        return
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert len(lines) == 3
    assert all(line["namespaces"]["default"]["l1_hits_per_s"] > 0 for line in lines)
    assert lines[-1]["namespaces"]["default"]["entries"] == 1


def test_nobody_there(invoke: Invoke) -> None:
    """A cluster that does not answer has an exit code of its own."""
    assert invoke("top", "-a", "127.0.0.1:1").exit_code == 4
