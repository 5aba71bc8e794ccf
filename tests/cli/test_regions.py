"""``cachenode regions``: what the nodes know together, and the links of a real node."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachenode.cli.main import app
from cachenode.cli.regions_cmd import summary
from cachenode_api.v1 import admin_pb2 as pb
from tests.support.eventually import eventually
from tests.support.redis_server import server
from tests.support.server import running_server


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["regions", *arguments])
    return result.exit_code, result.stdout + (result.stderr if result.exit_code else "")


def test_of_each_region_the_sender_knows_most() -> None:
    """Counters of all nodes are added; how far behind the region is comes from the node that sends."""
    sender = pb.RegionStats(name="west", state="connected", sending=True, lag_entries=3, lag_s=1.5, sent=7, gaps=1)
    sender.outbox, sender.head, sender.acted = "run:1", 10, 7
    first = pb.GetStatsResponse(region="east", regions=[sender], regions_owed=2)
    first.origin_regions.add(name="west", applied=4, known=1)
    second = pb.GetStatsResponse(region="east", regions=[pb.RegionStats(name="west", state="waiting", sent=5)])
    second.origin_regions.add(name="west", applied=2, gaps=1, ignored=6)
    document = summary({"node-0": first, "node-1": second})
    assert (document["region"], document["owed"]) == ("east", 2)
    [west] = document["remotes"]
    assert (west["sender"], west["state"], west["lag_entries"], west["lag_s"]) == ("node-0", "connected", 3, 1.5)
    assert (west["outbox"], west["head"], west["acted"]) == ("run:1", 10, 7)
    assert (west["told"], west["gaps_told"], west["heard"], west["heard_again"]) == (12, 1, 6, 1)
    assert (west["gaps_heard"], west["ignored"]) == (1, 6)


def test_nobody_sends() -> None:
    """It is said, with what keeps the nodes from it."""
    link = pb.RegionStats(name="west", state="no_store", why="no answer within 1 s")
    [west] = summary({"node-0": pb.GetStatsResponse(region="east", regions=[link])})["remotes"]
    assert (west["sender"], west["state"], west["why"]) == (None, "no_store", "no answer within 1 s")


async def test_link_is_shown_paused_and_resumed(tmp_path: Path) -> None:
    """On a node whose other region is away."""
    with server(tmp_path, "valkey") as redis:
        peers = "west=127.0.0.1:1"
        async with running_server(l2__url=redis.url, regions__name="east", regions__peers=peers) as node:
            at = ("-a", node.address)
            await eventually(lambda: node.stats().regions[0].state == "cut")
            code, text = await asyncio.to_thread(run, "status", "-o", "json", *at)
            assert code == 0
            [west] = json.loads(text)["remotes"]
            assert (west["name"], west["state"], west["sender"]) == ("west", "cut", "node-0")
            assert (await asyncio.to_thread(run, "pause", "west", *at))[0] == 0
            await eventually(lambda: node.stats().regions[0].state == "paused")
            code, text = await asyncio.to_thread(run, "status", *at)
            assert "This is region east." in text
            assert "paused" in text
            assert (await asyncio.to_thread(run, "resume", "west", *at))[0] == 0
            await eventually(lambda: node.stats().regions[0].state == "cut")
            code, text = await asyncio.to_thread(run, "pause", "north", *at)
            assert code == 2
            assert "there are west" in text


@pytest.mark.parametrize("command", [("status",), ("pause", "west")])
async def test_cluster_without_regions_says_so(command: tuple[str, ...]) -> None:
    """With what would make it one."""
    async with running_server() as node:
        _, text = await asyncio.to_thread(run, *command, "-a", node.address)
    assert "regions.name" in text
