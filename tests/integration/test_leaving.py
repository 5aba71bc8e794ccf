"""Callers who leave at any moment leave nothing behind: no slot, session, watcher, load or descriptor, and no crash.

grpc.aio reads freed memory where a call that is no more is looked at (`cachenode.rpc.guard`), so the node is a process
of its own, and must be the same one afterwards.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from grpc import aio

from cachenode_api.v1 import admin_pb2, admin_pb2_grpc, cache_pb2, cache_pb2_grpc, session_pb2_grpc
from tests.integration.floods.run import Site
from tests.integration.load import until
from tests.integration.test_floods import descriptors

CALLS, WATCHERS, SESSIONS = 100, 40, 40
CONFIG = f"""
[limits]
max_calls = {CALLS}
max_watchers = {WATCHERS}
max_sessions = {SESSIONS}
call_timeout_s = 2.0
[origins.slow]
loader = "tests.support.loaders:load"
[namespaces.slow]
origin = "slow"
"""
ACTS = 1_200


async def leave(site: Site, seed: int) -> None:
    """Do much, and leave it."""
    aim = (site.node.address, site.node.http, str(ACTS // 2), str(seed))
    leavers = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.floods.leaving", *aim, stdout=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(120):
        assert await leavers.wait() == 0
    assert site.running


async def test_who_leaves_leaves_nothing(tmp_path: Path) -> None:
    """After many calls of all services that were given up at any moment all places are free again. Scenario 51."""
    (tmp_path / "node.toml").write_text(CONFIG)
    async with Site(tmp_path, ("--config", str(tmp_path / "node.toml"), "--reflection")) as site:
        before, pid = descriptors(site.node.pid), site.node.pid
        for seed in (1, 2):
            await leave(site, seed)
        async with aio.insecure_channel(site.node.address) as channel:
            admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
            cache: Any = cache_pb2_grpc.CacheServiceStub(channel)

            async def alone() -> object:
                stats = await admin.GetStats(admin_pb2.GetStatsRequest())
                return stats.sessions == 1 and stats.near_holders == 0

            await until(alone, 20, "sessions and their leases end")

            async def free(key: bytes, namespace: str) -> object:
                answer: cache_pb2.GetOrLeaseResponse = await cache.GetOrLease(
                    cache_pb2.GetOrLeaseRequest(key=key, namespace=namespace, lease_ms=300)
                )
                return answer.token or answer.entry.version

            for namespace in ("", "slow"):
                for number in range(20):
                    assert await free(b"k%d" % number, namespace)
            await _all_places_are_free(channel, cache)
        await until(lambda: descriptors(pid) <= before + 10, 20, "connections are closed")
        await site.client.set("k1", "again")
        assert await site.client.get("k1") == "again"
        log = (tmp_path / "node-0.log").read_text()
    assert "Traceback" not in log
    assert "failed" not in {word for line in log.splitlines() for word in line.split('"') if word.endswith("_failed")}


async def _all_places_are_free(channel: aio.Channel, cache: Any) -> None:
    """Take all places for sessions, watchers and calls at once."""
    stub: Any = session_pb2_grpc.SessionServiceStub(channel)
    sessions = [stub.Session() for _ in range(SESSIONS - 1)]
    for session in sessions:
        assert (await session.read()).HasField("hello")
    watchers = [cache.Watch(cache_pb2.WatchRequest()) for _ in range(WATCHERS)]
    for watcher in watchers:
        assert await watcher.initial_metadata()
    leader = await cache.GetOrLease(cache_pb2.GetOrLeaseRequest(key=b"fresh", lease_ms=5_000))
    waiting = [cache.GetOrLease(cache_pb2.GetOrLeaseRequest(key=b"fresh")) for _ in range(CALLS - 2)]
    await cache.Fulfill(cache_pb2.FulfillRequest(key=b"fresh", value=b"v", token=leader.token))
    assert {(await call).entry.value for call in waiting} == {b"v"}
    for call in sessions + watchers:
        call.cancel()
