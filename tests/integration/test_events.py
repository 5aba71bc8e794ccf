"""Events over several processes: wherever they are told, and whoever dies while they are acted on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from grpc import aio
from redis.asyncio import Redis

from cachenode.cli.local_cluster import LocalCluster
from cachenode_api.v1 import cache_pb2, cache_pb2_grpc
from cachenode_client import CacheClient
from cachenode_client.blocking import CacheClient as BlockingCacheClient
from tests.integration.load import until

USERS = 6
EVENTS = 400
CONFIG = """
[[event]]
name = "user.updated"
invalidates = ["user:{userId}", "user:{userId}:*"]
tags = ["team-{team}"]

[events]
stream = "happened"
"""


def arguments(folder: Path) -> list[str]:
    """Write the nodes' configuration; return their arguments."""
    (folder / "node.toml").write_text(CONFIG)
    return ["--config", str(folder / "node.toml")]


async def tell(address: str, user: int, event_id: str) -> cache_pb2.PublishEventResponse:
    """Tell one certain node that a user was updated."""
    payload = json.dumps({"userId": user, "team": user}).encode()
    async with aio.insecure_channel(address) as channel:
        request = cache_pb2.PublishEventRequest(name="user.updated", payload=payload, event_id=event_id)
        return await cache_pb2_grpc.CacheServiceStub(channel).PublishEvent(request, timeout=10)


async def test_ruled_keys_go_everywhere_and_no_others(tmp_path: Path) -> None:
    """Told at any node, an event ends what its rule names in L1, L2 and the near caches of both kinds of client.

    An id that was told to one node is known there; another node acts once more, which costs a load.
    """
    async with LocalCluster(directory=tmp_path / "c", arguments=arguments(tmp_path)) as cluster:
        blocking = BlockingCacheClient(cluster.address, near_cache=1 << 20, timeout_s=5.0)
        async with CacheClient(cluster.address, near_cache=1 << 20, timeout_s=5.0) as client:
            names = [f"user:{user}{rest}" for user in range(USERS) for rest in ("", ":cart", ":cart:1")]
            values = dict.fromkeys([*names, *(f"users:{user}" for user in range(USERS))], 1)
            await client.set_many(values)
            for user in range(USERS):
                await client.set(f"page:{user}", 1, tags=[f"team-{user}"])
                values[f"page:{user}"] = 1
            for user in range(USERS):
                assert await client.get_many(values) == values
                assert await asyncio.to_thread(blocking.get_many, list(values)) == values
                node = cluster.nodes[user % len(cluster.nodes)]
                assert not (await tell(node.address, user, f"id-{user}")).duplicate
                for key in [f"user:{user}", f"user:{user}:cart", f"user:{user}:cart:1", f"page:{user}"]:
                    del values[key]
                assert await client.get_many([*values, *names]) == values
                assert await asyncio.to_thread(blocking.get_many, [*values, *names]) == values
            await client.set("user:0", 2)
            assert (await tell(cluster.nodes[0].address, 0, "id-0")).duplicate
            assert await client.get("user:0") == 2, "the node that has done it does it once"
            assert not (await tell(cluster.nodes[1].address, 0, "id-0")).duplicate
            assert await client.get("user:0") is None, "another does it once more"
            assert await asyncio.to_thread(blocking.get, "user:0") is None
        await asyncio.to_thread(blocking.close)


async def test_stream_goes_on_when_its_consumer_dies(tmp_path: Path) -> None:
    """A node is killed with entries of the stream in its hands: another does them, and none is left out."""
    async with LocalCluster(directory=tmp_path / "c", arguments=arguments(tmp_path)) as cluster:
        redis = Redis.from_url(cluster.l2_url)
        group = f"cachenode:{cluster.name}"
        async with CacheClient(cluster.address, timeout_s=10.0) as client:
            await client.set_many({f"user:{user}": 1 for user in range(EVENTS)})
            async with redis.pipeline(transaction=False) as batch:
                for user in range(EVENTS):
                    fields = json.dumps({"userId": user, "team": user})
                    batch.xadd("happened", {"event": "user.updated", "fields": fields, "id": f"id-{user}"})
                await batch.execute()
            busy: list[str] = []

            async def somebody_is_at_it() -> bool:
                consumers = (await redis.xpending("happened", group))["consumers"]
                busy[:] = [each["name"].decode() for each in consumers]
                return bool(busy)

            await until(somebody_is_at_it, 10.0, "a consumer with entries")
            victim = next(node.id for node in cluster.nodes if any(node.id in name for name in busy))
            await cluster.kill(victim)

            async def all_done() -> bool:
                (state,) = await redis.xinfo_groups("happened")
                return (state["pending"], state["lag"]) == (0, 0)

            await until(all_done, 45.0, "nothing that waits")
            left = await client.get_many([f"user:{user}" for user in range(EVENTS)])
            assert left == {}
        await redis.aclose()
