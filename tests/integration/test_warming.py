"""Warming and Bloom filters with real nodes, a real L2 and a database."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from grpc import aio

from cachenode.cli.local_cluster import LocalCluster
from cachenode_api.v1 import admin_pb2, admin_pb2_grpc
from cachenode_client import CacheClient, WarmStep
from cachenode_client.blocking import CacheClient as BlockingCacheClient
from tests.integration.test_read_through import loads

USERS = 2_000
CONFIG = """
[origins.users]
loader = "tests.support.loaders:Database"
options = {{ path = "{path}" }}
batch_keys = 100
{origin}
[namespaces.users]
origin = "users"
ttl_s = 600
{namespace}
"""


def settings(folder: Path, *, origin: str = "", namespace: str = "", users: int = USERS) -> list[str]:
    """Write a database of users and a configuration; return the nodes' arguments."""
    with closing(sqlite3.connect(folder / "db")) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        database.execute("CREATE TABLE loads (key TEXT)")
        database.executemany("INSERT INTO users VALUES (?, ?)", [(n, f"user {n}") for n in range(users)])
    text = CONFIG.format(path=folder / "db", origin=origin, namespace=namespace)
    (folder / "node.toml").write_text(text)
    return ["--config", str(folder / "node.toml")]


async def counters(addresses: list[str]) -> dict[str, int]:
    """Return the sums of the namespace's counters over the nodes."""
    sums: dict[str, int] = {}
    for address in addresses:
        async with aio.insecure_channel(address) as channel:
            answer = await admin_pb2_grpc.AdminServiceStub(channel).GetStats(admin_pb2.GetStatsRequest(), timeout=10)
            for space in answer.namespaces:
                for name in (
                    ("l1_hits", "l2_hits", "misses", "bloom_absences", "loads") if space.name == "users" else ()
                ):
                    sums[name] = sums.get(name, 0) + getattr(space, name)
    return sums


async def test_job_outlives_its_node(tmp_path: Path) -> None:
    """The node that warms two thousand keys is killed, and another goes on.

    Then nearly every read is a hit, and hardly a key was loaded twice.
    """
    arguments = settings(tmp_path)
    keys = [f"user:{n}" for n in range(USERS)]
    async with LocalCluster(nodes=3, directory=tmp_path / "c", arguments=arguments) as cluster:
        addresses = {node.id: node.address for node in cluster.nodes}
        options: dict[str, Any] = {"namespace": "users", "timeout_s": 10.0}
        async with CacheClient(",".join(addresses.values()), **options) as client:
            steps: list[WarmStep] = []
            killed = ""
            async for step in client.warm(origin=True, rate_per_s=300):
                steps.append(step)
                if not killed and step.done >= 600:
                    killed = step.node_id
                    await cluster.kill(killed)
            last = steps[-1]
            assert (last.state, last.done, last.failed, last.absent) == ("done", USERS, 0, 0)
            assert killed
            assert last.node_id not in {"", killed}
            assert len({step.job_id for step in steps}) == 1

            before = await counters([address for name, address in addresses.items() if name != killed])
            assert len(await client.get_many(keys)) == USERS
            after = await counters([address for name, address in addresses.items() if name != killed])
    hits, misses = (
        sum(after[name] - before[name] for name in names) for names in (("l1_hits", "l2_hits"), ("misses",))
    )
    print(f"hit ratio after warming: {hits / (hits + misses):.4f}")
    assert hits / (hits + misses) >= 0.99
    asked = loads(tmp_path / "db")
    assert len(asked) == USERS
    assert sum(asked.values()) <= USERS * 1.15


async def test_callers_keys_are_warmed(tmp_path: Path) -> None:
    """Both clients; a job that is left is cancelled, so the next one can begin; absent keys are told apart."""
    arguments = settings(tmp_path, users=300)
    async with LocalCluster(nodes=2, directory=tmp_path / "c", arguments=arguments) as cluster:
        options: dict[str, Any] = {"namespace": "users", "timeout_s": 10.0}
        async with CacheClient(cluster.address, **options) as client:
            async with client.warm(origin=True, rate_per_s=10) as steps:
                async for step in steps:
                    if step.done:
                        break
            first = [f"user:{n}" for n in range(100)]
            last = [step async for step in client.warm([*first, "user:-1"], rate_per_s=5_000)][-1]
            assert (last.state, last.done, last.total, last.absent) == ("done", 101, 101, 1)
            assert last.loaded + last.fresh == 100

            def all_in_threads() -> list[WarmStep]:
                with BlockingCacheClient(cluster.address, **options) as blocking, blocking.warm(origin=True) as told:
                    return list(told)

            last = (await asyncio.to_thread(all_in_threads))[-1]
            assert (last.state, last.done) == ("done", 300)
            assert last.fresh >= 100


async def test_filter_saves_the_database(tmp_path: Path) -> None:
    """Keys that do not exist are never looked for, whichever node is asked; those that do are found."""
    arguments = settings(tmp_path, namespace="bloom = true", users=500)
    async with LocalCluster(nodes=3, directory=tmp_path / "c", arguments=arguments) as cluster:
        addresses = [node.address for node in cluster.nodes]
        async with aio.insecure_channel(addresses[0]) as channel:
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            done = [step async for step in admin.RebuildBloom(admin_pb2.RebuildBloomRequest(namespace="users"))]
            assert (done[-1].stage, done[-1].keys) == ("done", 500)
        async with CacheClient(",".join(addresses), namespace="users", timeout_s=10) as client:
            absent = [f"user:{n}" for n in range(10_000, 11_000)]
            assert await client.get_many(absent) == {}
            assert await client.get("user:7") == {"id": 7, "name": "user 7"}
            await client.set("user:10000", "written")
            assert await client.get("user:10000") == "written"
        found = await counters(addresses)
        print(f"answered by the filter: {found['bloom_absences']} of {len(absent)}")
        assert found["bloom_absences"] >= 950
        assert sum(loads(tmp_path / "db").values()) <= 51
